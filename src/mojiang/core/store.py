"""The Store: where artifacts and runs live.

A workspace folder holds the files; a catalog (SQLite in the workspace, or PostgreSQL by URL) knows them:

    .mojiang/store.db               the catalog, when it is SQLite
    .mojiang/artifacts/NAME/VERSION the artifacts
    .mojiang/runs/ID/events.jsonl   what each run said
    .mojiang/scratch/FINGERPRINT/   work in progress, kept when a run is killed

An artifact appears in one step: its row and its rename happen inside one transaction.
"""

from __future__ import annotations

import datetime
import os
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import sqlalchemy as sa
from filelock import FileLock, Timeout

from mojiang.core.artifact import KINDS, MANIFEST, Artifact, Kind, Manifest, file_entries, read_manifest
from mojiang.core.config import closest
from mojiang.core.errors import BadInput, BadUsage, Corrupted, NotFound, Unavailable
from mojiang.core.files import atomic_write, fsync_dir, fsync_tree, remove_tree

_tables = sa.MetaData()

ARTIFACTS = sa.Table(
    "artifacts",
    _tables,
    sa.Column("fingerprint", sa.String(64), primary_key=True),
    sa.Column("kind", sa.String(16), nullable=False, index=True),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("created", sa.String(32), nullable=False),
    sa.Column("manifest", sa.Text, nullable=False),
    sa.UniqueConstraint("name", "version"),
)
PARENTS = sa.Table(
    "parents",
    _tables,
    sa.Column("child", sa.String(64), sa.ForeignKey("artifacts.fingerprint", ondelete="CASCADE"), primary_key=True),
    sa.Column("parent", sa.String(64), primary_key=True, index=True),
)
ALIASES = sa.Table(
    "aliases",
    _tables,
    sa.Column("name", sa.String(200), primary_key=True),
    sa.Column("alias", sa.String(100), primary_key=True),
    sa.Column("fingerprint", sa.String(64), sa.ForeignKey("artifacts.fingerprint"), nullable=False),
)
RUNS = sa.Table(
    "runs",
    _tables,
    sa.Column("id", sa.String(32), primary_key=True),
    sa.Column("recipe", sa.String(100), nullable=False),
    sa.Column("name", sa.String(200), nullable=False),
    sa.Column("config", sa.JSON, nullable=False),
    sa.Column("fingerprint", sa.String(64), nullable=False, index=True),
    sa.Column("status", sa.String(16), nullable=False, index=True),
    sa.Column("seed", sa.Integer, nullable=False),
    sa.Column("host", sa.String(200), nullable=False),
    sa.Column("workspace", sa.String(1000), nullable=False),
    sa.Column("pid", sa.Integer, nullable=False),
    sa.Column("started", sa.String(32), nullable=False),
    sa.Column("ended", sa.String(32)),
    sa.Column("error", sa.Text),
    sa.Column("parent", sa.String(32)),
)

PROTECTED_ALIASES = ("prod", "production", "release", "staging")
"""Aliases that other people trust: only a passed gate gives them (`mojiang promote`, or a pipeline with a gate)."""


def now() -> str:
    """The time as ISO 8601 in UTC, to the millisecond, so that it orders what one process makes."""
    return datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")


