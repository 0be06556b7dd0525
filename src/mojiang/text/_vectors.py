"""Word vectors: neighbours, analogies, similarity; saved as safetensors, exchanged as word2vec's and GloVe's text."""

from __future__ import annotations

import gzip
import json
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from mojiang.core.errors import BadInput, NotFound
from mojiang.core.files import atomic_write

MODEL_TYPE: Final = "mojiang_word_vectors"
Floats = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Subwords:
    """fastText's n-grams: lengths, the number of rows they share by hash, and these rows."""

    shortest: int
    longest: int
    buckets_RD: Floats


@dataclass(frozen=True)
class WordVectors:
    """Words, by falling frequency where it is known, and a vector for each."""

    words: list[str]
    vectors_VD: Floats
    subwords: Subwords | None = None

    @cached_property
    def _places(self) -> dict[str, int]:
        return {word: place for place, word in enumerate(self.words)}

    @cached_property
    def unit_VD(self) -> Floats:
        """The vectors at length 1."""
        lengths_V1 = np.linalg.norm(self.vectors_VD, axis=1, keepdims=True)
        return np.asarray(self.vectors_VD / np.maximum(lengths_V1, 1e-12), np.float32)

    def __contains__(self, word: str) -> bool:
        return word in self._places or self.subwords is not None

    def __getitem__(self, word: str) -> Floats:
        """The vector of a word; with subwords, also of one that training has not seen.

        Raises:
            NotFound: the word is not known.
        """
        if word in self._places:
            return np.asarray(self.vectors_VD[self._places[word]])
        if self.subwords is None:
            from mojiang.core.config import closest

            near = [known for known in self.words if known[:2] == word[:2]][:2000]
            raise NotFound(f"the vectors have no word {word!r}", hint=closest(word, near) if near else "another word")
        from mojiang.text._word2vec import bags_of

        grams = self.subwords
        bag = bags_of([word], 0, grams.shortest, grams.longest, len(grams.buckets_RD))
        if not len(bag.rows):
            return np.zeros(self.vectors_VD.shape[1], np.float32)
        return np.asarray(grams.buckets_RD[bag.rows].mean(axis=0), np.float32)

    def similarity(self, one: str, other: str) -> float:
        """The cosine of two words' vectors."""
        a, b = self[one], self[other]
        return float(a @ b / max(float(np.linalg.norm(a) * np.linalg.norm(b)), 1e-12))

    def neighbours(self, word: str, count: int = 10) -> list[tuple[str, float]]:
        """The words of the nearest vectors by cosine, nearest first, without the word itself."""
        return self.nearest(self[word], count, {word})

    def analogy(self, one: str, two: str, three: str, count: int = 10) -> list[tuple[str, float]]:
        """What is to `three` as `two` is to `one`: the nearest to two - one + three, all of length 1 (3CosAdd)."""
        unit = [self[word] / max(float(np.linalg.norm(self[word])), 1e-12) for word in (one, two, three)]
        return self.nearest(unit[1] - unit[0] + unit[2], count, {one, two, three})

    def nearest(self, vector: Any, count: int, without: set[str]) -> list[tuple[str, float]]:
        """The words nearest to any vector."""
        scores_V = self.unit_VD @ (vector / max(float(np.linalg.norm(vector)), 1e-12)).astype(np.float32)
        places = [self._places[word] for word in without if word in self._places]
        scores_V[places] = -np.inf
        count = min(count, len(self.words) - len(places))
        top = np.argpartition(-scores_V, min(count, len(scores_V) - 1))[:count]
        ranked = sorted(top.tolist(), key=lambda place: (-scores_V[place], self.words[place]))
        return [(self.words[place], float(scores_V[place])) for place in ranked]

    def save(self, folder: Path, **about: Any) -> None:
        """Write `config.json`, `model.safetensors` and `vocabulary.json`."""
        from safetensors.numpy import save

        arrays = {"word_embeddings.weight": np.ascontiguousarray(self.vectors_VD, np.float32)}
        config = {"model_type": MODEL_TYPE, "vocab_size": len(self.words), "hidden_size": self.vectors_VD.shape[1]}
        if self.subwords is not None:
            arrays["subword_embeddings.weight"] = np.ascontiguousarray(self.subwords.buckets_RD, np.float32)
            config |= {"subwords": [self.subwords.shortest, self.subwords.longest]}
        atomic_write(folder / "config.json", json.dumps({**config, **about}, indent=1) + "\n")
        atomic_write(folder / "vocabulary.json", json.dumps(self.words, ensure_ascii=False, indent=0) + "\n")
        atomic_write(folder / "model.safetensors", save(arrays))

    def save_text(self, path: Path, header: bool = True) -> None:
        """Write word2vec's text format, or GloVe's, which is the same without the first line."""
        with open(path, "w", encoding="utf-8") as file:
            if header:
                file.write(f"{len(self.words)} {self.vectors_VD.shape[1]}\n")
            for word, vector in zip(self.words, self.vectors_VD, strict=True):
                file.write(f"{word} {' '.join(format(float(value), '.6g') for value in vector)}\n")


