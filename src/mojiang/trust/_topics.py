"""What a corpus is about: TF-IDF, truncated SVD, k-means, and each topic named by its most characteristic terms.

Source: Deerwester et al. 1990 (latent semantic analysis); Arthur & Vassilvitskii 2007 (k-means++); van der Maaten &
Hinton 2008 (t-SNE).

Array names carry their shape: N documents · T terms · D dimensions · K topics.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mojiang.text import _english
from mojiang.text._chinese import HAN
from mojiang.text._projection import tsne
from mojiang.text._segmenter import load_segmenter
from mojiang.text._sparse import Frequencies, Weighting, inverse_frequency, rows_of
from mojiang.text._stop_words import CHINESE, ENGLISH

if TYPE_CHECKING:
    from mojiang.trust._examine import Examined

Floats = npt.NDArray[np.float64]

TOPIC_DOCUMENTS: Final = 5000
"""Documents that topics are made from, at most."""
PLANE_DOCUMENTS: Final = 1000
"""Points of the picture, at most: t-SNE compares all pairs."""
_VOCABULARY: Final = 20_000
_DIMENSIONS: Final = 48
_MAX_SHARE: Final = 0.4  # a term in more documents than this, of all or of a language, names nothing
_FEWEST_OF_LANGUAGE: Final = 10
_TERMS_SHOWN: Final = 8
_STARTS: Final = 6
_FEWEST: Final = 3  # documents for each topic
_HAN_RUN: Final = re.compile(f"{HAN.pattern}+")
# Characters of grammar that are in no word of content; 中 or 间, which are stop words alone, are in many.
_GRAMMAR: Final = re.compile("[的了是在和也就都而及与着或之其这那我你他她它们很吗呢吧啊呀把被]")


@dataclass(frozen=True)
class Topic:
    """A group of documents, and the terms that set it apart, the most characteristic first."""

    terms: list[str]
    documents: int


@dataclass(frozen=True)
class Topics:
    """The topics, largest first; which one each document has; and where some of them lie on a plane."""

    topics: list[Topic]
    topic_N: npt.NDArray[np.int64]
    plane_M2: Floats
    """Of the first M documents."""


def terms_of(text: str, segmenter: Path | None = None) -> Iterator[str]:
    """Words in lower case, and of Chinese the words of a segmenter or, without one, pairs of characters.

    Stop words, numbers and one-letter words are left out.

    >>> list(terms_of("The printer's 打印机坏了"))
    ['printer', '打印', '印机', '机坏']
    """
    for word in _english.words(_HAN_RUN.sub(" ", text)):
        lower = word.lower()
        if len(lower) > 2 and lower.isalpha() and lower not in ENGLISH:
            yield lower
    runs = _HAN_RUN.findall(text)
    if segmenter is not None:
        for words in load_segmenter(segmenter).cut_all(runs):
            yield from (word for word in words if len(word) > 1 and word not in CHINESE)
        return
    for run in runs:
        for pair in map("".join, zip(run, run[1:], strict=False)):
            if pair not in CHINESE and not _GRAMMAR.search(pair):
                yield pair


def find_topics(documents: Sequence[Examined], wanted: int) -> Topics | None:
    """The topics of documents with terms; None when there are too few to speak of topics.

    Raises:
        Unavailable: scipy is not installed.
    """
    counts = [Counter(one.terms.decode().split("\n")) if one.terms else Counter[str]() for one in documents]
    frequencies = Frequencies(most=1_000_000)
    for found in counts:
        frequencies.add(found)
    usual = usual_terms(counts, [one.language for one in documents])
    vocabulary = [term for term in frequencies.vocabulary(_FEWEST, _MAX_SHARE, _VOCABULARY) if term not in usual]
    wanted = min(wanted, len(documents) // _FEWEST)
    if wanted < 2 or len(vocabulary) < 2 * wanted:
        return None
    weights_NT = rows_of(counts, {term: place for place, term in enumerate(vocabulary)})
    in_documents = np.array([frequencies.in_documents[term] for term in vocabulary])
    weights_NT = Weighting(sublinear=True)(weights_NT, inverse_frequency(in_documents, len(documents), smooth=True))
    points_ND = reduce(weights_NT, _DIMENSIONS)
    topic_N = largest_first(cluster(points_ND, wanted))
    names = characteristic(weights_NT, topic_N, vocabulary)
    sizes = np.bincount(topic_N)
    topics = [Topic(terms, int(size)) for terms, size in zip(names, sizes, strict=True)]
    return Topics(topics, topic_N, tsne(points_ND[:PLANE_DOCUMENTS], perplexity=30))


def usual_terms(counts: Sequence[Mapping[str, int]], languages: Sequence[str]) -> set[str]:
    """Terms in most documents of a language: its grammar, and the menus of a site."""
    found: set[str] = set()
    for language, size in Counter(languages).items():
        if size >= _FEWEST_OF_LANGUAGE:
            there = Counter(term for n, terms in enumerate(counts) if languages[n] == language for term in terms)
            found |= {term for term, number in there.items() if number > _MAX_SHARE * size}
    return found


def reduce(weights_NT: Any, dimensions: int) -> Floats:
    """The documents in the space of the largest singular values, each of length 1."""
    from scipy.sparse.linalg import svds

    dimensions = min(dimensions, min(weights_NT.shape) - 1)
    start = np.random.default_rng(0).uniform(-1, 1, min(weights_NT.shape))  # the same picture every time
    left_ND, singular_D, _ = svds(weights_NT, k=dimensions, v0=start)
    points_ND = left_ND * singular_D
    return np.asarray(points_ND / np.maximum(np.linalg.norm(points_ND, axis=1, keepdims=True), 1e-12))


def cluster(points_ND: Floats, clusters: int) -> npt.NDArray[np.int64]:
    """k-means from the best of a few starts: the cluster of each point."""
    from scipy.cluster.vq import kmeans2

    random, best, least = np.random.default_rng(0), np.zeros(len(points_ND), np.int64), np.inf
    for _ in range(_STARTS):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "One of the clusters is empty")  # then there is one topic less
            centres_KD, cluster_N = kmeans2(points_ND, clusters, iter=30, minit="++", rng=random)
        apart = float(((points_ND - centres_KD[cluster_N]) ** 2).sum())
        if apart < least:
            best, least = cluster_N.astype(np.int64), apart
    return best


def largest_first(cluster_N: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Clusters numbered by falling size, from 0, none of them empty.

    >>> largest_first(np.array([7, 2, 2, 2, 7, 0])).tolist()
    [1, 0, 0, 0, 1, 2]
    """
    values, inverse, sizes = np.unique(cluster_N, return_inverse=True, return_counts=True)
    rank = np.empty(len(values), np.int64)
    rank[np.argsort(-sizes, kind="stable")] = np.arange(len(values))
    return rank[inverse]


