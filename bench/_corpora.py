"""Corpora of any size from real texts, as Parquet files that every side of the data benchmarks reads.

The texts are those of packages that anyone can fetch. Where there are not enough of them, they are told again with
three words of ten (in Chinese three characters of ten) taken from elsewhere: so differently that no two tellings are
near copies, and so alike that every rule meets what it meets in the originals. The same seed gives the same corpus.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from _harness import CACHE

SHARE = 0.3  # of the words that a telling changes
LINUX = "6.1.192-2"
REVIEWS_A_PAGE = 8
GROUP_BYTES = 4_000_000


def corpus(name: str, megabytes: float) -> Path:
    """A corpus of so much text, made once: `en`, `zh`, both (`mixed`), or `code`."""
    path = CACHE / f"corpus-{name}-{megabytes:g}.parquet"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path.with_suffix(".part"), limited(endless(name), int(megabytes * 1e6)))
        os.replace(path.with_suffix(".part"), path)
    return path


def write(path: Path, texts: Iterable[str]) -> None:
    """Rows of `id` and `text`, in row groups of a few megabytes."""
    schema = pa.schema([("id", pa.string()), ("text", pa.string())])
    with pq.ParquetWriter(path, schema, compression="zstd") as writer:
        batch: list[str] = []
        size = number = 0
        for text in texts:
            batch.append(text)
            size += len(text.encode())
            if size >= GROUP_BYTES:
                writer.write_table(_table(batch, number, schema))
                number, size, batch = number + len(batch), 0, []
        if batch:
            writer.write_table(_table(batch, number, schema))


def _table(texts: list[str], first: int, schema: pa.Schema) -> pa.Table:
    return pa.table([[str(first + n) for n in range(len(texts))], texts], schema=schema)


def limited(texts: Iterable[str], size: int) -> Iterator[str]:
    """The first texts, of so many bytes together."""
    for text in texts:
        if size <= 0:
            return
        size -= len(text.encode())
        yield text


def endless(name: str) -> Iterator[str]:
    """The texts, then their tellings, one after another. Long and short ones, mixed by a fixed order."""
    if name == "mixed":  # three documents of English, one of Chinese
        english, chinese = endless("en"), endless("zh")
        while True:
            yield from (next(english), next(english), next(english), next(chinese))
    originals = list(TEXTS[name]())
    order = np.random.Generator(np.random.PCG64(1)).permutation(len(originals)).tolist()
    yield from (originals[n] for n in order)
    spaced = name != "zh"
    vocabulary = np.array([unit for n in order[:2000] for unit in units_of(originals[n], spaced) if unit.strip()])
    telling = 1
    while True:
        for n in order:
            yield told_again(originals[n], vocabulary, np.random.Generator(np.random.PCG64([telling, n])), spaced)
        telling += 1


def units_of(text: str, spaced: bool) -> list[str]:
    """Words, or characters."""
    return text.split(" ") if spaced else list(text)


def told_again(text: str, vocabulary: np.ndarray, draw: np.random.Generator, spaced: bool = True) -> str:
    """The text with some of its words drawn from elsewhere; line ends and marks stay where they are.

    >>> draw = np.random.Generator(np.random.PCG64(0))
    >>> told_again("one two three four\\nfive", np.array(["x"]), draw)
    'one x x x four\\nfive'
    """
    units = units_of(text, spaced)
    solid = [n for n, unit in enumerate(units) if unit.isalnum()]
    chosen = np.flatnonzero(draw.random(len(solid)) < SHARE).tolist()
    for n, other in zip(chosen, draw.integers(0, len(vocabulary), len(chosen)).tolist(), strict=True):
        units[solid[n]] = str(vocabulary[other])
    return (" " if spaced else "").join(units)


def _english() -> Iterator[str]:
    """Descriptions of all Debian packages, and the pages of the Linux kernel's documentation."""
    from data_dedup import _descriptions

    yield from _descriptions()
    yield from _linux(chinese=False)


def _chinese() -> Iterator[str]:
    """Reviews, some on a page, and the Chinese pages of the Linux kernel's documentation."""
    from data_dedup import _reviews

    reviews = list(_reviews())
    for first in range(0, len(reviews), REVIEWS_A_PAGE):
        yield "\n".join(reviews[first : first + REVIEWS_A_PAGE])
    yield from _linux(chinese=True)


def _linux(chinese: bool) -> Iterator[str]:
    from mojiang.data._html import html_to_text
    from mojiang.data._packages import Package, obtain, unpack

    package = Package(registry="debian", name="linux-doc-6.1", version=LINUX, files=("*/html/*",))
    with tempfile.TemporaryDirectory() as folder:
        unpack(obtain(package), package, Path(folder))
        for path in sorted(Path(folder).rglob("*.html")):
            name = path.as_posix()
            if "/translations/zh_CN/" in name if chinese else "/translations/" not in name:
                text = html_to_text(path.read_text(encoding="utf-8"))
                # Whole pages are long; what a web page has is a few kilobytes.
                yield from (part for part in _parts(text, 20_000) if part.strip())


def _parts(text: str, size: int) -> Iterator[str]:
    while len(text) > size:
        cut = text.rfind("\n\n", size // 2, size)
        cut = cut + 2 if cut >= 0 else size
        yield text[:cut].strip("\n")
        text = text[cut:]
    yield text.strip("\n")


def _code() -> Iterator[str]:
    """The Python standard library."""
    from mojiang.data._sources import STDLIB, open_source

    for file in open_source(STDLIB).files:
        yield file.path.read_text(encoding="utf-8", errors="replace")


TEXTS = {"en": _english, "zh": _chinese, "code": _code}
