"""From files of labelled examples to records: tables, JSON of the usual shapes, columns of tags, images.

A `Record` is what one example is made from, still under the names of whoever wrote it. Which split a file belongs to is
read from its name and folders. Formats that are text come decoded, whatever their encoding; a record or file that gives
nothing becomes a `Skip`.
"""

from __future__ import annotations

import gzip
import json
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import yaml

from mojiang.data._formats import (
    Notes,
    Options,
    Skip,
    bounded_lines,
    csv_records,
    json_records,
    jsonl_records,
    kind_of,
    read_decoded,
)
from mojiang.data._forms import FORMS
from mojiang.data._sources import Found

_SPLIT_WORDS: Final = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev", "devel", "development"), "validation"),
    **dict.fromkeys(("test", "testing", "t10k"), "test"),
}
_PICTURES: Final = (".png", ".jpg", ".jpeg")
_TEXTS: Final = ("txt", "markdown", "rst")
_RECORD_BYTES: Final = 64 * 2**20  # a whole SQuAD is one JSON object
_DIGIT_TYPES: Final = {0x08: "u1", 0x09: "i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}

Values = Iterator["tuple[str, Any] | Skip"]


@dataclass(frozen=True)
class Record:
    """One example before it has a form: where it was found and what was there."""

    file: str
    part: str
    value: Any
    split: str = ""  # "train", "validation" or "test" where the file's name says so
    licence: str | None = None
    together: str = ""  # examples with the same word here go to the same split; "" for what their form says

    @property
    def path(self) -> str:
        """`file#part`, the name by which it can be asked for."""
        return f"{self.file}#{self.part}" if self.part else self.file


def split_of(name: str) -> str:
    """The split that a file's name or folders give, or "".

    >>> split_of("data/train-00000-of-00002.parquet"), split_of("dev.tsv"), split_of("contest.csv")
    ('train', 'validation', '')
    """
    for part in reversed(name.lower().split("/")):
        for word in re.split(r"[^a-z0-9]+", part):
            if word in _SPLIT_WORDS:
                return _SPLIT_WORDS[word]
    return ""


def class_of(name: str) -> str | None:
    """The class that a file's folder names, or None for a file that lies in no folder of its own.

    >>> class_of("train/cat/001.png"), class_of("001.png"), class_of("train/001.png")
    ('cat', None, None)
    """
    folder = name.rpartition("/")[0].rpartition("/")[2]
    return None if not folder or folder.lower() in _SPLIT_WORDS else folder


def read_records(file: Found, form: str, columns: Mapping[str, str], notes: Notes) -> Iterator[Record | Skip]:
    """The records of one file that a form can be built from.

    Args:
        file: where it is; its relative name decides the format.
        form: a name in FORMS.
        columns: ours → theirs, where theirs are not the usual names; positions for columns without a header.
        notes: counts of repaired damage are added here.
    """
    split = split_of(file.name)
    for item in _values(file, form, columns, notes):
        yield item if isinstance(item, Skip) else Record(file.name, *item, split=split)


def _values(file: Found, form: str, columns: Mapping[str, str], notes: Notes) -> Values:
    format, _, suffix = kind_of(file.name)
    lower = file.name.lower()
    if format == "parquet":
        return _parquet(file) if not suffix else iter([Skip("compressed-parquet", suffix, file.size)])
    if form == "images" and lower.endswith(_PICTURES):
        return _picture(file)
    if form == "images" and "idx" in lower and format == "txt":
        return _idx(file)
    read = _reader(format, lower.removesuffix(suffix), form, columns, class_of(file.name))
    if read is None:
        return iter([Skip("not-read-for-this-form", f"a {format} file holds no {form} that could be read", file.size)])
    return read_decoded(file.path, file.name, file.size, notes, read)


def _reader(
    format: str, name: str, form: str, columns: Mapping[str, str], folder: str | None
) -> Callable[[Iterator[str]], Values] | None:
    options = Options(record_bytes=_RECORD_BYTES)
    known = FORMS[form].known | {theirs.partition(".")[0] for theirs in columns.values()}
    if format == "jsonl":
        return partial(jsonl_records, options=options)
    if format == "json":
        return partial(json_records, options=options, unwrap=partial(_unwrapped, known, form))
    if form == "tagged" and not name.endswith(".csv"):
        return partial(tagged_sentences, columns=columns, conllu=name.endswith(".conllu"))
    if form == "pairs" and (format == "txt" or name.endswith(".tsv")):
        return partial(_lines_of_pairs, known)
    if format == "csv":
        return partial(csv_records, options=options)
    if form == "conversations" and name.endswith((".yml", ".yaml")):
        return _chatterbot
    if form == "labelled" and format in _TEXTS:
        return partial(_whole_text, folder)
    return None


def _whole_text(folder: str | None, blocks: Iterator[str]) -> Values:
    yield "", {"text": "".join(blocks), "label": folder}


def _unwrapped(known: frozenset[str], form: str, part: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The records in an object that is none itself: SQuAD's articles, or the one list of records it wraps."""
    if isinstance(value, Mapping) and not known & set(value):
        lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(i, Mapping) for i in v)]
        if len(lists) == 1:
            for number, item in enumerate(lists[0], 1):
                yield from _unwrapped(known, form, f"{part}.{number}", item)
            return
    if isinstance(value, Mapping) and form == "spans" and isinstance(value.get("qas"), list):
        for number, question in enumerate(value["qas"], 1):
            yield f"{part}.{number}", {**question, "context": value.get("context")}
        return
    yield part, value