class Store:
    """Artifacts and runs of one workspace.

    Several processes, and with PostgreSQL several machines, may use a store at once.
    """

    def __init__(self, workspace: Path | str, url: str = "") -> None:
        self.workspace = Path(workspace).expanduser().absolute()
        try:
            for folder in ("artifacts", "runs", "scratch", "tmp"):
                (self.workspace / folder).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise Unavailable(
                f"the workspace {self.workspace} cannot be made: {error.strerror}", hint="choose another --workspace"
            ) from error
        self.url = url or f"sqlite:///{self.workspace / 'store.db'}"
        self._engine = _connect(self.url)
        self._verified: set[str] = set()
        self.mark_interrupted()

    # --- artifacts ---------------------------------------------------------------------------------------------

    def get(self, ref: str, kind: Kind | None = None) -> Artifact:
        """The artifact of a REF: `name` (latest), `name@version`, `name@alias`, a fingerprint prefix or a path."""
        artifact = self.find(ref)
        if artifact is None:
            raise NotFound(f"no artifact is called {ref!r} in {self.workspace}", hint=self._suggest(ref))
        if kind is not None and artifact.kind != kind:
            raise BadInput(
                f"{artifact.ref} is a {artifact.kind}, and a {kind} is needed", hint=f"`mojiang ls {kind}` lists them"
            )
        return artifact

    def find(self, ref: str) -> Artifact | None:
        """The artifact of a REF, or None."""
        if os.sep in ref or ref.startswith("."):
            path = Path(ref)
            return Artifact(read_manifest(path), path.absolute()) if (path / MANIFEST).is_file() else None
        name, _, tag = ref.partition("@")
        query = sa.select(ARTIFACTS).where(ARTIFACTS.c.name == name)
        if tag.isdecimal():
            query = query.where(ARTIFACTS.c.version == int(tag))
        elif tag:
            alias = sa.select(ALIASES.c.fingerprint).where(ALIASES.c.name == name, ALIASES.c.alias == tag)
            query = query.where(ARTIFACTS.c.fingerprint.in_(alias))
        found = self._one(query.order_by(ARTIFACTS.c.version.desc()).limit(1))
        if found is None and not tag and len(ref) >= 6:
            prefix = sa.select(ARTIFACTS).where(ARTIFACTS.c.fingerprint.startswith(ref.lower(), autoescape=True))
            rows = self._artifacts(prefix.limit(2))
            if len(rows) > 1:
                raise BadUsage(f"{ref!r} is the beginning of several fingerprints", hint="give more of it")
            found = rows[0] if rows else None
        return found

    def by_fingerprint(self, fingerprint: str) -> Artifact | None:
        """The artifact with exactly this fingerprint, or None."""
        return self._one(sa.select(ARTIFACTS).where(ARTIFACTS.c.fingerprint == fingerprint))

    def artifacts(self, kind: str = "") -> list[Artifact]:
        """All artifacts, oldest first, or those of one kind."""
        if kind and kind not in KINDS:
            raise BadUsage(f"{kind!r} is not a kind of artifact", hint=closest(kind, KINDS))
        query = sa.select(ARTIFACTS).order_by(ARTIFACTS.c.created, ARTIFACTS.c.name, ARTIFACTS.c.version)
        return self._artifacts(query.where(ARTIFACTS.c.kind == kind) if kind else query)

    def verify(self, artifact: Artifact) -> Artifact:
        """The artifact, its checksums compared (once per process); raises `Corrupted`."""
        if str(artifact.path) not in self._verified:
            artifact.verify()
            self._verified.add(str(artifact.path))
        return artifact

    def commit(self, folder: Path, manifest: Manifest) -> Artifact:
        """Make `folder` an artifact: flush it, give it the next version of its name, and rename it into place.

        If another process committed the same fingerprint meanwhile, that one is returned and `folder` is dropped.
        """
        fsync_tree(folder)
        files = file_entries(folder)
        for _ in range(100):
            try:
                return self._commit_once(folder, manifest.model_copy(update={"files": files}))
            except sa.exc.IntegrityError:
                existing = self.by_fingerprint(manifest.fingerprint)
                if existing is not None:
                    remove_tree(folder)
                    return existing
        raise Unavailable(f"no version of {manifest.name!r} could be had in 100 tries", hint="try again")

    def _commit_once(self, folder: Path, manifest: Manifest) -> Artifact:
        with self._write() as connection:
            highest = sa.select(sa.func.max(ARTIFACTS.c.version)).where(ARTIFACTS.c.name == manifest.name)
            version = (connection.execute(highest).scalar() or 0) + 1
            manifest = manifest.model_copy(update={"version": version})
            text = manifest.model_dump_json(indent=1)
            row = {key: getattr(manifest, key) for key in ("fingerprint", "kind", "name", "version", "created")}
            connection.execute(ARTIFACTS.insert().values(manifest=text, **row))
            parents = {parent for group in manifest.parents.values() for parent in group}
            for parent in sorted(parents):
                connection.execute(PARENTS.insert().values(child=manifest.fingerprint, parent=parent))
            atomic_write(folder / MANIFEST, text + "\n")
            target = self._path(manifest.name, version)
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_tree(target)  # left by a kill between rename and commit: no row ever named it
            os.rename(folder, target)
            fsync_dir(target.parent)
        self._verified.add(str(target))
        return Artifact(manifest, target)

    def alias(self, artifact: Artifact, alias: str) -> None:
        """Point `name@alias` at this artifact."""
        if not alias or alias.isdecimal() or not alias.replace("-", "_").isidentifier():
            raise BadUsage(f"{alias!r} cannot be an alias", hint="use letters, digits and dashes, such as 'prod'")
        with self._write() as connection:
            key = (ALIASES.c.name == artifact.name) & (ALIASES.c.alias == alias)
            connection.execute(ALIASES.delete().where(key))
            values = {"name": artifact.name, "alias": alias, "fingerprint": artifact.fingerprint}
            connection.execute(ALIASES.insert().values(**values))

    def aliases(self) -> dict[str, list[str]]:
        """Aliases by fingerprint."""
        found: dict[str, list[str]] = {}
        with self._read() as connection:
            for row in connection.execute(sa.select(ALIASES)):
                found.setdefault(row.fingerprint, []).append(row.alias)
        return found

    def parents(self, artifact: Artifact) -> list[Artifact]:
        """The artifacts it was made from, those that this store still has."""
        wanted = [fingerprint for group in artifact.manifest.parents.values() for fingerprint in group]
        found = self._artifacts(sa.select(ARTIFACTS).where(ARTIFACTS.c.fingerprint.in_(wanted)))
        return sorted(found, key=lambda parent: wanted.index(parent.fingerprint))

    def children(self, artifact: Artifact) -> list[Artifact]:
        """The artifacts made from it."""
        child = sa.select(PARENTS.c.child).where(PARENTS.c.parent == artifact.fingerprint)
        return self._artifacts(sa.select(ARTIFACTS).where(ARTIFACTS.c.fingerprint.in_(child)))

    def lineage(self, artifact: Artifact) -> list[Artifact]:
        """The artifact and all its ancestors, nearest first, each once."""
        ordered, seen, pending = [], set(), [artifact]
        while pending:
            current = pending.pop(0)
            if current.fingerprint not in seen:
                seen.add(current.fingerprint)
                ordered.append(current)
                pending.extend(self.parents(current))
        return ordered

    def stored(self, ref: str) -> Artifact:
        """The artifact of a REF, which must be this store's own and not a folder elsewhere."""
        artifact = self.get(ref)
        if artifact.path != self._path(artifact.name, artifact.version) or not self.by_fingerprint(
            artifact.fingerprint
        ):
            raise BadUsage(f"{ref!r} is a folder outside this store", hint=f"`mojiang import {ref}` brings it in")
        return artifact

    def remove(self, artifact: Artifact, force: bool = False) -> None:
        """Delete an artifact; one that others or an alias refer to only with `force`."""
        users = [child.ref for child in self.children(artifact)]
        users += [f"alias @{alias}" for alias in self.aliases().get(artifact.fingerprint, [])]
        if users and not force:
            raise BadInput(f"{artifact.ref} is used by {', '.join(users)}", hint="remove those first, or give --force")
        self._delete(artifact)

    def _delete(self, artifact: Artifact) -> None:
        with self._write() as connection:
            connection.execute(ALIASES.delete().where(ALIASES.c.fingerprint == artifact.fingerprint))
            connection.execute(PARENTS.delete().where(PARENTS.c.child == artifact.fingerprint))
            connection.execute(ARTIFACTS.delete().where(ARTIFACTS.c.fingerprint == artifact.fingerprint))
            # Inside the transaction: a commit that takes the same version waits for it.
            remove_tree(self._path(artifact.name, artifact.version))
        self._verified.discard(str(artifact.path))

    def unreferenced(self) -> list[Artifact]:
        """Artifacts that no alias, no latest version and no report on a kept model leads to: what `gc` removes."""
        everything = self.artifacts()
        latest = {artifact.name: artifact for artifact in everything}
        aliased, unfinished = self.aliases(), [run for run in self.runs() if run["status"] != "done"]
        wanted = {word for run in unfinished for value in run["config"].values() for word in _words(value)}
        roots = [a for a in everything if a.fingerprint in aliased or a.fingerprint in wanted or latest[a.name] == a]
        kept = {ancestor.fingerprint for root in roots for ancestor in self.lineage(root)}
        # Evidence on a model that stays is evidence that stays.
        for artifact in everything:
            if artifact.kind == "report" and kept.intersection(*[artifact.manifest.parents.get("model", ())]):
                kept.update(ancestor.fingerprint for ancestor in self.lineage(artifact))
        return [artifact for artifact in everything if artifact.fingerprint not in kept]

    def gc(self, dry_run: bool = False) -> tuple[list[Artifact], list[Path]]:
        """Remove what nothing refers to: old artifacts, stray folders, scratch of finished work.

        Returns the artifacts and the folders removed (or, with `dry_run`, that would be).
        """
        artifacts = self.unreferenced()
        if not dry_run:
            for artifact in reversed(artifacts):
                self._delete(artifact)
        with self._write():  # nobody commits, and so renames a folder into place, while strays are told from artifacts
            strays = [path for path in self._strays() if not self.is_locked(path.name)]
            for path in strays if not dry_run else ():
                remove_tree(path)
        return artifacts, strays

    def _strays(self) -> Iterator[Path]:
        known = {artifact.path for artifact in self.artifacts()}
        for path in sorted(self.workspace.glob("artifacts/*/*")):
            if path not in known:
                yield path
        resumable = {run["fingerprint"] for run in self.runs() if run["status"] != "done"}
        for path in sorted((self.workspace / "scratch").iterdir()):
            if path.is_dir() and path.name not in resumable:
                yield path
        for path in sorted((self.workspace / "tmp").iterdir()):
            if not psutil.pid_exists(int(path.name.rpartition("-")[2])):
                yield path

    def _path(self, name: str, version: int) -> Path:
        return self.workspace / "artifacts" / name / str(version)

    def _artifact(self, row: sa.Row[Any]) -> Artifact:
        try:
            manifest = Manifest.model_validate_json(row.manifest)
        except ValueError as error:
            raise Corrupted(f"the catalog's entry of {row.name}@{row.version} is damaged: {error}") from error
        return Artifact(manifest, self._path(row.name, row.version))

    def _artifacts(self, query: sa.Select[Any]) -> list[Artifact]:
        with self._read() as connection:
            return [self._artifact(row) for row in connection.execute(query)]

    def _one(self, query: sa.Select[Any]) -> Artifact | None:
        found = self._artifacts(query)
        return found[0] if found else None

    def _suggest(self, ref: str) -> str:
        names = {artifact.name for artifact in self.artifacts()}
        return closest(ref.partition("@")[0], names) if names else "the store is empty; `mojiang quickstart` fills it"

    # --- runs --------------------------------------------------------------------------------------------------

    def lock(self, fingerprint: str) -> FileLock:
        """The lock that whoever makes this fingerprint holds; the kernel frees it when the process dies."""
        return FileLock(self.workspace / "scratch" / f"{fingerprint}.lock")

    def is_locked(self, fingerprint: str) -> bool:
        """Whether a living process is making this fingerprint."""
        if not (self.workspace / "scratch" / f"{fingerprint}.lock").exists():
            return False
        lock = self.lock(fingerprint)
        try:
            with lock.acquire(timeout=0):
                return False
        except Timeout:
            return True

    def start_run(
        self, fingerprint: str, recipe: str, name: str, config: dict[str, Any], seed: int, parent: str
    ) -> str:
        """Open a run, or reopen the unfinished one with this fingerprint; returns its id. Hold the lock first."""
        where = {"host": socket.gethostname(), "workspace": str(self.workspace), "pid": os.getpid()}
        unfinished = RUNS.c.status.in_(("interrupted", "failed", "running"))
        with self._write() as connection:
            query = sa.select(RUNS.c.id).where(RUNS.c.fingerprint == fingerprint, unfinished)
            run = connection.execute(query.order_by(RUNS.c.started.desc()).limit(1)).scalar()
            if run is None:
                run = f"{datetime.datetime.now(datetime.UTC):%m%d-%H%M%S}-{uuid.uuid4().hex[:8]}"
                values = {"recipe": recipe, "name": name, "config": config, "seed": seed, "started": now()}
                values |= {"id": run, "fingerprint": fingerprint, "status": "running", "parent": parent or None}
                connection.execute(RUNS.insert().values(**values, **where))
            else:
                values = {"status": "running", "ended": None, "error": None, "parent": parent or None}
                connection.execute(RUNS.update().where(RUNS.c.id == run).values(**values, **where))
        (self.workspace / "runs" / run).mkdir(exist_ok=True)
        return str(run)

    def end_run(self, run: str, status: str, error: str = "") -> None:
        """Close a run with its outcome."""
        with self._write() as connection:
            values = {"status": status, "ended": now(), "error": error or None}
            connection.execute(RUNS.update().where(RUNS.c.id == run).values(**values))

    def runs(self) -> list[dict[str, Any]]:
        """All runs, newest first."""
        with self._read() as connection:
            query = sa.select(RUNS).order_by(RUNS.c.started.desc(), RUNS.c.id.desc())
            return [dict(row._mapping) for row in connection.execute(query)]

    def get_run(self, run: str) -> dict[str, Any]:
        """A run by its id, a unique beginning of it, or `last`."""
        runs = self.runs()
        found = runs[:1] if run == "last" else [row for row in runs if row["id"].startswith(run)]
        exact = [row for row in found if row["id"] == run]
        if len(exact or found) != 1:
            what = "no run is" if not found else f"{len(found)} runs are"
            raise NotFound(f"{what} called {run!r}", hint="`mojiang runs` lists them")
        return (exact or found)[0]

    def events_path(self, run: str) -> Path:
        """The event log of a run."""
        return self.workspace / "runs" / run / "events.jsonl"

    def mark_interrupted(self) -> list[str]:
        """Mark the runs of this workspace whose process died; returns their ids."""
        mine: sa.ColumnElement[bool] = sa.true()  # an SQLite catalog lies in its workspace, whatever that is called now
        if self._engine.dialect.name != "sqlite":
            mine = (RUNS.c.host == socket.gethostname()) & (RUNS.c.workspace == str(self.workspace))
        with self._read() as connection:
            query = sa.select(RUNS.c.id, RUNS.c.fingerprint).where(RUNS.c.status == "running", mine)
            running = list(connection.execute(query))
        dead = [row.id for row in running if not self.is_locked(row.fingerprint)]
        for run in dead:
            for folder in self.workspace.glob(f"tmp/{run}-*"):
                remove_tree(folder)
            with self._write() as connection:
                still = (RUNS.c.id == run) & (RUNS.c.status == "running")
                values = {"status": "interrupted", "ended": now(), "error": "the process ended without a word"}
                connection.execute(RUNS.update().where(still).values(**values))
        return dead

    # --- connections -------------------------------------------------------------------------------------------

    @contextmanager
    def _read(self) -> Iterator[sa.Connection]:
        with _explained(self.url), self._engine.connect() as connection:
            yield connection

    @contextmanager
    def _write(self) -> Iterator[sa.Connection]:
        with _explained(self.url), self._engine.execution_options(mojiang_write=True).begin() as connection:
            yield connection


