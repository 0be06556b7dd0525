"""Word vectors from text files of every usual shape."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from mojiang.core.errors import BadInput, NotFound
from mojiang.core.store import Store
from mojiang.text._vectors import load_vectors, read_text_vectors
from mojiang.text.load import Load

LINES = "the 0.1 0.2 0.3\n水 1 2 3\n1984 4 5 6\nNew York 7 8 9\n"


@pytest.mark.parametrize("header", ["", "4 3\n"], ids=["glove", "word2vec"])
@pytest.mark.parametrize("name", ["a.txt", "a.vec.gz"])
def test_words_and_numbers(header: str, name: str, tmp_path: Path) -> None:
    data = (header + LINES).encode()
    (tmp_path / name).write_bytes(gzip.compress(data) if name.endswith("gz") else data)
    vectors, left = read_text_vectors(tmp_path / name)
    assert vectors.words == ["the", "水", "1984", "New York"]
    np.testing.assert_allclose(vectors.vectors_VD, [[0.1, 0.2, 0.3], [1, 2, 3], [4, 5, 6], [7, 8, 9]])
    assert not left


def test_lines_that_are_none_are_counted(store: Store, tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text(LINES + "broken 1 x 3\nshort 1\nthe 9 9 9\nnan nan 1 2\n", encoding="utf-8")
    vectors, left = read_text_vectors(path)
    assert left == {"no vector": 3, "same word": 1}
    assert vectors["the"][0] == pytest.approx(0.1)
    made = Load(source=str(path), max_words=2).execute(store, name="loaded")
    assert load_vectors(made.path).words == ["the", "水"]
    assert made.metrics["size"] == 3
    path.write_text("7 3\n" + LINES, encoding="utf-8")
    assert Load(source=str(path), max_words=2).execute(store).fingerprint != made.fingerprint


def test_what_cannot_be_used_is_said(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="no file"):
        Load(source=str(tmp_path / "none.txt")).execute(store)
    (tmp_path / "text.txt").write_text("only words here\nand here\n", encoding="utf-8")
    with pytest.raises(BadInput, match="holds no word vectors"):
        Load(source=str(tmp_path / "text.txt")).execute(store)
    (tmp_path / "a.gz").write_bytes(b"no gzip")
    with pytest.raises(BadInput, match="cannot be read"):
        read_text_vectors(tmp_path / "a.gz")
