"""tokenizer.wordpiece end to end: BERT's way of cutting, as `transformers` does it, repeatable."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.recipe import Recipe
from mojiang.core.report import Report
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data._documents import iter_texts
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.tokenizer.load import load_tokenizer
from mojiang.tokenizer.wordpiece import SPECIAL_TOKENS, WordPiece

Make = Callable[[Recipe], Artifact]


@pytest.fixture
def make(store: Store) -> Make:
    return lambda recipe: execute(recipe, store, circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact


@pytest.fixture
def split(make: Make, texts: Path) -> Artifact:
    return make(Split(data=make(Load(source=str(texts))).ref, validation=0.1))


def test_it_cuts_and_frames_like_bert(make: Make, split: Artifact) -> None:
    from transformers import AutoTokenizer, BertTokenizer

    made = make(WordPiece(data=split.ref, vocab_size=1500))
    tokenizer = load_tokenizer(made.path)
    vocab = tokenizer._tokenizer.get_vocab()
    peers = [AutoTokenizer.from_pretrained(str(made.path)), BertTokenizer(vocab=vocab, do_lower_case=True)]
    held_out = [
        *list(iter_texts(split.path, "validation"))[:20],
        "Café, NAÏVE 12,5! 春眠不觉晓，处处闻啼鸟。 unbelievable",
    ]
    for text in held_out:
        for peer in peers:
            theirs = peer(text[:400], "why?", truncation=True, max_length=64)
            assert tokenizer.encode_pair(text[:400], "why?", 64) == (theirs.input_ids, theirs.token_type_ids)
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == [0, 1, 2, 3, 4]
    roles = (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id)
    assert roles == (0, 1, 2, 3, 4)
    assert tokenizer.vocab_size == made.metrics["vocab_size"] == 1500


def test_words_of_known_letters_are_always_written(make: Make, split: Artifact) -> None:
    made = make(WordPiece(data=split.ref, vocab_size=800))
    tokenizer = load_tokenizer(made.path)
    assert tokenizer.unk_id not in tokenizer.encode("zzyzx qqq jjxkw 1234567890 x=y+(z)")
    assert tokenizer.encode("䶵 thing")[0] == tokenizer.unk_id
    assert 0 <= float(made.metrics["unknown_share"]) < 0.05
    assert made.metrics["alphabet"] <= 397
    assert tokenizer.decode(tokenizer.encode("Unbelievable things, happening!")) == "unbelievable things, happening!"
    assert tokenizer.encode("训练abc")[:2] == [tokenizer.encode("训")[0], tokenizer.encode("练")[0]]
    report = Report.load(made.path)
    assert report.findings == []
    assert "unknown" in report.verdict


def test_case_is_kept_where_it_should(make: Make, split: Artifact) -> None:
    tokenizer = load_tokenizer(make(WordPiece(data=split.ref, vocab_size=800, lowercase=False)).path)
    assert tokenizer.decode(tokenizer.encode("Return Self")) == "Return Self"


def test_the_same_corpus_gives_the_same_bytes(make: Make, split: Artifact) -> None:
    """The library alone numbers the letters inside words by a hash table, and two runs differ."""
    one, other = (make(WordPiece(data=split.ref, vocab_size=700, max_sample_bytes=n)) for n in (10**8, 10**8 + 1))
    assert one.ref != other.ref
    assert (one.path / "tokenizer.json").read_bytes() == (other.path / "tokenizer.json").read_bytes()
    spec = json.loads((one.path / "tokenizer.json").read_text())
    assert sorted(spec["model"]["vocab"].values()) == list(range(700))
