"""tokenizer.char: one token a character, exact where the alphabet reaches, the same ids as transformers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data._documents import iter_texts
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.tokenizer.char import Char
from mojiang.tokenizer.load import load_tokenizer

Make = Callable[[Recipe], Artifact]


@pytest.fixture
def make(store: Store) -> Make:
    return lambda recipe: execute(recipe, store, circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact


@pytest.fixture
def split(make: Make, texts: Path) -> Artifact:
    return make(Split(data=make(Load(source=str(texts))).ref, validation=0.1))


def test_a_token_is_a_character_and_known_text_comes_back(make: Make, split: Artifact) -> None:
    made = make(Char(data=split.ref, coverage=1.0))
    tokenizer = load_tokenizer(made.path)
    for text in list(iter_texts(split.path, "train"))[:20]:
        ids = tokenizer.encode(text)
        assert len(ids) == len(text)
        assert tokenizer.decode(ids) == text
        assert [tokenizer.token(id) for id in ids] == list(text)


def test_its_alphabet_is_what_counting_says(make: Make, split: Artifact) -> None:
    made = make(Char(data=split.ref, coverage=1.0))
    letters = {letter for text in iter_texts(split.path, "train") for letter in text}
    vocab = json.loads((made.path / "tokenizer.json").read_text())["model"]["vocab"]
    assert {token for token in vocab if len(token) == 1} == letters
    assert len(vocab) == len(letters) + 8  # seven special tokens, and <unk>


def test_rare_characters_are_unknown_and_counted(make: Make, split: Artifact) -> None:
    made = make(Char(data=split.ref, coverage=0.95))
    tokenizer = load_tokenizer(made.path)
    assert made.metrics["unknown_share"] == pytest.approx(0.05, abs=0.04)
    assert tokenizer.encode("\U0001f9ff") == [tokenizer.unk_id]


def test_transformers_gives_the_same_ids(make: Make, split: Artifact) -> None:
    from transformers import AutoTokenizer

    made = make(Char(data=split.ref, coverage=1.0))
    ours, theirs = load_tokenizer(made.path), AutoTokenizer.from_pretrained(str(made.path))
    text = next(iter_texts(split.path, "validation"))[:3000]
    assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    chat = [{"role": "user", "content": "Hi"}]
    rendered = theirs.apply_chat_template(chat, add_generation_prompt=True, return_dict=False)
    assert ours.render_chat(chat, add_generation_prompt=True) == rendered


def test_what_looks_special_in_a_text_is_only_text(make: Make, split: Artifact) -> None:
    tokenizer = load_tokenizer(make(Char(data=split.ref, coverage=1.0)).path)
    ids = tokenizer.encode("<|im_end|>")
    assert not set(ids) & (tokenizer.special_ids - {tokenizer.unk_id})