def characteristic(weights_NT: Any, topic_N: npt.NDArray[np.int64], vocabulary: list[str]) -> list[list[str]]:
    """For each topic the terms whose mean weight in it is furthest above that elsewhere; pairs of characters joined."""
    named, presence_NT = [], weights_NT.astype(bool).tocsc()
    total_T = np.asarray(weights_NT.sum(axis=0)).ravel()
    for topic in range(int(topic_N.max()) + 1):
        inside = topic_N == topic
        sum_T = np.asarray(weights_NT[inside].sum(axis=0)).ravel()
        outside = max(1, int((~inside).sum()))
        margin_T = sum_T / inside.sum() - (total_T - sum_T) / outside
        best = [int(place) for place in np.argsort(-margin_T, kind="stable")[: 3 * _TERMS_SHOWN] if margin_T[place] > 0]
        found = {vocabulary[place]: set(presence_NT[:, place].indices.tolist()) for place in best}
        named.append(join_pairs(found)[:_TERMS_SHOWN])
    return named


def join_pairs(documents_of: dict[str, set[int]]) -> list[str]:
    """Terms in their order, with pairs of Chinese characters that overlap and go together joined to words.

    >>> join_pairs({"打印": {1, 2, 3}, "印机": {1, 2, 3}, "纸张": {1, 9}})
    ['打印机', '纸张']
    """
    terms = list(documents_of.items())
    joined = True
    while joined:
        joined = False
        for first, (left, there) in enumerate(terms):
            for second, (right, here) in enumerate(terms):
                if first == second or left[-1] != right[0] or not HAN.match(left[-1]) or len(left) + len(right) > 6:
                    continue
                if len(there & here) >= 0.6 * len(there | here):
                    terms[min(first, second)] = (left + right[1:], there & here)
                    del terms[max(first, second)]
                    joined = True
                    break
            if joined:
                break
    return [term for term, _ in terms]
