"""Models of ours as generators for data work: the same texts as the code that they stand for gives."""

from __future__ import annotations

from pathlib import Path

import pytest

from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput
from mojiang.core.protocols import open_generator
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data.examples import Examples
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.generate._seq2seq import translate_tokens
from mojiang.model.load import load_model
from mojiang.tokenizer.bpe import BPE
from mojiang.tokenizer.load import load_tokenizer
from mojiang.tokenizer.wordpiece import WordPiece
from mojiang.train._pairs import framed
from mojiang.train.classify import Classify
from mojiang.train.seq2seq import Seq2Seq

FIXTURES = Path(__file__).parents[1] / "fixtures"


def _make(store: Store, recipe: Recipe) -> Path:
    circumstance = Circumstance(engine=LocalEngine(workers=1), device="cpu")
    return execute(recipe, store, circumstance=circumstance).artifact.path


@pytest.mark.parametrize("architecture", ["gru", "transformer"])
def test_an_encoder_decoder_writes_what_training_measures(store: Store, architecture: str) -> None:
    _make(store, Load(source=str(FIXTURES / "zh")))
    _make(store, Split(data="load", validation=0.1, test=0.1, min_bytes=1000))
    _make(store, WordPiece(data="split", vocab_size=400))
    _make(store, Examples(source=str(FIXTURES / "pairs"), form="pairs"))
    recipe = Seq2Seq.model_validate(
        {"data": "examples", "tokenizer": "wordpiece", "architecture": architecture, "width": 16, "steps": 3,
         "batch_size": 8, "written": 3, "context": 16}
    )  # fmt: skip
    path = _make(store, recipe)
    texts = ["three red apples", "两只猫", "one"]
    written = open_generator(path, "cpu").generate(texts, max_tokens=8, temperature=0.0, seed=0)
    model, tokenizer = load_model(path), load_tokenizer(path)
    sources = [framed(tokenizer, text, int(model.config.eos_token_id), 16)[0] for text in texts]
    expected = translate_tokens(model, sources, 8)  # type: ignore[arg-type]
    assert written == [tokenizer.decode(tokens).strip() for tokens in expected]


def test_a_model_that_writes_nothing_is_refused(store: Store) -> None:
    columns = {"text": "review", "label": "stars"}
    _make(store, Examples(source=str(FIXTURES / "examples"), form="labelled", columns=columns))
    _make(store, Load(source=str(FIXTURES / "zh")))
    _make(store, Split(data="load", validation=0.1, test=0.1, min_bytes=1000))
    _make(store, BPE(data="split", vocab_size=600))
    recipe = Classify.model_validate(
        {"data": "examples", "tokenizer": "bpe", "architecture": "textcnn", "width": 16, "steps": 2, "batch_size": 8}
    )
    with pytest.raises(BadInput, match="writes no text"):
        open_generator(_make(store, recipe), "cpu")