def _lines_of_pairs(known: frozenset[str], blocks: Iterator[str]) -> Values:
    """Source and target with a tab between; a first line that names columns is a header."""
    names: list[str] | None = None
    for number, (line, _) in enumerate(bounded_lines(blocks, _RECORD_BYTES), 1):
        cells = line.strip("\r\n").split("\t")
        if names is None:
            header = len(set(cells) & known) >= 2
            names = cells if header else ["source", "target"]
            if header:
                continue
        if line.strip():
            yield str(number), dict(zip(names, cells, strict=False))


def _chatterbot(blocks: Iterator[str]) -> Values:
    """ChatterBot's corpus: YAML whose `conversations` are lists of texts that take turns."""
    text = "".join(blocks)
    try:
        content = yaml.load(text, Loader=yaml.BaseLoader)  # "Yes" is a text here, and no truth
    except yaml.YAMLError as error:
        yield Skip("broken-yaml", str(error).splitlines()[0], len(text.encode()))
        return
    for number, turns in enumerate(content.get("conversations") or [] if isinstance(content, dict) else [], 1):
        yield str(number), {"messages": [str(turn) for turn in turns]}


# -- tags ---------------------------------------------------------------------------------------------------------


def tagged_sentences(blocks: Iterator[str], columns: Mapping[str, str], conllu: bool = False) -> Values:
    """Sentences of CoNLL columns (a blank line between sentences) or of `word/tag` text (one line each).

    >>> [value for _, value in tagged_sentences(iter(["The/at jury/nn\\n"]), {})]
    [{'tokens': ['The', 'jury'], 'tags': ['at', 'nn']}]
    """
    rows: list[list[str]] = []
    slashed: bool | None = None
    number = 0
    for number, (line, _) in enumerate(bounded_lines(blocks, _RECORD_BYTES), 1):
        cells = line.split("\t") if "\t" in line.strip() else line.split()
        cells = [cell.strip() for cell in cells]
        if slashed is None and any(cells):
            slashed = all("/" in word[1:] for word in line.split())
        if slashed and any(cells):
            yield str(number), _slashed(line.split())
        elif not any(cells):
            if rows:
                yield str(number - len(rows)), _columns(rows, columns, conllu)
            rows = []
        elif cells[0] != "-DOCSTART-" and not (conllu and (line[0] == "#" or not cells[0].isdigit())):
            rows.append(cells)
    if rows:
        yield str(number - len(rows) + 1), _columns(rows, columns, conllu)


