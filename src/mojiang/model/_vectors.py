"""Pretrained word vectors into an embedding: word2vec's text and binary formats, and GloVe's text.

Array names: D size of a vector
"""

from __future__ import annotations

from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from mojiang.core.errors import BadInput

Vector = NDArray[np.float32]


@torch.no_grad()
def load_vectors(embedding: nn.Embedding, path: Path, vocabulary: Mapping[str, int]) -> list[str]:
    """Set the rows of the words that `path` has a vector for; returns these words, the other rows stay.

    Args:
        embedding: its size is that of the vectors.
        path: word2vec text (`.txt`, `.vec`, with its header line), GloVe text (without) or word2vec binary (`.bin`).
        vocabulary: word → row. A tokenizer's tokens are words only where it splits at words; strip its marks first.

    Raises:
        BadInput: vectors of another size, a file that is torn, or no word in common.
    """
    found = []
    for word, vector_D in read_vectors(path, vocabulary):
        if len(vector_D) != embedding.embedding_dim:
            raise BadInput(
                f"the vectors in {path} have {len(vector_D)} numbers, the embedding {embedding.embedding_dim}",
                hint=f"set embedding_size to {len(vector_D)}",
            )
        embedding.weight[vocabulary[word]] = torch.from_numpy(vector_D).to(embedding.weight)
        found.append(word)
    if not found:
        raise BadInput(f"{path} has none of the {len(vocabulary)} words", hint="are the vectors of this language?")
    return found


def read_vectors(path: Path, words: Container[str]) -> Iterator[tuple[str, Vector]]:
    """(Word, its vector) of the words asked for, in the order of the file, of which one line at a time is in memory.

    Raises:
        BadInput: the file is torn or no file of word vectors.
    """
    with path.open("rb") as file:
        yield from (_binary if path.suffix == ".bin" else _text)(file, path, words)


def _text(file: BinaryIO, path: Path, words: Container[str]) -> Iterator[tuple[str, Vector]]:
    for number, line in enumerate(file):
        # from the right: GloVe has words with spaces in them
        parts = line.decode("utf-8", errors="replace").rstrip().split(" ")
        if number == 0 and len(parts) == 2 and all(part.isdigit() for part in parts):
            size = int(parts[1])
            continue
        if number == 0:
            size = len(parts) - 1
        word = " ".join(parts[:-size])
        if word not in words:
            continue
        try:
            yield word, np.array(parts[-size:], np.float32)
        except ValueError:
            raise _torn(path, f"line {number + 1}") from None


def _binary(file: BinaryIO, path: Path, words: Container[str]) -> Iterator[tuple[str, Vector]]:
    header = file.readline(100).split()
    if len(header) != 2 or not all(part.isdigit() for part in header):
        raise _torn(path, "its header")
    count, size = map(int, header)
    for number in range(count):
        letters = bytearray()
        while (letter := file.read(1)) not in (b" ", b""):
            letters += letter
        numbers = file.read(4 * size)
        if len(numbers) < 4 * size:
            raise _torn(path, f"word {number + 1} of {count}")
        # some writers end each vector with a line break, some do not
        word = letters.decode("utf-8", errors="replace").lstrip("\n")
        if word in words:
            yield word, np.frombuffer(numbers, "<f4").copy()


def _torn(path: Path, where: str) -> BadInput:
    return BadInput(f"{path} is no file of word vectors, or torn: {where} cannot be read", hint="download it again")
