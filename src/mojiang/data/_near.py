"""Near copies in a corpus larger than memory: sign, band, compare, cluster, and keep one of each cluster.

    sign      a pass over the texts: the band keys of every document go to disk, in buckets by band and key
    pair      bucket by bucket: documents with an equal key are a candidate pair, written in buckets of pairs
    gather    a pass over the texts: the shingle sets of the documents that are in a pair, one after the other in a file
    compare   the pairs' exact similarity; those at or above the threshold connect their documents

In memory are one bucket (`BUCKET_ENTRIES` records), the candidate documents' places, and the pairs found to be copies.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np
import numpy.typing as npt

from mojiang.data._documents import Rows, count_documents, row_groups, without
from mojiang.data._minhash import (
    Bands,
    Pairs,
    as_sets,
    band_keys,
    choose_bands,
    components,
    jaccard,
    pairs_in_band,
    unique_pairs,
)
from mojiang.data._shingles import CHARACTERS, WORDS, Shingled, shingle
from mojiang.data._spill import Spill, distinct, spill_pass

if TYPE_CHECKING:
    from mojiang.core.run import Run

BUCKET_ENTRIES = 4_000_000  # 64 MB of keys, or of pairs, in memory at a time
Keep = Literal["first", "longest", "quality"]

KEYED: Final = np.dtype([("key", np.uint64), ("order", np.int64)])
MEMBER: Final = np.dtype([("order", np.int64), ("id", "V16"), ("rank", np.float64), ("size", np.int64)])
# A document that goes; the one kept instead, and the one it is compared with (often the same).
NEAR_COPY: Final = np.dtype([("order", np.int64), ("kept", "V16"), ("like", "V16"), ("similarity", np.float64)])
_PAIR: Final = np.dtype((np.int64, (2,)))


@dataclass(frozen=True)
class Near:
    """What makes two documents near copies, and which of them is kept."""

    threshold: float = 0.7
    error: float = 0.01
    words: int = WORDS
    characters: int = CHARACTERS
    keep: Keep = "first"


@dataclass(frozen=True)
class Found:
    """The near copies (`NEAR_COPY` records by order), and the sizes of the clusters they were in."""

    copies: npt.NDArray[np.void]
    cluster_sizes: npt.NDArray[np.int64]
    cut: Bands
    candidates: int


def near_copies(run: Run, source: Path, gone: npt.NDArray[np.int64], near: Near) -> Found:
    """Which documents, besides those that are `gone` (sorted orders), are near copies of one that is kept."""
    total = count_documents(source)
    cut = choose_bands(near.threshold, near.error, total - len(gone))
    keyed = _sign(run, source, gone, near, cut, total)
    paired = _pair(run, keyed, cut, total)
    wanted = distinct(np.concatenate([distinct(paired.read(bucket)) for bucket in range(paired.buckets)]))
    members, sets = _gather(run, source, wanted, near, total)
    edges, similarities, candidates = _compare(run, paired, wanted, sets, near.threshold)
    copies, sizes = cluster(members, edges, similarities)
    return Found(copies, sizes, cut, candidates)


# -- sign and pair ------------------------------------------------------------------------------------------------


def sign_batch(near: Near, cut: Bands, item: tuple[npt.NDArray[np.int64], Rows]) -> tuple[Any, Any]:
    """Orders and band keys of those of some rows that have shingles."""
    orders, rows = item
    shingled = shingle(rows.read().column("text").to_pylist(), near.words, near.characters)
    some = np.diff(shingled.starts) > 0
    return orders[some], band_keys(shingled, cut)[some]


def _sign(run: Run, source: Path, gone: npt.NDArray[np.int64], near: Near, cut: Bands, total: int) -> Spill:
    parts = total // BUCKET_ENTRIES + 1
    spill = Spill(run.scratch / "bands", [KEYED] * (cut.bands * parts))

    def write(signed: tuple[Any, Any]) -> None:
        orders, keys = signed
        for band in range(cut.bands):
            records = np.empty(len(orders), KEYED)
            records["key"], records["order"] = keys[:, band], orders
            if parts == 1:
                spill.append(band, records)
            else:
                spill.scatter(band * parts + (records["key"] % np.uint64(parts)).astype(np.int64), records)

    batches = without(source, gone, ["text"])
    spill_pass(run, spill, partial(sign_batch, near, cut), batches, write, lambda item: len(item[0]), total - len(gone))
    return spill


def _pair(run: Run, keyed: Spill, cut: Bands, total: int) -> Spill:
    """Candidate pairs in buckets by the first document; pairs that several bands found are in there several times."""
    parts = keyed.buckets // cut.bands
    spill = Spill(run.scratch / "pairs", [_PAIR] * parts)
    for bucket in range(spill.done, keyed.buckets):
        records = keyed.read(bucket)
        pairs = pairs_in_band(records["key"], records["order"])
        spill.scatter(pairs[:, 0] * parts // max(1, total), pairs)
        spill.batch_done(at_once=run.stopping)
        run.check_stop()
    spill.mark()
    return spill


# -- gather and compare -------------------------------------------------------------------------------------------


def gather_batch(near: Near, item: tuple[npt.NDArray[np.int64], Rows]) -> tuple[Any, Shingled]:
    """Members and shingle sets of the documents of some rows."""
    orders, rows = item
    batch = rows.read()
    texts = batch.column("text").to_pylist()
    members = np.zeros(len(texts), MEMBER)
    members["order"] = orders
    members["id"] = [np.void(bytes.fromhex(id)) for id in batch.column("id").to_pylist()]
    members["rank"] = [rank(text, near.keep) for text in texts]
    sets = as_sets(shingle(texts, near.words, near.characters))
    members["size"] = np.diff(sets.starts)
    return members, sets


def rank(text: str, keep: Keep) -> float:
    """What a cluster's member is kept for: the largest wins, and the first of equals.

    Quality is the share of characters that are letters, digits, spaces or usual punctuation, times the share of lines
    (by length) that were not there before; to two digits, so that length decides between texts that are as good.

    >>> rank("A clean text.", "quality") > rank("A clean text.\\ufffd\\ufffd|||~~", "quality")
    True
    """
    if keep == "first":
        return 0.0
    if keep == "longest":
        return float(len(text))
    usual = sum(char.isalnum() or char in " \n\t.,;:!?'\"()-，。、；：！？“”‘’（）《》…—" for char in text)
    lines = [line.strip() for line in text.splitlines()]
    fresh = sum(map(len, dict.fromkeys(lines))) / max(1, sum(map(len, lines)))
    return round(usual / max(1, len(text)) * fresh, 2) + len(text) * 1e-9


def _gather(run: Run, source: Path, wanted: npt.NDArray[np.int64], near: Near, total: int) -> tuple[Any, Shingled]:
    """The wanted documents' members, and their sets in a file."""
    spill = Spill(run.scratch / "sets", [MEMBER, np.uint32])

    def chosen() -> Iterator[tuple[npt.NDArray[np.int64], Rows]]:
        first = 0
        for group in row_groups(source, columns=["id", "text"]):
            low, high = np.searchsorted(wanted, [first, first + group.rows])
            yield wanted[low:high], Rows(group, wanted[low:high] - first)
            first += group.rows

    def write(made: tuple[Any, Shingled]) -> None:
        spill.append(0, made[0])
        spill.append(1, made[1].hashes)

    spill_pass(run, spill, partial(gather_batch, near), chosen(), write, lambda item: len(item[0]), len(wanted))
    members = spill.read(0)
    starts = np.concatenate([[0], np.cumsum(members["size"])])
    hashes = np.memmap(spill.path(1), np.uint32, "r") if len(wanted) else np.zeros(0, np.uint32)
    return members, Shingled(hashes, starts)


