"""Terms of documents as rows of a sparse matrix: n-grams, the vocabulary, hashing, weights.

The definitions are scikit-learn's, to the last bit of the hash, so a matrix made here fits a model made there.

Source: Salton & Buckley 1988 (weights); Weinberger et al. 2009 (hashing, with signs); Manku & Motwani 2002 (counting in
bounded memory); Appleby's MurmurHash3.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mojiang.text._analysis import Analyzer, Lot
from mojiang.text._matrix import csr_matrix

Units = Literal["words", "characters", "characters_in_words"]
Norm = Literal["l2", "l1", "none"]
# scipy's csr_matrix; scipy has no types of its own.
Sparse = Any

_SPACES: Final = re.compile(r"\s\s+")


@dataclass(frozen=True)
class Terms:
    """What is counted: n-grams of words, of characters, or of characters that do not cross a border of words."""

    units: Units = "words"
    shortest: int = 1
    longest: int = 1

    def of(self, analyzer: Analyzer, text: str, is_words: bool = False) -> Counter[str]:
        """The terms of a text and how often each occurs.

        >>> Terms("words", 1, 2).of(Analyzer(), "the cat, the dog")["the"]
        2
        >>> sorted(Terms("characters", 2, 2).of(Analyzer(), "Ab  a"))
        [' a', 'ab', 'b ']
        """
        if self.units == "words":
            words = [word for sentence in analyzer.sentences(text, is_words) for word in sentence]
            return Counter(self._joined(words))
        if analyzer.settings.lowercase:
            text = text.lower()
        if self.units == "characters":
            return Counter(self._slices(_SPACES.sub(" ", text)))
        return Counter(gram for word in text.split() for gram in self._within(f" {word} "))

    def _joined(self, words: Sequence[str]) -> Iterator[str]:
        for size in range(self.shortest, min(self.longest, len(words)) + 1):
            if size == 1:
                yield from words
            else:
                yield from (" ".join(words[at : at + size]) for at in range(len(words) - size + 1))

    def _slices(self, text: str) -> Iterator[str]:
        for size in range(self.shortest, min(self.longest, len(text)) + 1):
            yield from (text[at : at + size] for at in range(len(text) - size + 1))

    def _within(self, word: str) -> Iterator[str]:
        for size in range(self.shortest, self.longest + 1):
            yield word[:size]
            yield from (word[at : at + size] for at in range(1, len(word) - size + 1))
            if size >= len(word):
                return  # a short word counts once


def count_lot(analyzer: Analyzer, terms: Terms, lot: Lot) -> list[Counter[str]]:
    """The terms of each text of a lot."""
    return [terms.of(analyzer, text, is_words) for text, is_words in zip(lot.texts, lot.are_words, strict=True)]


@dataclass
class Frequencies:
    """In how many documents each term is, and how often, with at most `most` terms in memory.

    When there are more, those that are in the fewest documents go; `lost` then says how many documents a term that is
    missing, or counted too low, may be in.
    """

    most: int
    documents: int = 0
    lost: int = 0
    in_documents: dict[str, int] = field(default_factory=dict)
    occurrences: dict[str, int] = field(default_factory=dict)

    def add(self, counts: Mapping[str, int]) -> None:
        """One document."""
        self.documents += 1
        in_documents, occurrences = self.in_documents, self.occurrences
        for term, count in counts.items():
            in_documents[term] = in_documents.get(term, 0) + 1
            occurrences[term] = occurrences.get(term, 0) + count
        while len(in_documents) > self.most:
            self.lost += 1
            for term in [term for term, number in in_documents.items() if number <= self.lost]:
                del in_documents[term], occurrences[term]

    def vocabulary(self, min_documents: int, max_share: float, most: int | None) -> list[str]:
        """The terms to keep, in order: in enough documents and not in too many, the most frequent ones."""
        highest = max_share * self.documents
        kept = [term for term, number in self.in_documents.items() if min_documents <= number <= highest]
        if most is not None and len(kept) > most:
            kept = sorted(kept, key=lambda term: (-self.occurrences[term], term))[:most]
        return sorted(kept)


def inverse_frequency(in_documents: npt.NDArray[np.int64], documents: int, smooth: bool) -> npt.NDArray[np.float64]:
    """idf: ln((1 + n) / (1 + df)) + 1 with `smooth`, ln(n / df) + 1 without.

    >>> inverse_frequency(np.array([1, 4]), 4, smooth=False).round(3).tolist()
    [2.386, 1.0]
    """
    return np.asarray(np.log((documents + smooth) / (in_documents + smooth)) + 1)


@dataclass(frozen=True)
class Weighting:
    """What a count becomes: itself, 1, its logarithm; times idf; and each row of length 1."""

    binary: bool = False
    sublinear: bool = False
    norm: Norm = "l2"

    def __call__(self, counts: Sparse, idf: npt.NDArray[np.float64] | None) -> Sparse:
        """The weighted matrix; `counts` is changed in place."""
        if self.binary:
            counts.data[:] = np.sign(counts.data)
        if self.sublinear:
            counts.data[:] = np.sign(counts.data) * (1 + np.log(np.abs(counts.data)))
        if idf is not None:
            counts.data *= idf[counts.indices]
        if self.norm != "none":
            size = np.abs(counts.data) if self.norm == "l1" else counts.data**2
            totals = np.add.reduceat(np.append(size, 0.0), counts.indptr[:-1]) * (np.diff(counts.indptr) > 0)
            lengths = totals if self.norm == "l1" else np.sqrt(totals)
            counts.data /= np.repeat(np.where(lengths == 0, 1, lengths), np.diff(counts.indptr))
        return counts


def rows_of(documents: Sequence[Mapping[str, int]], places: Mapping[str, int]) -> Sparse:
    """Counts (documents, terms) of the terms that have a place."""
    indptr, indices, data = [0], list[int](), list[int]()
    for counts in documents:
        found = sorted((places[term], count) for term, count in counts.items() if term in places)
        indices.extend(place for place, _ in found)
        data.extend(count for _, count in found)
        indptr.append(len(indices))
    shape = (len(documents), len(places))
    return csr_matrix((np.array(data, np.float64), np.array(indices, np.int32), np.array(indptr)), shape=shape)


def hashed_rows(documents: Sequence[Mapping[str, int]], buckets: int, signed: bool) -> Sparse:
    """Counts (documents, buckets): each term's bucket, and with `signed` its sign, is a hash of it."""
    every = list({term: None for counts in documents for term in counts})
    hashes = murmur3(every).astype(np.int64)
    place_of = dict(zip(every, range(len(every)), strict=True))
    # The absolute value of the lowest 32-bit number is no 32-bit number; scikit-learn's way around it.
    lowest = (2**31 - 1 - (buckets - 1)) % buckets
    column = np.where(hashes == -(2**31), lowest, np.abs(hashes) % buckets)
    sign = np.where((hashes >= 0) | (not signed), 1.0, -1.0)
    numbers = np.array([place_of[term] for counts in documents for term in counts], np.int64)
    data = np.array([count for counts in documents for count in counts.values()], np.float64)
    indptr = np.concatenate([[0], np.cumsum([len(counts) for counts in documents])])
    shape = (len(documents), buckets)
    if not len(numbers):
        return csr_matrix(shape, dtype=np.float64)
    made = csr_matrix((data * sign[numbers], column[numbers].astype(np.int32), indptr), shape=shape)
    made.sum_duplicates()
    return made


