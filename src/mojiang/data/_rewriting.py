"""Rewrite the texts of examples as a step rewrites those of documents: labels, splits and ids stay as they are.

Only what a step changes without judging can be done to examples: a question of one word is no bad document. Where
answers or tags stand at places in the text, nothing can be rewritten without moving them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import pyarrow as pa
import pyarrow.parquet as pq

from mojiang.core.errors import BadInput
from mojiang.data._accounting import Accounting, Tally
from mojiang.data._documents import SCHEMA, SPLITS, ShardWriter, read_shards
from mojiang.data._forms import FORMS, size_of

if TYPE_CHECKING:
    from mojiang.core.run import Run
    from mojiang.data._mapping import Mapped, Step

_REWRITABLE: Final = ("labelled", "pairs", "conversations", "preferences", "prompts")
_NO_TEXT: Final = frozenset(("label", "kind", "tools", "tags", "image", "desirable"))
Row = dict[str, Any]
Place = tuple[str, int]  # a column, and the message in it


def example_shards(source: Path) -> list[tuple[str, str, list[Path]]]:
    """(form, split, shards) of a dataset of examples; nothing for documents."""
    every = [(form, split, sorted((source / split).glob(f"{form}-*.parquet"))) for form in FORMS for split in SPLITS]
    return [(form, split, shards) for form, split, shards in every if shards and form != "documents"]


def rewrite_examples(run: Run, step: Step, source: Path, books: Accounting, beside: ShardWriter | None) -> None:
    """Run a step over every text of a dataset of examples; an example goes if one of its texts does.

    Raises:
        BadInput: examples of this form cannot be rewritten.
    """
    books.composition = {name: defaultdict(Tally) for name in ("split", "language", "licence")}
    for form, split, shards in example_shards(source):
        if form not in _REWRITABLE:
            raise BadInput(f"{form} cannot be rewritten: answers and tags stand at places in their texts")
        with ShardWriter(run.out / split, form, pq.read_schema(shards[0])) as writer:
            for batch in read_shards(shards):
                for row in _rewritten(step, form, batch.to_pylist(), books, beside):
                    books.keep({**row, "split": split})
                    writer.add(row)
                run.progress(books.documents.documents, books.documents.documents, unit="examples")
                run.check_stop()


def _rewritten(step: Step, form: str, rows: list[Row], books: Accounting, beside: ShardWriter | None) -> Iterator[Row]:
    places: dict[str, tuple[int, Place]] = {}
    texts: list[Row] = []
    for number, row in enumerate(rows):
        for place, text in _texts(row, form):
            id = f"{number}.{len(places)}"
            places[id] = (number, place)
            texts.append({"id": id, "path": row["path"], "source": "", "licence": row["licence"], "format": "txt",
                          "language": row["language"], "bytes": len(text.encode()), "text": text})  # fmt: skip
    mapped: Mapped = step(pa.RecordBatch.from_pylist(texts, schema=SCHEMA))
    books.changes.absorb(mapped.changes)
    books.saw(sum(row["bytes"] for row in rows), len(rows))
    gone = {places[drop.id][0]: drop for drop in mapped.drops}
    for number, drop in gone.items():
        books.drop(replace(drop, id=rows[number]["id"], bytes=rows[number]["bytes"]))
    for found in mapped.kept.select(["id", "text"]).to_pylist():
        number, (column, message) = places[found["id"]]
        if message < 0:
            rows[number][column] = found["text"]
        else:
            rows[number][column][message]["content"] = found["text"]
    for found in mapped.beside if beside is not None else ():
        number, (column, message) = places[found["document"]]
        if number not in gone and beside is not None:
            where = column if message < 0 else f"{column}.{message}"
            beside.add({**found, "document": f"{rows[number]['id']}:{where}"})
    for number, row in enumerate(rows):
        if number not in gone:
            row["bytes"] = size_of(FORMS[form], row)
            yield row


def _texts(row: Row, form: str) -> Iterator[tuple[Place, str]]:
    for column in FORMS[form].columns:
        value = row.get(column.name)
        if column.name in _NO_TEXT or not value:
            continue
        if isinstance(value, str):
            yield (column.name, -1), value
        elif isinstance(value, list):
            for number, message in enumerate(value):
                if isinstance(message, dict) and message.get("content"):
                    yield (column.name, number), message["content"]
