"""Rows of SQLite (and of PostgreSQL where there is one), streamed, resumed by key, with errors explained."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mojiang.core.errors import BadInput, BadUsage, Interrupted, Unavailable
from mojiang.core.report import Report
from mojiang.data import _sql
from mojiang.data._snapshot import Snapshot
from mojiang.data.load import Load


@pytest.fixture
def base(tmp_path: Path) -> str:
    path = tmp_path / "posts.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE posts (id INTEGER PRIMARY KEY, title TEXT, body TEXT, licence TEXT, at DATE)")
    rows = [
        (i, f"Title {i}", f"这是第{i}篇文章的正文。" if i % 10 else None, "CC0-1.0", "2020-01-01") for i in range(5000)
    ]
    connection.executemany("INSERT INTO posts VALUES (?,?,?,?,?)", rows)
    connection.commit()
    connection.close()
    return f"sqlite:///{path}"


def test_rows_become_documents_and_missing_text_is_counted(base: str, make: Callable[..., Any], rows: Any) -> None:
    made = make(Load(source=base, query="SELECT * FROM posts", text_fields=("body",)))
    found = rows(made)
    assert [row["text"] for row in found] == [f"这是第{i}篇文章的正文。" for i in range(5000) if i % 10]
    assert {(row["licence"], row["source"]) for row in found} == {("CC0-1.0", base)}
    dropped = {str(row[0]): row[1] for row in Report.load(made.path).table("dropped by reason").rows}
    assert dropped == {"missing-text-field": 500}


def test_an_interrupted_read_goes_on_after_the_last_key(base: str, tmp_path: Path) -> None:
    shot = Snapshot(tmp_path / "shot")

    def stop() -> None:
        if len(shot.chunks) == 2:
            raise Interrupted("stopped")

    args = ("SELECT id, title FROM posts", "id")
    with pytest.raises(Interrupted):
        _sql.fetch_sql(base, *args, shot, stop, lambda *_: None)
    again = Snapshot(tmp_path / "shot")
    assert again.next == 1999
    with sqlite3.connect(base.removeprefix("sqlite:///")) as connection:
        connection.execute("UPDATE posts SET title = 'changed'")
    connection.close()
    _sql.fetch_sql(base, *args, again, lambda: None, lambda *_: None)
    lines = [line for file in again.files() for line in file.path.read_text().splitlines()]
    assert [("changed" in line) for line in lines] == [False] * 2000 + [True] * 3000  # what was here is not read again


def test_without_a_key_it_begins_again(base: str, tmp_path: Path) -> None:
    shot = Snapshot(tmp_path / "shot")
    shot.add([{"text": "of the first attempt"}], "x", 1000)
    _sql.fetch_sql(base, "SELECT title AS text FROM posts", None, shot, lambda: None, lambda *_: None)
    assert sum(len(file.path.read_text().splitlines()) for file in shot.files()) == 5000


def test_wrong_queries_are_explained_and_nothing_is_written(base: str, make: Callable[..., Any]) -> None:
    with pytest.raises(BadUsage, match="is a database"):
        make(Load(source=base))
    with pytest.raises(BadInput, match="no such table: nowhere"):
        make(Load(source=base, query="SELECT text FROM nowhere"))
    with pytest.raises(BadInput, match="readonly|attempt to write"):
        make(Load(source=base, query="DELETE FROM posts RETURNING id"))
    with pytest.raises(BadInput, match="no such column|no column"):
        make(Load(source=base, query="SELECT title FROM posts", key="id", text_fields=("title",)))
    with pytest.raises(Unavailable, match="cannot be opened"):
        make(Load(source="sqlite:////nowhere/at/all.db", query="SELECT 1"))
    with pytest.raises(Unavailable, match="no driver"):
        make(Load(source="oracle+oracledb://host/x", query="SELECT 1"))
    with pytest.raises(BadUsage, match="no address of a database"):
        make(Load(source="nonsense://host/x", query="SELECT 1"))


@pytest.mark.service
def test_postgresql_streams(make: Callable[..., Any], rows: Any) -> None:
    url = os.environ.get("MOJIANG_TEST_POSTGRES")
    if not url:
        pytest.skip("MOJIANG_TEST_POSTGRES names no server")
    query = "SELECT n AS id, 'row number ' || n AS text FROM generate_series(1, 3000) AS n"
    found = rows(make(Load(source=url, query=query, key="id")))
    assert [row["text"] for row in found] == [f"row number {n}" for n in range(1, 3001)]
