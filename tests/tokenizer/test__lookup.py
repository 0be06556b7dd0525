"""Ids part by part are the ids of the whole text, whatever it is and whatever was looked up before."""

from __future__ import annotations

import json
from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.tokenizer.conftest import CORPUS
from tokenizers import Tokenizer as Bare
from tokenizers import pre_tokenizers, trainers

from mojiang.tokenizer import _lookup
from mojiang.tokenizer._format import PATTERN, SPECIAL_TOKENS, empty_tokenizer
from mojiang.tokenizer._lookup import Lookup, applies, parts_of
from mojiang.tokenizer.load import Tokenizer


def trained() -> Bare:
    bare = empty_tokenizer()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bare.train_from_iterator(
        CORPUS,
        trainers.BpeTrainer(
            vocab_size=900, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
        ),
    )
    return bare


BARE = trained()
OURS = Tokenizer(Bare.from_str(BARE.to_str()))
# What the pattern looks at: letters of scripts, marks, digits, quotes, and every kind of white space.
pieces = st.sampled_from(
    ["a", "Zb", "user\n", "'s", "'S", "'", "中", "文字", "é", "e\u0301", "٣", "12", "3456", ".", "_", "):", "…", "“"]
    + [" ", "  ", "\n", "\r\n", "\t", "\x0b", "\x1c", "\x1f", "\x85", "\xa0", "\u180e", "\u200b", "\u2028", "\u3000"]
    + ["\ufeff", "<|endoftext|>", "<|im_end|>", "👨‍👩‍👧", "\x00", "\r"]
)


def bare_ids(text: str) -> list[int]:
    BARE.encode_special_tokens = True
    return list(BARE.encode(text, add_special_tokens=False).ids)


@settings(deadline=None, max_examples=400)
@given(st.lists(st.one_of(pieces, st.text(max_size=6)), max_size=24).map("".join))
def test_ids_are_those_of_the_library(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert OURS.encode_batch([text, f"{text} {text}"]) == [bare_ids(text), bare_ids(f"{text} {text}")]
    assert "".join(parts_of(text)) == text


@settings(deadline=None, max_examples=400)
@given(st.lists(st.one_of(pieces, st.text("ab1.\n\t ", max_size=6)), max_size=24).map("".join))
def test_the_quick_cut_is_the_search(text: str) -> None:
    assert _lookup._cut(text) == _lookup._CUT.split(text)


def lookup_of(asked: list[str]) -> Lookup:
    """One that writes down the parts it asks for."""
    specials = [token for token in SPECIAL_TOKENS if BARE.token_to_id(token) is not None]
    marked = Bare.from_str(BARE.to_str())
    marked.encode_special_tokens = False

    def encode(texts: Sequence[str]) -> list[list[int]]:
        asked.extend(texts)
        return [bare_ids(text) for text in texts]

    def encode_marked(texts: Sequence[str]) -> list[list[int]]:
        asked.extend(part for text in texts for part in text.split(specials[0]))
        return [list(marked.encode(text, add_special_tokens=False).ids) for text in texts]

    return Lookup(encode, encode_marked, specials, marked.token_to_id(specials[0]))


def ids_of(lookup: Lookup, texts: Sequence[str]) -> list[list[int]]:
    return [ids.tolist() for ids in lookup.encode_batch(texts)]


def test_real_texts_are_cut_into_short_parts_and_known_ones_are_not_asked_again() -> None:
    asked: list[str] = []
    lookup = lookup_of(asked)
    for _ in range(2):
        assert ids_of(lookup, CORPUS) == [bare_ids(text) for text in CORPUS]
    short = [part for part in asked if len(part) <= _lookup.LONGEST]
    assert len(short) == len(set(short))  # a long one is not kept, and asked for again
    assert len(asked) < 0.5 * sum(len(text) for text in CORPUS) / 6


def test_the_memory_has_a_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lookup, "MOST", 5)
    lookup = lookup_of([])
    for number in range(20):
        text = f"one {number} two {'long' * 30} three"
        assert ids_of(lookup, [text]) == [bare_ids(text)]
        assert len(lookup._known) <= 5 + 4


def test_where_most_is_new_the_text_is_left_whole_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_lookup, "FIRST", 0)
    asked: list[str] = []
    lookup = lookup_of(asked)
    for number in range(2 * _lookup.WHOLE + 3):
        text = "".join(chr(0x4E00 + 97 * number + n) for n in range(60)) + " 天下 太平"
        asked.clear()
        assert ids_of(lookup, [text]) == [bare_ids(text)]
        tried = number in (0, 1, _lookup.WHOLE + 2)  # nothing is known before the first
        assert (asked == [text]) == (not tried), number


def test_only_a_tokenizer_that_cuts_like_ours_is_looked_up() -> None:
    spec = json.loads(BARE.to_str())
    assert applies(spec, PATTERN)
    for change in (
        {"normalizer": {"type": "NFC"}},
        {"pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}},
        {"model": {**spec["model"], "dropout": 0.1}},
        {"added_tokens": [{**spec["added_tokens"][0], "special": False}]},
        {"added_tokens": [{**spec["added_tokens"][0], "rstrip": True}]},
    ):
        assert not applies({**spec, **change}, PATTERN), change