def _slashed(words: Iterable[str]) -> dict[str, list[str]]:
    """The last slash parts a word from its tag: `1/2/cd` is `1/2`."""
    parts = [word.rpartition("/") for word in words]
    return {"tokens": [word for word, _, _ in parts], "tags": [tag for _, _, tag in parts]}


def _columns(rows: list[list[str]], columns: Mapping[str, str], conllu: bool) -> dict[str, list[str]]:
    """First column and last, or UD's form and part of speech, or the positions that `columns` gives."""
    usual = {"tokens": 1, "tags": 3} if conllu else {"tokens": 0, "tags": -1}
    at = {
        ours: int(given) if (given := columns.get(ours, "")).lstrip("-").isdigit() else n for ours, n in usual.items()
    }
    return {ours: [row[n] if -len(row) <= n < len(row) else "" for row in rows] for ours, n in at.items()}


# -- images and tables --------------------------------------------------------------------------------------------


def _picture(file: Found) -> Values:
    try:
        yield "", {"image": file.path.read_bytes(), "label": class_of(file.name)}
    except OSError as error:
        yield Skip("unreadable", error.strerror or str(error), file.size)


def _idx(file: Found) -> Values:
    """MNIST's format: images beside the labels whose file is named alike."""
    name = file.path.name
    if "label" in name:
        yield Skip("labels-of-images", "read together with the images", file.size)
        return
    beside = name.replace("images", "labels").replace("idx3", "idx1").replace("idx4", "idx1")
    options = (beside, beside.removesuffix(".gz"), f"{beside}.gz")
    labels = next((p for n in options if (p := file.path.with_name(n)).exists() and n != name), None)
    if labels is None:
        yield Skip("no-labels-file", f"there is no {beside} beside it", file.size)
        return
    try:
        pixels, classes = read_idx(file.path), read_idx(labels)
        if len(pixels) != len(classes):
            raise ValueError(f"{len(pixels)} images and {len(classes)} labels")
    except (OSError, EOFError, ValueError, struct.error) as error:
        yield Skip("broken-idx", str(error), file.size)
        return
    for number, (image, label) in enumerate(zip(pixels, classes.tolist(), strict=True), 1):
        yield str(number), {"image": image, "label": label}


def read_idx(path: Path) -> Any:
    """The array in an idx file, plain or gzipped; ValueError for anything else."""
    import numpy as np

    data = gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()
    zero, kind, dims = struct.unpack_from(">HBB", data)
    if zero or kind not in _DIGIT_TYPES:
        raise ValueError(f"{path.name} does not begin like an idx file")
    shape = struct.unpack_from(f">{dims}I", data, 4)
    return np.frombuffer(data, _DIGIT_TYPES[kind], offset=4 + 4 * dims).reshape(shape)


def _parquet(file: Found) -> Values:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(file.path, pre_buffer=False) as table:
            names = _class_names(table.schema_arrow.metadata or {})
            for batch in table.iter_batches(batch_size=256, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield str(number), {key: _named(value, names.get(key)) for key, value in row.items()}
    except pa.ArrowException as error:
        yield Skip("broken-parquet", str(error).splitlines()[0], file.size, str(number + 1) if number else "")
    except OSError as error:
        yield Skip("unreadable", error.strerror or str(error), file.size)


def _class_names(metadata: Mapping[bytes, bytes]) -> dict[str, list[str]]:
    """The names behind the numbers of ClassLabel columns, which `datasets` keeps in the file."""
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
    except (KeyError, ValueError, TypeError):
        return {}
    inner = {name: value.get("feature", value) for name, value in features.items() if isinstance(value, dict)}
    return {name: value["names"] for name, value in inner.items() if isinstance(value, dict) and value.get("names")}


def _named(value: Any, names: list[str] | None) -> Any:
    if not names:
        return value
    if isinstance(value, list):
        return [_named(item, names) for item in value]
    return names[value] if isinstance(value, int) and 0 <= value < len(names) else value