def _compare(
    run: Run, paired: Spill, wanted: npt.NDArray[np.int64], sets: Shingled, threshold: float
) -> tuple[Pairs, npt.NDArray[np.float64], int]:
    """Pairs (places in `wanted`) at or above the threshold, and their similarity; how many there were to compare."""
    edges, similarities, candidates = [np.zeros((0, 2), np.int64)], [np.zeros(0)], 0
    for bucket in range(paired.buckets):
        pairs = np.searchsorted(wanted, unique_pairs([paired.read(bucket)]))
        found = jaccard(sets, pairs, threshold)
        candidates += len(pairs)
        edges.append(pairs[found >= threshold])
        similarities.append(found[found >= threshold])
        run.check_stop()
    return np.concatenate(edges), np.concatenate(similarities), candidates


# -- cluster ------------------------------------------------------------------------------------------------------


def cluster(
    members: npt.NDArray[np.void], edges: Pairs, similarities: npt.NDArray[np.float64]
) -> tuple[npt.NDArray[np.void], npt.NDArray[np.int64]]:
    """Connected documents are a cluster; its best member is kept. Returns the others, and the sizes of clusters."""
    root = components(len(members), edges)
    best_first = np.lexsort((members["order"], -members["rank"], root))
    begins = np.concatenate([[True], np.diff(root[best_first]) != 0]) if len(root) else np.zeros(0, bool)
    best = np.zeros(len(root), np.int64)  # of each cluster, at its root
    best[root[best_first[begins]]] = best_first[begins]
    kept = best[root]
    sizes = np.diff(np.append(np.flatnonzero(begins), len(root)))
    # Each document's closest neighbour, the kept one before all others.
    one, other = edges.T if len(edges) else np.zeros((2, 0), np.int64)
    left, right = np.concatenate([one, other]), np.concatenate([other, one])
    both = np.concatenate([similarities, similarities])
    order = np.lexsort((right, -both, right != kept[left], left))
    closest = order[np.concatenate([[True], np.diff(left[order]) != 0])] if len(order) else order
    closest = closest[kept[left[closest]] != left[closest]]
    node = left[closest]
    copies = np.zeros(len(node), NEAR_COPY)
    copies["order"], copies["similarity"] = members["order"][node], both[closest]
    copies["kept"], copies["like"] = members["id"][kept[node]], members["id"][right[closest]]
    return copies, sizes[sizes > 1]
