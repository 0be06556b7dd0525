"""The one decoder: what is wrong is named, and nothing falls away silently."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from mojiang.core.config import Config, canonical, closest, decode, digest, parse_yaml, read_yaml
from mojiang.core.errors import BadUsage, NotFound


class Inner(Config):
    """Nested."""

    size: int = 1


class Outer(Config):
    """A config."""

    rate: float = Field(0.1, gt=0)
    inner: Inner = Inner()


def test_every_mistake_is_named_at_once() -> None:
    with pytest.raises(BadUsage) as caught:
        decode(Outer, {"rate": -1, "inner": {"sizes": 2}, "raet": 1}, "here")
    message, hint = caught.value.message, caught.value.hint
    assert message.startswith("here: ")
    for part in ("rate: Input should be greater than 0 (got -1)", "unknown key 'inner.sizes'", "unknown key 'raet'"):
        assert part in message
    assert "'size'" in hint
    assert "'rate'" in hint


def test_values_from_text_are_read_as_numbers() -> None:
    assert decode(Outer, {"rate": "3e-4", "inner": {"size": "7"}}, "cli") == Outer(rate=3e-4, inner=Inner(size=7))


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(st.dictionaries(st.text(), json_values))
def test_canonical_json_means_the_same_and_ignores_order(value: dict[str, object]) -> None:
    assert json.loads(canonical(value)) == value
    backwards = dict(reversed(value.items()))
    assert digest(backwards) == digest(value) == hashlib.sha256(canonical(value).encode()).hexdigest()


def test_on_and_no_are_words() -> None:
    assert parse_yaml("{a: on, b: no, c: true, d: False, e: null, f: 1.5}") == {
        "a": "on", "b": "no", "c": True, "d": False, "e": None, "f": 1.5,
    }  # fmt: skip


def test_closest() -> None:
    assert closest("tokenizr", ["tokenizer", "train"]) == "did you mean 'tokenizer'?"
    assert closest("zzz", ["b", "a"]) == "known: a, b"


@pytest.mark.parametrize(
    ("content", "error", "said"),
    [
        (b"a: [1", BadUsage, "not valid YAML"),
        (b"- 1", BadUsage, "holds list"),
        (b"\xff\xfe\x00", BadUsage, "cannot be read"),
        (None, NotFound, "no file"),
    ],
)
def test_a_bad_yaml_file(tmp_path: Path, content: bytes | None, error: type[Exception], said: str) -> None:
    path = tmp_path / "x.yaml"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(error, match=said):
        read_yaml(path)
