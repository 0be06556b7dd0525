from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mojiang.generate._detokenize import Detokenizer


class Bytes:
    """One token per byte: every character of Chinese is split."""

    def decode(self, ids: Any) -> str:
        return bytes(ids).decode("utf-8", "replace")


def pieces(decoder: Any, ids: list[int]) -> list[str]:
    detokenizer = Detokenizer(decoder)
    return [*(detokenizer.push(i) for i in ids), detokenizer.flush()]


@given(st.text())
def test_never_half_a_character(text: str) -> None:
    out = pieces(Bytes(), list(text.encode("utf-8", "replace")))
    text = text.encode("utf-8", "replace").decode()
    assert "".join(out) == text
    assert all("\ufffd" not in piece for piece in out) or "\ufffd" in text


@given(st.binary(max_size=40))
def test_any_bytes_join_to_the_whole(raw: bytes) -> None:
    assert "".join(pieces(Bytes(), list(raw))) == raw.decode("utf-8", "replace")


@given(data=st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_a_real_tokenizer(tokenizer: Any, data: st.DataObject) -> None:
    ids = data.draw(st.lists(st.integers(0, tokenizer.vocab_size - 1), max_size=40))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_ascii_is_not_delayed() -> None:
    assert pieces(Bytes(), list(b"abc")) == ["a", "b", "c", ""]
