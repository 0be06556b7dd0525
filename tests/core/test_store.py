"""The store: whole or not at all, several processes at once, two databases."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
import sqlalchemy as sa

import mojiang
from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput, BadUsage, Corrupted, NotFound, Unavailable
from mojiang.core.recipe import DatasetRef, Recipe
from mojiang.core.run import Run, execute
from mojiang.core.store import Store

TOY = """
import os, sys, time
from typing import ClassVar
from mojiang.core.recipe import DatasetRef, Recipe
class Toy(Recipe):
    recipe: ClassVar[str] = "data.toy"
    makes: ClassVar[str] = "dataset"
    text: str
    seconds: float = 0.0
    input: DatasetRef | None = None
    def run(self, run):
        done = run.scratch / "done"
        n = int(done.read_text()) if done.exists() else 0
        while n < self.seconds * 20:
            time.sleep(0.05); n += 1
            done.write_text(str(n)); run.progress(n, self.seconds * 20, "ticks")
            run.check_stop()
        (run.out / "text.txt").write_text(self.text)
        return {"ticks": n}
"""


class Toy(Recipe):
    """Writes its text."""

    recipe: ClassVar[str] = "data.toy"
    makes: ClassVar[Kind] = "dataset"
    text: str
    input: DatasetRef | None = None

    def run(self, run: Run) -> dict[str, float | int | str]:
        (run.out / "text.txt").write_text(self.text)
        return {}


def script(workspace: Path, body: str) -> subprocess.Popen[str]:
    code = (
        TOY + "import mojiang\nfrom mojiang.core.run import execute\n" + f"store = mojiang.open({str(workspace)!r})\n"
    )
    command = [sys.executable, "-c", code + textwrap.dedent(body)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture(params=["sqlite", pytest.param("postgresql", marks=pytest.mark.service)])
def any_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    if request.param == "sqlite":
        yield mojiang.open(tmp_path / "workspace")
        return
    pytest.importorskip("psycopg")
    server = os.environ.get("MOJIANG_TEST_POSTGRES", "postgresql+psycopg://postgres@127.0.0.1:5432/test")
    try:
        admin = sa.create_engine(server, isolation_level="AUTOCOMMIT", connect_args={"connect_timeout": 2})
        with admin.connect() as connection:
            schema = f"mojiang_test_{os.getpid()}_{time.time_ns()}"
            connection.execute(sa.text(f"CREATE SCHEMA {schema}"))
    except sa.exc.OperationalError as error:
        pytest.skip(f"no PostgreSQL server: {str(error.orig).splitlines()[0]}")
    store = mojiang.open(tmp_path / "workspace", f"{server}?options=-csearch_path%3D{schema}")
    yield store
    store._engine.dispose()
    with admin.connect() as connection:
        connection.execute(sa.text(f"DROP SCHEMA {schema} CASCADE"))
    admin.dispose()


def test_refs_lead_to_the_artifact(any_store: Store) -> None:
    first = Toy(text="a").execute(any_store)
    second = Toy(text="b").execute(any_store)
    any_store.alias(first, "best")
    assert (first.ref, second.ref) == ("toy@1", "toy@2")
    assert any_store.get("toy") == second
    for ref in ("toy@1", "toy@best", first.fingerprint[:8], first.fingerprint, str(first.path)):
        assert any_store.get(ref).fingerprint == first.fingerprint, ref


def test_unchanged_work_is_not_done_again(any_store: Store) -> None:
    first = execute(Toy(text="a"), any_store)
    again = execute(Toy(text="a"), any_store, name="other")
    assert not first.reused
    assert again.reused
    assert again.artifact == first.artifact
    assert len(any_store.artifacts()) == 1


def test_lineage_and_children(any_store: Store) -> None:
    a = Toy(text="a").execute(any_store, name="a")
    b = Toy(text="b", input="a").execute(any_store, name="b")
    c = Toy(text="c", input="b").execute(any_store, name="c")
    assert [x.ref for x in any_store.lineage(c)] == ["c@1", "b@1", "a@1"]
    assert any_store.children(a) == [b]


def test_moving_an_alias_and_refusing_a_bad_one(any_store: Store) -> None:
    first, second = Toy(text="a").execute(any_store), Toy(text="b").execute(any_store)
    any_store.alias(first, "prod")
    any_store.alias(second, "prod")
    assert any_store.get("toy@prod") == second
    for bad in ("", "12", "a b", "x/y"):
        with pytest.raises(BadUsage):
            any_store.alias(first, bad)


def test_remove_keeps_what_is_used(any_store: Store) -> None:
    a = Toy(text="a").execute(any_store, name="a")
    Toy(text="b", input="a").execute(any_store, name="b")
    with pytest.raises(BadInput, match=r"used by b@1"):
        any_store.remove(a)
    any_store.remove(a, force=True)
    assert not a.path.exists()
    with pytest.raises(NotFound):
        any_store.get("a")


def test_gc_removes_only_what_nothing_refers_to(any_store: Store) -> None:
    old_parent = Toy(text="p1").execute(any_store, name="parent")
    Toy(text="c", input="parent").execute(any_store, name="child")  # keeps parent@1 alive
    dropped = Toy(text="p2").execute(any_store, name="parent")
    aliased = Toy(text="p3").execute(any_store, name="parent")
    any_store.alias(aliased, "keep")
    latest = Toy(text="p4").execute(any_store, name="parent")
    stray = any_store.workspace / "artifacts" / "parent" / "99"
    stray.mkdir()
    assert any_store.gc(dry_run=True)[0] == [dropped]
    assert dropped.path.exists()
    removed, folders = any_store.gc()
    assert removed == [dropped]
    assert folders == [stray]
    assert not dropped.path.exists()
    assert not stray.exists()
    assert {a.ref for a in any_store.artifacts("dataset")} == {"child@1", old_parent.ref, aliased.ref, latest.ref}


def test_gc_keeps_the_work_of_a_failed_run(store: Store) -> None:
    run = store.start_run("f" * 64, "data.toy", "toy", {}, 0, "")
    scratch = store.workspace / "scratch" / ("f" * 64)
    scratch.mkdir()
    store.end_run(run, "failed", "disk full")
    store.gc()
    assert scratch.exists()
    store.end_run(run, "done")
    store.gc()
    assert not scratch.exists()


def test_a_changed_byte_is_noticed(store: Store) -> None:
    artifact = Toy(text="original").execute(store)
    (artifact.path / "text.txt").write_text("0riginal")
    fresh = mojiang.open(store.workspace)
    with pytest.raises(Corrupted, match=r"checksum of text.txt") as caught:
        fresh.verify(fresh.get("toy"))
    assert "mojiang rm toy@1" in caught.value.hint
    with pytest.raises(Corrupted):
        Toy(text="next", input="toy").execute(fresh)


def test_many_processes_commit_at_once(any_store: Store) -> None:
    """Versions count up without a gap and the same work is done once, whoever comes first."""
    url = any_store.url
    body = """
        store = mojiang.open({workspace!r}, {url!r})
        for i in range(5):
            execute(Toy(text=f"{who}-{{i}}"), store)
            execute(Toy(text=f"shared-{{i}}"), store, name="shared")
        """
    workers = [
        script(any_store.workspace, body.format(workspace=str(any_store.workspace), url=url, who=who)) for who in "abcd"
    ]
    errors = [worker.communicate(timeout=120)[1] for worker in workers]  # all of them first: no pipe is left open
    assert [worker.returncode for worker in workers] == [0] * 4, "\n".join(errors)
    mine = [a for a in any_store.artifacts() if a.name == "toy"]
    assert sorted(a.version for a in mine) == list(range(1, 21))
    assert sorted(a.version for a in any_store.artifacts() if a.name == "shared") == list(range(1, 6))
    for artifact in any_store.artifacts():
        artifact.verify()
    assert not any((any_store.workspace / "tmp").iterdir())


def test_kill_leaves_nothing_half_done_and_the_same_command_continues(tmp_path: Path) -> None:
    workspace = tmp_path / "workspace"
    worker = script(workspace, 'execute(Toy(text="x", seconds=30), store)')
    store = mojiang.open(workspace)
    deadline = time.monotonic() + 60
    while not any(store.workspace.glob("scratch/*/done")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert store.runs()[0]["status"] == "running"
    worker.send_signal(signal.SIGKILL)
    worker.communicate()
    after = mojiang.open(workspace)
    run = after.runs()[0]
    assert run["status"] == "interrupted"
    assert after.artifacts() == []
    assert not any((workspace / "tmp").iterdir())
    # The work so far is still there, and the same recipe continues the same run.
    (next(workspace.glob("scratch/*/done"))).write_text(str(30 * 20))
    again = script(workspace, 'print(execute(Toy(text="x", seconds=30), store).artifact.metrics["ticks"])')
    output, errors = again.communicate(timeout=60)
    assert output.strip() == "600", errors
    assert [(r["id"], r["status"]) for r in after.runs()] == [(run["id"], "done")]
    assert not any(path.is_dir() for path in (workspace / "scratch").iterdir())


def test_kill_at_random_moments_never_harms_the_store(tmp_path: Path) -> None:
    """Whatever the moment, every artifact the catalog knows is whole and the store opens at once."""
    workspace = tmp_path / "workspace"
    body = 'for i in range(10_000): execute(Toy(text=f"{os.getpid()}-{i}" * 1000), store)'
    for delay in (0.05, 0.2, 0.35, 0.5, 0.8):
        worker = script(workspace, body)
        store = mojiang.open(workspace)
        before, deadline = len(store.artifacts()), time.monotonic() + 60
        while len(store.artifacts()) == before and time.monotonic() < deadline:
            time.sleep(0.02)
        time.sleep(delay)
        worker.kill()
        worker.communicate()
        store = mojiang.open(workspace)
        assert {run["status"] for run in store.runs()} <= {"done", "interrupted"}
        for artifact in store.artifacts():
            artifact.verify()
    assert len(store.artifacts()) >= 5
    _, strays = store.gc()
    assert all(path.parent.parent.name == "artifacts" or path.parent.name == "scratch" for path in strays)


def test_a_workspace_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(Unavailable, match="cannot be made"):
        mojiang.open(tmp_path / "file" / "workspace")


def test_a_database_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="127.0.0.1"):
        mojiang.open(tmp_path, "postgresql+psycopg://nobody:secret@127.0.0.1:1/none?connect_timeout=2")
    with pytest.raises(BadUsage, match="not a database URL"):
        mojiang.open(tmp_path, "nonsense")


def test_the_password_is_not_shown(tmp_path: Path) -> None:
    with pytest.raises(Unavailable) as caught:
        mojiang.open(tmp_path, "postgresql+psycopg://nobody:secret@127.0.0.1:1/none?connect_timeout=2")
    assert "secret" not in caught.value.message


def test_unknown_ref_names_the_closest(store: Store) -> None:
    Toy(text="a").execute(store, name="tokenizer")
    with pytest.raises(NotFound) as caught:
        store.get("tokeniser")
    assert "tokenizer" in caught.value.hint
    with pytest.raises(BadInput, match="is a dataset, and a model is needed"):
        store.get("tokenizer", "model")
