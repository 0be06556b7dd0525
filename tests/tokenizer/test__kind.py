"""What tokens of every kind stand for, where words begin, and that text stays text."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mojiang.core.errors import BadInput
from mojiang.tokenizer._kind import spelled
from mojiang.tokenizer.load import Tokenizer, load_tokenizer

KINDS = ["gpt2", "llama3", "llama2", "mistral", "bert", "t5"]
kinds = pytest.mark.parametrize("kind", KINDS)


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, Tokenizer]:
    return {kind: load_tokenizer(folder) for kind, folder in folders.items()}


@pytest.fixture(scope="module")
def peers(folders: dict[str, Path]) -> dict[str, Any]:
    from transformers import AutoTokenizer

    return {kind: AutoTokenizer.from_pretrained(str(folder)) for kind, folder in folders.items()}


@kinds
def test_ids_texts_and_offsets_are_those_of_transformers(
    kind: str, loaded: dict[str, Tokenizer], peers: dict[str, Any], texts_of_all_kinds: list[str]
) -> None:
    tokenizer, peer = loaded[kind], peers[kind]
    for text in texts_of_all_kinds:
        theirs = peer(text, add_special_tokens=False, return_offsets_mapping=True)
        assert tokenizer.encode_with_offsets(text) == (theirs.input_ids, theirs.offset_mapping)
        assert tokenizer.encode_batch([text, text]) == [theirs.input_ids] * 2
        assert tokenizer.decode(theirs.input_ids) == peer.decode(theirs.input_ids, skip_special_tokens=True)
    assert tokenizer.vocab_size == len(peer)


@kinds
def test_what_users_write_never_becomes_a_special_token(
    kind: str, loaded: dict[str, Tokenizer], control: dict[str, list[str]]
) -> None:
    tokenizer = loaded[kind]
    unknown = {tokenizer.special_id("unk")} if kind in ("bert", "t5") else set()
    for token in control[kind]:
        for text in (f"before {token} after{token}", token, f"{token}{token}", f"字{token}字"):
            ids, offsets = tokenizer.encode_with_offsets(text)
            assert not (tokenizer.special_ids - unknown) & set(ids)
            assert tokenizer.encode_batch([text]) == [ids]
            assert set(range(len(text))) - {at for start, stop in offsets for at in range(start, stop)} <= {
                at for at, letter in enumerate(text) if letter == " "
            }, "no character is lost"
            assert [max(offset) for offset in offsets] == sorted(max(offset) for offset in offsets)
            if kind not in ("bert", "t5"):
                assert tokenizer.decode(ids).strip() == text


def test_a_piece_of_the_vocabulary_that_is_special_is_not_found_in_text(loaded: dict[str, Tokenizer]) -> None:
    """Unigram looks pieces up whole: the library itself makes </s> of these four characters."""
    tokenizer = loaded["t5"]
    raw = tokenizer._tokenizer.encode("a</s>b", add_special_tokens=False).ids
    assert tokenizer.eos_id in raw
    assert tokenizer.eos_id not in tokenizer.encode("a</s>b")


def test_what_only_normalisation_makes_a_special_token_of_is_refused(loaded: dict[str, Tokenizer]) -> None:
    with pytest.raises(BadInput, match="makes its special token '</s>' of the text '＜/s＞'"):
        loaded["t5"].encode("a＜/s＞b")


@given(st.text())
@settings(max_examples=150, deadline=None)
def test_bytes_of_byte_level_tokens_join_to_the_text(loaded: dict[str, Tokenizer], text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    for kind in ("gpt2", "llama3"):
        tokenizer = loaded[kind]
        ids = tokenizer.encode(text)
        assert b"".join(tokenizer.token_bytes[id] for id in ids) == text.encode()
        assert tokenizer.byte_length(ids) == len(text.encode())
    for kind in ("llama2", "mistral"):  # these put a space before the text and have bytes for what they lack
        tokenizer = loaded[kind]
        joined = b"".join(tokenizer.token_bytes[id] for id in tokenizer.encode(text))
        assert joined.decode() == (f" {text}" if text and (kind == "llama2" or text[0] != " ") else text)


def test_bytes_of_the_other_kinds() -> None:
    assert [spelled(token, "metaspace") for token in ("▁the", "the", "<0xE4>", "▁")] == [b" the", b"the", b"\xe4", b" "]
    assert [spelled(token, "wordpiece") for token in ("the", "##ing", "字")] == [b"the", b"ing", "字".encode()]


@kinds
def test_special_tokens_have_no_bytes(kind: str, loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded[kind]
    assert {tokenizer.byte_lengths[id] for id in tokenizer.special_ids} == {0}
    assert min(n for id, n in enumerate(tokenizer.byte_lengths) if id not in tokenizer.special_ids) > 0


@pytest.mark.parametrize("kind", ["gpt2", "bert"])
def test_words_begin_where_the_pre_tokenizer_cuts(
    kind: str, loaded: dict[str, Tokenizer], peers: dict[str, Any]
) -> None:
    text = "The tokenizers' weather (in Paris) is unbelievable, 12 times; internationalisation_of 3 words."
    encoding = peers[kind](text, add_special_tokens=False)
    words = encoding.word_ids()
    expected = [number == 0 or words[number] != words[number - 1] for number in range(len(words))]
    assert loaded[kind].word_starts(encoding.input_ids) == expected
    assert not all(expected)


@kinds
def test_every_chinese_character_is_a_word(kind: str, loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded[kind]
    text = "训练语言模型abc，好"
    ids, offsets = tokenizer.encode_with_offsets(text)
    starts = {offset[0] for offset, start in zip(offsets, tokenizer.word_starts(ids), strict=True) if start}
    assert {0, 1, 2, 3, 4, 5, 6, 9, 10} >= starts
    assert len(starts) == len({offset[0] for offset in offsets} - {7, 8})


@pytest.mark.parametrize("kind", ["bert", "t5", "mistral", "llama2"])
def test_words_given_are_those_of_transformers(kind: str, loaded: dict[str, Tokenizer], peers: dict[str, Any]) -> None:
    words = ["The", "unbelievable", "weather", ",", "在", "巴黎", "U.S.", "today"]
    theirs = peers[kind](words, is_split_into_words=True, add_special_tokens=False)
    assert loaded[kind].encode_words(words) == (theirs.input_ids, theirs.word_ids())


def test_words_of_byte_level_tokenizers_stand_after_a_space(loaded: dict[str, Tokenizer]) -> None:
    tokenizer = loaded["gpt2"]
    words = ["The", "unbelievable", "weather", ",", "在", "today"]
    ids, numbers = tokenizer.encode_words(words)
    assert ids == tokenizer.encode(" " + " ".join(words))
    assert [tokenizer.decode(i for i, n in zip(ids, numbers, strict=True) if n == k).strip() for k in range(6)] == words


def test_words_hold_no_special_token_and_may_vanish(loaded: dict[str, Tokenizer]) -> None:
    assert loaded["bert"].encode_words(["a", "\u200b", "b"])[1] == [0, 2]
    ids, numbers = loaded["t5"].encode_words(["a", "</s>", "b"])
    assert loaded["t5"].eos_id not in ids
    assert sorted(set(numbers)) == [0, 1, 2]


def test_only_byte_level_tokenizers_take_a_word_back(loaded: dict[str, Tokenizer]) -> None:
    ids, word = loaded["gpt2"].heal("The weather")
    assert (loaded["gpt2"].decode(ids), word) == ("The", " weather")
    assert loaded["llama2"].heal("The weather") == (loaded["llama2"].encode("The weather"), "")
