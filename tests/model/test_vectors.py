"""Word vectors from files written as the formats say."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
import torch
from torch import nn

from mojiang.core.errors import BadInput
from mojiang.model._vectors import load_vectors

VECTORS = {"the": [0.5, -1.0, 2.0], "模型": [1.0, 0.25, -0.125], "at home": [3.0, 4.0, 5.0]}
VOCABULARY = {"模型": 0, "unseen": 1, "the": 2}


def written(folder: Path, form: str) -> Path:
    """The same three vectors in one of the formats."""
    path = folder / ("vectors.bin" if "binary" in form else "vectors.txt")
    if "binary" in form:
        end = b"\n" if "lines" in form else b""
        # a space ends the word there
        rows = [
            word.replace(" ", "_").encode() + b" " + struct.pack("<3f", *vector) + end
            for word, vector in VECTORS.items()
        ]
        path.write_bytes(b"3 3\n" + b"".join(rows))
    else:
        lines = [" ".join([word, *map(str, vector)]) for word, vector in VECTORS.items()]
        path.write_text("\n".join([*(["3 3"] if form == "word2vec" else []), *lines, ""]), encoding="utf-8")
    return path


@pytest.mark.parametrize("form", ["word2vec", "glove", "binary", "binary lines"])
def test_rows_of_known_words_are_set_and_no_others(tmp_path: Path, form: str) -> None:
    embedding = nn.Embedding(3, 3)
    before = embedding.weight[1].clone()
    assert load_vectors(embedding, written(tmp_path, form), VOCABULARY) == ["the", "模型"]
    assert embedding.weight[2].tolist() == VECTORS["the"]
    assert embedding.weight[0].tolist() == VECTORS["模型"]
    assert torch.equal(embedding.weight[1], before)
    phrase = "at_home" if "binary" in form else "at home"
    assert load_vectors(embedding, written(tmp_path, form), {phrase: 1}) == [phrase]
    assert embedding.weight[1].tolist() == VECTORS["at home"]


def test_what_does_not_fit_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="embedding 4"):
        load_vectors(nn.Embedding(3, 4), written(tmp_path, "glove"), VOCABULARY)
    with pytest.raises(BadInput, match="none of the 1 words"):
        load_vectors(nn.Embedding(3, 3), written(tmp_path, "glove"), {"Haus": 0})
    torn = written(tmp_path, "binary")
    torn.write_bytes(torn.read_bytes()[:-6])
    with pytest.raises(BadInput, match="word 3 of 3"):
        load_vectors(nn.Embedding(3, 3), torn, VOCABULARY)
    torn.write_bytes(b"\x80\x04 no vectors")
    with pytest.raises(BadInput, match="header"):
        load_vectors(nn.Embedding(3, 3), torn, VOCABULARY)
    text = written(tmp_path, "word2vec")
    text.write_text("3 3\nthe 0.5 -1.0 nine\n")
    with pytest.raises(BadInput, match="line 2"):
        load_vectors(nn.Embedding(3, 3), text, VOCABULARY)
