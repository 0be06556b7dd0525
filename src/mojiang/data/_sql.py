"""Rows of a database: any that SQLAlchemy speaks to, streamed, and continued by a key when it breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Any

from mojiang.core.errors import BadInput, BadUsage, Unavailable
from mojiang.data._snapshot import CHUNK_ROWS, Snapshot, from_environment, name_of

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection, Engine


def fetch_sql(
    source: str, query: str | None, key: str | None, shot: Snapshot, check_stop: Callable[[], None],
    progress: Callable[[float, float], None],
) -> None:  # fmt: skip
    """Stream the rows of a query into the snapshot.

    With `key`, a column of the result that is unique and in order, a broken read goes on after the last key seen;
    without one it begins again, since no database promises the same order twice.

    Raises:
        BadUsage: there is no query.
        Unavailable: the database or its driver is not there.
        BadInput: the query does not run.
    """
    from sqlalchemy import exc

    if query is None:
        raise BadUsage(f"{name_of(source)} is a database", hint='say what to read: --query "SELECT text FROM posts"')
    if shot.done:
        return
    engine, name = _engine(source), name_of(source)
    try:
        connection = engine.connect()
    except exc.SQLAlchemyError as error:
        raise Unavailable(
            f"{name} cannot be opened: {_said(error)}", hint="check address, user and password"
        ) from error
    try:
        with connection:
            _stream(connection, query, key, shot, name, check_stop, progress)
    except exc.SQLAlchemyError as error:
        if shot.chunks and isinstance(error, exc.OperationalError):
            hint = (
                "the same command continues after the last key" if key else "with --key NAME it would go on from here"
            )
            raise Unavailable(f"{name} broke off: {_said(error)}", hint=hint) from error
        raise BadInput(f"the query fails: {_said(error)}", hint="check the names in it, and --key") from error
    finally:
        engine.dispose()


def _said(error: Exception) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]


def _engine(source: str) -> Engine:
    from sqlalchemy import create_engine, exc

    try:
        return create_engine(from_environment(source))
    except ModuleNotFoundError as error:
        hint = "pip install 'mojiang[postgres]' for postgresql+psycopg://; other databases have drivers of their own"
        raise Unavailable(f"there is no driver for {name_of(source)}: {error.name}", hint=hint) from error
    except (exc.ArgumentError, exc.NoSuchModuleError, ValueError) as error:
        raise BadUsage(
            f"{name_of(source)} is no address of a database: {error}",
            hint="such as sqlite:///file.db or postgresql+psycopg://user:$PASSWORD@host/name",
        ) from error


def _stream(
    connection: Connection, query: str, key: str | None, shot: Snapshot, name: str, check_stop: Callable[[], None],
    progress: Callable[[float, float], None],
) -> None:  # fmt: skip
    from sqlalchemy import text

    options: dict[str, Any] = {"stream_results": True, "yield_per": CHUNK_ROWS}
    if connection.dialect.name == "postgresql":
        options["postgresql_readonly"] = True
    elif connection.dialect.name == "sqlite":
        connection.exec_driver_sql("PRAGMA query_only = ON")
    if key is None and shot.chunks:
        shot.restart()
    statement, values = query.strip().rstrip(";"), {}
    if key is not None:
        column = connection.dialect.identifier_preparer.quote(key)
        where = f" WHERE {column} > :last_key" if shot.next is not None else ""
        values = {"last_key": shot.next} if shot.next is not None else {}
        statement = f"SELECT * FROM ({statement}) AS asked{where} ORDER BY {column}"
    rows: Iterator[dict[str, Any]] = (
        dict(row) for row in connection.execution_options(**options).execute(text(statement), values).mappings()
    )
    chunk = list(islice(rows, CHUNK_ROWS))
    while True:
        check_stop()
        following = list(islice(rows, CHUNK_ROWS))
        shot.add(chunk, name, _mark(chunk, key) if following else None)
        progress(len(shot.chunks), len(shot.chunks) + bool(following))
        if not following:
            return
        chunk = following


def _mark(rows: list[dict[str, Any]], key: str | None) -> Any:
    """What to continue after: the last key, or a row count that only says "not done"."""
    if key is None:
        return len(rows)
    if key not in rows[-1]:
        raise BadInput(f"the rows have no column {key!r}", hint=f"they have {', '.join(rows[-1])}")
    value = rows[-1][key]
    return value if isinstance(value, int | float | str) else str(value)