def murmur3(terms: Iterable[str], seed: int = 0) -> npt.NDArray[np.int32]:
    """MurmurHash3 (x86, 32 bit) of the terms in UTF-8, as signed numbers.

    >>> murmur3(["", "a", "中文"]).tolist()
    [0, 1009084850, -618237545]
    """
    encoded = [term.encode("utf-8", "surrogatepass") for term in terms]
    lengths = np.array([len(data) for data in encoded], np.int64)
    hashes = np.zeros(len(encoded), np.uint32)
    for length in np.unique(lengths):
        chosen = np.flatnonzero(lengths == length)
        padded = b"".join(encoded[n] + bytes(-int(length) % 4) for n in chosen)
        blocks = np.frombuffer(padded, "<u4").reshape(len(chosen), -1).astype(np.uint32)
        hashes[chosen] = _murmur3(blocks, int(length), seed)
    return hashes.view(np.int32)


def _murmur3(blocks: npt.NDArray[np.uint32], length: int, seed: int) -> npt.NDArray[np.uint32]:
    hashed = np.full(len(blocks), seed, np.uint32)
    for number in range(blocks.shape[1]):
        block = _rotated(blocks[:, number] * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)
        hashed = hashed ^ block
        if 4 * number + 4 <= length:  # the tail is not rotated in
            hashed = _rotated(hashed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    hashed = hashed ^ np.uint32(length)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):
        hashed = (hashed ^ (hashed >> np.uint32(shift))) * np.uint32(factor)
    return np.asarray(hashed ^ (hashed >> np.uint32(16)))


def _rotated(values: npt.NDArray[np.uint32], by: int) -> npt.NDArray[np.uint32]:
    return np.asarray((values << np.uint32(by)) | (values >> np.uint32(32 - by)))
