"""Token shards behind URLs and streamed: the numbers of the folder, for any number of workers, and damage noticed."""

from __future__ import annotations

import functools
import http.server
import json
import re
import threading
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput, Corrupted, NotFound, Unavailable
from mojiang.tokenizer import _pack, _remote
from mojiang.tokenizer._pack import PackedRows, Sequence, Shards, write_shards
from mojiang.tokenizer._stream import Stream, stretches


def sequences(count: int, masked: bool) -> list[Sequence]:
    chance = np.random.default_rng(4)
    made = []
    for number in range(count):
        tokens = chance.integers(0, 60_000, int(chance.integers(2, 90)))
        trained = chance.random(len(tokens)) < 0.5 if masked else None
        made.append(Sequence(tokens, number, trained))
    return made


@pytest.fixture(params=[False, True], ids=["plain", "masked"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Shards of 400 sequences in several files of several blocks."""
    for module in (_pack, _remote):
        monkeypatch.setattr(module, "BLOCK_BYTES", 1024)
    monkeypatch.setattr(_remote, "KEPT_BLOCKS", 6)
    write_shards(sequences(400, request.param), tmp_path / "shards", 60_000, shard_tokens=5000)
    return tmp_path / "shards"


class _Ranges(http.server.SimpleHTTPRequestHandler):
    """A server of static files that answers range requests, as object stores do."""

    asked: list[tuple[str, str]] = []

    def send_head(self) -> Any:
        path = Path(self.translate_path(self.path))
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        self.asked.append((path.name, self.headers.get("Range", "")))
        if asked is None or not path.is_file():
            return super().send_head()
        start, stop = int(asked[1]), min(int(asked[2]) + 1, path.stat().st_size)
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {start}-{stop - 1}/{path.stat().st_size}")
        self.send_header("Content-Length", str(stop - start))
        self.end_headers()
        file = open(path, "rb")  # noqa: SIM115 (closed by the handler)
        file.seek(start)
        self._left = stop - start
        return file

    def copyfile(self, source: Any, outputfile: Any) -> None:
        outputfile.write(source.read(getattr(self, "_left", -1)))

    def log_message(self, *words: Any) -> None:
        return


@pytest.fixture
def server(folder: Path) -> Iterator[str]:
    _Ranges.asked = []
    with http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), functools.partial(_Ranges, directory=str(folder.parent))
    ) as made:
        thread = threading.Thread(target=made.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{made.server_address[1]}/{folder.name}"
        made.shutdown()
        thread.join()


@pytest.fixture
def in_memory(folder: Path) -> Iterator[str]:
    import fsspec

    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/bucket/{path.name}", path.read_bytes())
    yield "memory://bucket"
    files.rm("/bucket", recursive=True)


def same(one: Shards, other: Shards) -> None:
    assert len(one) == len(other)
    assert (one.lengths == other.lengths).all()
    for number in [*range(len(one)), *range(0, len(one), 7)]:
        for left, right in zip(one.sequence(number), other.sequence(number), strict=True):
            assert (left == right).all()


def test_a_url_reads_as_the_folder_does(folder: Path, in_memory: str) -> None:
    local, remote = Shards(folder), Shards(in_memory)
    same(local, remote)
    local.verify()
    remote.verify()
    rows, others = PackedRows(local, 64), PackedRows(remote, 64)
    assert (rows.rows(range(10)).tokens_BT == others.rows(range(10)).tokens_BT).all()


def test_over_http_by_ranges(folder: Path, server: str) -> None:
    same(Shards(folder), Shards(server))
    parts = [asked for name, asked in _Ranges.asked if name.startswith("tokens-")]
    assert len(parts) > 10
    assert all(re.fullmatch(r"bytes=\d+-\d+", asked) for asked in parts)  # no file is fetched as a whole


def test_damage_is_noticed(folder: Path, in_memory: str) -> None:
    import fsspec

    name = sorted(path.name for path in folder.glob("*.bin"))[1]
    content = bytearray((folder / name).read_bytes())
    content[1500] ^= 1
    (folder / name).write_bytes(content)
    with pytest.raises(Corrupted, match=f"block 1 of {name}"):
        Shards(folder).verify()
    fsspec.filesystem("memory").pipe(f"/bucket/{name}", bytes(content))
    remote = Shards(in_memory)
    with pytest.raises(Corrupted, match=f"block 1 of .*{name}"):
        remote.verify()


def test_a_request_that_fails_is_repeated(in_memory: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_remote, "_WAIT_SECONDS", 0)
    remote = Shards(in_memory)
    files, failures = remote._tokens[0].folder.files, 2
    fetch = type(files).cat_file

    def failing(self: Any, *words: Any, **named: Any) -> Any:
        nonlocal failures
        failures -= 1
        if failures >= 0:
            raise ConnectionResetError("gone")
        return fetch(self, *words, **named)

    monkeypatch.setattr(type(files), "cat_file", failing)
    assert len(remote.sequence(0)[0]) == remote.lengths[0]
    failures = 99
    with pytest.raises(Unavailable, match="ConnectionResetError"):
        remote.sequence(399)


@pytest.mark.parametrize("url", ["memory://nothing/here", "nonsense://x/y"])
def test_what_cannot_be_opened(url: str) -> None:
    with pytest.raises((NotFound, Unavailable)):
        Shards(url)


def test_shards_without_checksums_are_read_from_a_folder_only(folder: Path) -> None:
    """Those of the format before."""
    import fsspec

    index = json.loads((folder / "index.json").read_text())
    index["format"] = 1
    for shard in index["shards"]:
        del shard["blocks"]
    (folder / "index.json").write_text(json.dumps(index))
    assert len(Shards(folder)) == 400
    files = fsspec.filesystem("memory")
    for path in folder.iterdir():
        files.pipe(f"/old/{path.name}", path.read_bytes())
    with pytest.raises(Corrupted, match="no checksums"):
        Shards("memory://old")
    files.rm("/old", recursive=True)


# -- streams ------------------------------------------------------------------------------------------------------


def taken(stream: Stream, engine: LocalEngine, start: int, count: int) -> list[tuple[int, list[int]]]:
    return [(s.num_bytes, s.tokens.tolist()) for s in islice(stream.sequences(engine, start), count)]


def test_every_sequence_once_an_epoch_in_another_order_each(folder: Path) -> None:
    stream = Stream(folder, 7, stretch_tokens=300, window=4)
    found = [number for number, _ in taken(stream, LocalEngine(1), 0, 1200)]
    epochs = [found[start : start + 400] for start in (0, 400, 800)]
    assert all(sorted(epoch) == list(range(400)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]
    assert found != [number for number, _ in taken(Stream(folder, 8, 300, 4), LocalEngine(1), 0, 1200)]
    moved = np.abs(np.array(epochs[0]) - np.arange(400))
    assert moved.mean() > 80  # shuffled far: 133 in a shuffle of everything


def test_the_order_does_not_depend_on_workers_or_where_it_starts(folder: Path, server: str) -> None:
    stream = Stream(folder, 7, stretch_tokens=300, window=4)
    whole = taken(stream, LocalEngine(1), 0, 900)
    engine = LocalEngine(3)
    try:
        assert taken(stream, engine, 0, 900) == whole
        assert taken(stream, engine, 523, 300) == whole[523:823]
    finally:
        engine.close()
    assert taken(Stream(server, 7, 300, 4), LocalEngine(1), 390, 60) == whole[390:450]
    ended = [s.num_bytes for s in stream.sequences(LocalEngine(1), 350, epochs=2)]
    assert ended == [number for number, _ in whole[350:800]]


def test_a_window_takes_few_requests(server: str) -> None:
    stream = Stream(server, 7, stretch_tokens=2000, window=2)
    _Ranges.asked.clear()
    list(islice(stream.sequences(LocalEngine(1)), len(stream.windows(0)[0])))
    assert sum(name.endswith(".bin") for name, _ in _Ranges.asked) < 30


def test_stretches_end_with_their_shards(folder: Path) -> None:
    shards = Shards(folder)
    edges = stretches(shards, 300)
    ends = np.cumsum([shard["sequences"] for shard in shards.shards])
    assert set(ends.tolist()) <= set(edges.tolist())
    sizes = np.add.reduceat(shards.lengths, edges[:-1])
    assert sizes.max() < 300 + 2 * 90
    assert sizes.sum() == shards.lengths.sum()


def test_nothing_to_stream(tmp_path: Path) -> None:
    write_shards([], tmp_path / "none", 100)
    with pytest.raises(BadInput, match="no sequence"):
        Stream(tmp_path / "none", 0)
