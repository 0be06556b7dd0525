"""One text or two with the special tokens around them, against `transformers` and `tokenizers`."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import processors

from mojiang.core.errors import BadInput
from mojiang.tokenizer._frame import longest_first
from mojiang.tokenizer.load import Tokenizer, load_tokenizer

PAIRS = [
    ("The weather in Paris", "is nice today, 不是吗？"),
    ("a", "The weather " * 9),
    ("weather " * 9, "b"),
    ("", "x"),
]


@pytest.fixture(scope="module")
def loaded(folders: dict[str, Path]) -> dict[str, tuple[Tokenizer, Any]]:
    from transformers import AutoTokenizer

    return {k: (load_tokenizer(path), AutoTokenizer.from_pretrained(str(path))) for k, path in folders.items()}


@pytest.mark.parametrize("kind", ["gpt2", "llama3", "llama2", "mistral", "bert", "t5"])
@pytest.mark.parametrize("most", [8, 13, 512])
def test_pairs_are_those_of_transformers(kind: str, most: int, loaded: dict[str, tuple[Tokenizer, Any]]) -> None:
    tokenizer, peer = loaded[kind]
    for a, b in PAIRS:
        for second in (None, b):
            theirs = peer(a, second, truncation=True, max_length=most, return_token_type_ids=True)
            ids, segments = tokenizer.encode_pair(a, second, most)
            assert ids == theirs.input_ids
            assert segments == theirs.token_type_ids


def test_roberta_frames_too(folders: dict[str, Path]) -> None:
    """RoBERTa's own post-processor: two separators between the texts, segments all zero."""
    from tokenizers import Tokenizer as Raw

    raw = Raw.from_file(str(folders["gpt2"] / "tokenizer.json"))
    raw.add_special_tokens(["<s>", "</s>"])
    raw.post_processor = processors.RobertaProcessing(
        ("</s>", raw.token_to_id("</s>")), ("<s>", raw.token_to_id("<s>"))
    )
    tokenizer = Tokenizer(raw, None)
    ids, segments = tokenizer.encode_pair("The weather", "in Paris", 64)
    theirs = raw.encode("The weather", "in Paris")
    assert (ids, segments) == (theirs.ids, theirs.type_ids)
    assert tokenizer.frame_size(True) == 4
    assert tokenizer.frame_start(True) == 1


@given(st.integers(0, 40), st.integers(0, 40), st.integers(0, 60))
@settings(max_examples=300)
def test_the_longer_text_loses_first(a: int, b: int, room: int) -> None:
    kept = longest_first(a, b, room)
    assert sum(kept) == min(room, a + b)
    assert kept[0] <= a
    assert kept[1] <= b
    if sum(kept) < a + b:
        cut_first, cut_second = a - kept[0], b - kept[1]
        assert not cut_first or kept[0] >= kept[1] - 1
        assert not cut_second or kept[1] >= kept[0] - 1


def test_a_pair_needs_room_for_its_frame(loaded: dict[str, tuple[Tokenizer, Any]]) -> None:
    assert loaded["bert"][0].encode_pair("weather", "weather", 3) == ([2, 3, 3], [0, 0, 1])
    with pytest.raises(BadInput, match="2 tokens have no room for the 3 special ones"):
        loaded["bert"][0].encode_pair("a", "b", 2)


def test_a_tokenizer_may_not_be_larger_than_its_model(loaded: dict[str, tuple[Tokenizer, Any]]) -> None:
    tokenizer = loaded["bert"][0]
    tokenizer.check_fits(tokenizer.vocab_size)
    with pytest.raises(BadInput, match=f"has {tokenizer.vocab_size} ids .* the model embeds 100"):
        tokenizer.check_fits(100)


@pytest.mark.parametrize("flags", [(True, True), (False, True), (True, False), (False, False)])
def test_the_frame_is_that_of_tokenizer_json_whatever_the_config_says(
    folders: dict[str, Path], tmp_path: Path, flags: tuple[bool, bool]
) -> None:
    from transformers import AutoTokenizer

    shutil.copytree(folders["mistral"], tmp_path, dirs_exist_ok=True)
    config = json.loads((tmp_path / "tokenizer_config.json").read_text())
    config |= dict(zip(("add_bos_token", "add_eos_token"), flags, strict=True))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config))
    tokenizer, peer = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(str(tmp_path))
    for b in (None, "in Paris"):
        theirs = peer("The weather", b, return_token_type_ids=True)
        assert tokenizer.encode_pair("The weather", b, 99) == (theirs.input_ids, theirs.token_type_ids)
