"""A corpus as numbers: one pass over the texts, the words counted, sentences on disk as ids."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
import numpy.typing as npt

from mojiang.core.errors import BadInput
from mojiang.text._analysis import Analyzer, analyze_lot, count_texts, read_lots

if TYPE_CHECKING:
    from mojiang.core.run import Run

Ids = npt.NDArray[np.int32]
BREAK: Final = -1
"""The id that ends a sentence."""
_CHUNK: Final = 200_000  # ids in memory together


@dataclass(frozen=True)
class Corpus:
    """Words by falling frequency, how often each occurs, and the file of ids."""

    words: list[str]
    counts: npt.NDArray[np.int64]
    path: Path

    @property
    def ids(self) -> Ids:
        """All ids, `BREAK` after each sentence; mapped, not read."""
        return np.memmap(self.path, np.int32, "r")

    def chunks(self, size: int = _CHUNK) -> Iterator[Ids]:
        """The ids in parts of about `size`, each of whole sentences (a longer sentence is cut)."""
        ids, start = self.ids, 0
        while start < len(ids):
            end = min(start + size, len(ids))
            if end < len(ids):
                breaks = np.flatnonzero(ids[start:end] == BREAK)
                end = start + int(breaks[-1]) + 1 if len(breaks) else end
            yield np.asarray(ids[start:end])
            start = end


def read_corpus(run: Run, analyzer: Analyzer, path: Path, min_count: int, max_words: int | None) -> Corpus:
    """Count and encode the training split, or a dataset without splits; rarer words are left out of their sentences.

    Raises:
        BadInput: fewer than two words are frequent enough.
    """
    split = "train" if any((path / "train").glob("*.parquet")) else None
    numbers: dict[str, int] = {}
    raw, final = run.scratch / "words.raw", run.scratch / "words.ids"
    done, total = 0, count_texts(path)
    with open(raw, "wb") as file:
        for texts in run.engine.map(partial(analyze_lot, analyzer), read_lots(path, split)):
            for sentences in texts:
                for sentence in sentences:
                    ids = [numbers.setdefault(word, len(numbers)) for word in sentence]
                    file.write(np.array([*ids, BREAK], np.int32).tobytes())
            done += len(texts)
            run.progress(done, total, unit="texts", words=len(numbers))
            run.check_stop()
    first = Corpus(list(numbers), np.zeros(len(numbers), np.int64), raw)
    if not len(numbers):
        raise BadInput("the corpus has no words", hint="look at it with text.words")
    counts = sum((np.bincount(part[part >= 0], minlength=len(numbers)) for part in first.chunks()), first.counts)
    order = sorted(np.flatnonzero(counts >= min_count).tolist(), key=lambda n: (-counts[n], first.words[n]))[:max_words]
    if len(order) < 2:
        raise BadInput(f"{len(order)} words occur {min_count} times or more", hint="lower --min-count")
    place = np.full(len(numbers) + 1, -2, np.int32)  # the last is for BREAK, which indexes from the end
    place[order] = np.arange(len(order))
    place[-1] = BREAK
    with open(final, "wb") as file:
        for part in first.chunks():
            kept = place[part]
            file.write(kept[kept != -2].tobytes())
    raw.unlink()
    return Corpus([first.words[n] for n in order], counts[order], final)


def pairs(ids: Ids, reach: Any, window: int) -> tuple[Ids, Ids, Ids]:
    """Positions of centres and of their neighbours within reach, and how far apart; in the order of the centres.

    `reach` is each position's own window (or one for all), at most `window`. Nothing crosses a `BREAK`.

    >>> [found.tolist() for found in pairs(np.array([5, 6, BREAK, 7], np.int32), 2, 2)]
    [[0, 1], [1, 0], [1, 1]]
    """
    is_word, sentence = ids != BREAK, np.cumsum(ids == BREAK)
    reach = np.broadcast_to(np.asarray(reach), ids.shape)
    offsets = np.array([sign * apart for apart in range(1, window + 1) for sign in (-1, 1)])
    near = np.zeros((len(ids), len(offsets)), np.bool_)
    for column, offset in enumerate(offsets[np.abs(offsets) < len(ids)].tolist()):
        here = slice(max(0, -offset), len(ids) - max(0, offset))
        there = slice(max(0, offset), len(ids) - max(0, -offset))
        same = (sentence[here] == sentence[there]) & is_word[here] & is_word[there]
        near[here, column] = same & (reach[here] >= abs(offset))
    # A table, read row by row, is in the order of the centres already: sorting took half of CBOW's time.
    centre, column_of = np.divmod(np.flatnonzero(near), len(offsets))
    apart = offsets[column_of]
    return centre.astype(np.int32), (centre + apart).astype(np.int32), np.abs(apart).astype(np.int32)