def _words(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value] if isinstance(value, str) else []


@contextmanager
def _explained(url: str) -> Iterator[None]:
    try:
        yield
    except sa.exc.IntegrityError:
        raise
    except sa.exc.DBAPIError as error:
        shown = sa.make_url(url).render_as_string(hide_password=True)
        raise Unavailable(
            f"the store {shown} failed: {error.orig}", hint="check free disk space, permissions and that it is running"
        ) from error


def _connect(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
        if parsed.drivername == "postgresql":
            parsed = parsed.set(drivername="postgresql+psycopg")
        engine = sa.create_engine(parsed, pool_pre_ping=True)
    except sa.exc.ArgumentError as error:
        raise BadUsage(
            f"--store {url!r} is not a database URL", hint="for example postgresql://user@host/db"
        ) from error
    except (sa.exc.NoSuchModuleError, ModuleNotFoundError) as error:
        raise Unavailable(f"no driver for the store: {error}", hint="pip install 'mojiang[postgres]'") from error
    if engine.dialect.name == "sqlite":
        sa.event.listen(engine, "connect", _sqlite_settings)
        sa.event.listen(engine, "begin", _sqlite_begin)
    with _explained(url), engine.connect() as connection, connection.execution_options(mojiang_write=True).begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.text("SELECT pg_advisory_xact_lock(7305800)"))  # one process makes the tables
        _tables.create_all(connection)
    return engine


def _sqlite_settings(connection: Any, _record: Any) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    for pragma in ("journal_mode=WAL", "busy_timeout=60000", "synchronous=FULL", "foreign_keys=ON"):
        connection.execute(f"PRAGMA {pragma}")


def _sqlite_begin(connection: sa.Connection) -> None:
    # A write transaction takes the lock at once: upgrading a read lock later can fail instead of wait.
    write = connection.get_execution_options().get("mojiang_write")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")
