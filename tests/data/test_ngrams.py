"""N-grams: what is ruled out for many texts at once is never what counting them one by one finds."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mojiang.data._ngrams import _LONG, NOT_KNOWN, Calm, repeated_ngrams, rule_out, top_ngram

TOP, REPEATED = {2: 0.20, 3: 0.18, 4: 0.16}, {5: 0.15, 6: 0.14, 10: 0.10}
token = st.sampled_from(["a", "b", "to", "day", "today", "x" * 30, "你", "好", "，", "\ud800"])


def breaks(text: str, tokens: list[str], space: str) -> tuple[bool, bool]:
    size = max(1, len(text))
    return (
        any(top_ngram(tokens, n, space) / size > share for n, share in TOP.items()),
        any(repeated_ngrams(tokens, n) / size > share for n, share in REPEATED.items()),
    )


@settings(deadline=None)
@given(st.lists(st.lists(token, max_size=60), max_size=8), st.sampled_from([" ", ""]))
def test_a_text_that_breaks_a_rule_is_never_calm(documents: list[list[str]], space: str) -> None:
    texts = [space.join(tokens) for tokens in documents]
    found = rule_out(list(map(len, texts)), documents, TOP, REPEATED, space)
    assert len(found) == len(texts)
    for text, tokens, calm in zip(texts, documents, found, strict=True):
        top, repeated = breaks(text, tokens, space)
        assert not (calm.top and top), (calm, tokens)
        assert not (calm.repeated and repeated), (calm, tokens)


def test_ordinary_prose_is_ruled_out_in_blocks_of_any_size(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=draw.randint(2, 9))) for _ in range(3000)]
    documents = [draw.choices(words, k=300) for _ in range(40)] + [["again", "and", "again"] * 50]
    sizes = [len(" ".join(tokens)) for tokens in documents]
    whole = rule_out(sizes, documents, TOP, REPEATED, " ")
    assert whole[:-1] == [Calm(True, True)] * 40
    assert whole[-1] == Calm(False, False)
    monkeypatch.setattr("mojiang.data._ngrams._BLOCK", 100)
    assert rule_out(sizes, documents, TOP, REPEATED, " ") == whole


def test_a_word_longer_than_a_key_has_bits_for_is_counted() -> None:
    tokens = ["w" * _LONG, "some", "other", "words", "that", "are", "not", "there", "twice"]
    assert not rule_out([2 * _LONG], [tokens], {2: 0.9}, {}, " ")[0].top
    assert rule_out([8], [["a"]], {0: 0.1}, {}, " ") == [NOT_KNOWN]  # no n-gram has no word