def load_vectors(folder: Path) -> WordVectors:
    """The word vectors in an artifact's folder.

    Raises:
        BadInput: there are none.
    """
    from safetensors.numpy import load_file

    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        config = {}
    if config.get("model_type") != MODEL_TYPE:
        raise BadInput(f"{folder} holds no word vectors", hint="`mojiang text word2vec`, `glove` and `load` make them")
    arrays = load_file(folder / "model.safetensors")
    subwords = None
    if "subwords" in config:
        shortest, longest = config["subwords"]
        subwords = Subwords(shortest, longest, arrays["subword_embeddings.weight"])
    words = json.loads((folder / "vocabulary.json").read_text(encoding="utf-8"))
    return WordVectors(words, arrays["word_embeddings.weight"], subwords)


def read_text_vectors(path: Path, most: int | None = None) -> tuple[WordVectors, dict[str, int]]:
    """Vectors from a text file of word2vec (with a first line of sizes), GloVe or fastText, plain or .gz.

    Returns:
        The vectors, and the number of lines that were not used, by reason. Of a word that comes twice (also: two words
        that are one in NFC) the first counts.

    Raises:
        BadInput: no line has a word and numbers.
    """
    words: dict[str, None] = {}
    rows: list[Floats] = []
    left: dict[str, int] = {}
    size = 0
    for number, line in enumerate(_lines(path)):
        parts = line.rstrip("\r\n ").split(" ")
        if number == 0 and len(parts) == 2 and all(part.isdigit() for part in parts):
            size = int(parts[1])
            continue
        size = size or _size_of(parts)
        word, row = unicodedata.normalize("NFC", " ".join(parts[:-size])), _numbers(parts[-size:])
        reason = "" if row is not None and word and size else "no vector"
        reason = reason or ("same word" if word in words else "")
        if reason or row is None:
            left[reason] = left.get(reason, 0) + 1
            continue
        words[word] = None
        rows.append(row)
        if most is not None and len(rows) >= most:
            break
    if not rows:
        raise BadInput(f"{path} holds no word vectors", hint="give word2vec's, GloVe's or fastText's text format")
    return WordVectors(list(words), np.stack(rows)), left


def _lines(path: Path) -> Iterator[str]:
    try:
        opened = gzip.open if path.suffix == ".gz" else open
        with opened(path, "rt", encoding="utf-8", errors="replace", newline="\n") as file:
            yield from file
    except FileNotFoundError:
        raise NotFound(f"there is no file {path}", hint="give a text file of word vectors") from None
    except (OSError, EOFError) as error:
        raise BadInput(f"{path} cannot be read: {error}", hint="plain text or .gz") from error


def _size_of(parts: Sequence[str]) -> int:
    """How many numbers the line ends with (the word itself may be one, and may have spaces)."""
    count = 0
    for part in reversed(parts[1:]):
        if _numbers([part]) is None:
            break
        count += 1
    return count


def _numbers(parts: Sequence[str]) -> Floats | None:
    try:
        row = np.array(parts, np.float32)
    except ValueError:
        return None
    return row if np.isfinite(row).all() else None
