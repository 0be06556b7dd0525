"""From a file to the texts in it, whatever its format, in bounded memory.

`read_file` yields a `Piece` for each document and a `Skip` for each record or file that gives none: nothing is passed
over in silence. Memory is bounded by a few times `max_document_bytes` plus `record_bytes`, never by the file.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Final, TypeVar

import zstandard

from mojiang.data._encoding import DAMAGED, Decoder, decode_stream, detect, read_evidence
from mojiang.data._html import Page, html_page
from mojiang.data._packed import COMPRESSED, Bomb, open_packed

Item = TypeVar("Item")
Unwrap = Callable[[str, Any], Iterator[tuple[str, Any]]]

# Extension → (format, language). Prose gets its language from the text; source code is in its programming language.
_CODE: Final = {
    "python": "py pyi pyw pyx", "c": "c h", "cpp": "cc cpp cxx hpp hh hxx", "java": "java", "go": "go", "rust": "rs",
    "javascript": "js mjs cjs jsx", "typescript": "ts tsx mts", "ruby": "rb", "php": "php", "csharp": "cs",
    "lua": "lua", "kotlin": "kt kts", "swift": "swift", "scala": "scala", "shell": "sh bash zsh fish",
    "powershell": "ps1", "r": "r", "perl": "pl pm", "julia": "jl", "haskell": "hs", "ocaml": "ml mli",
    "erlang": "erl", "elixir": "ex exs", "zig": "zig", "clojure": "clj", "lisp": "lisp el scm", "sql": "sql",
    "css": "css scss less", "vue": "vue", "dart": "dart", "cuda": "cu cuh", "fortran": "f f90 f95",
    "assembly": "s asm", "cmake": "cmake", "protobuf": "proto", "toml": "toml", "yaml": "yaml yml",
    "ini": "ini cfg conf", "xml": "xml xsd", "tex": "tex", "makefile": "mk", "nix": "nix", "dockerfile": "dockerfile",
    "verilog": "v sv", "vhdl": "vhd vhdl", "solidity": "sol", "graphql": "graphql", "diff": "diff patch",
}  # fmt: skip
_FORMATS: Final = {
    "markdown": "md markdown mdx", "rst": "rst", "html": "html htm xhtml", "json": "json ipynb", "csv": "csv tsv",
    "jsonl": "jsonl ndjson", "parquet": "parquet", "pdf": "pdf", "docx": "docx docm", "mail": "eml mbox",
    "warc": "warc wet",
}  # fmt: skip
_BY_EXTENSION: Final[dict[str, tuple[str, str | None]]] = {
    **{ext: ("code", language) for language, exts in _CODE.items() for ext in exts.split()},
    **{ext: (name, None) for name, exts in _FORMATS.items() for ext in exts.split()},
}
_BY_NAME: Final = {"makefile": "makefile", "dockerfile": "dockerfile", "rakefile": "ruby", "cmakelists.txt": "cmake"}
_CONTAINERS: Final = ("pdf", "docx", "mail", "warc")
_SHELLS: Final = {"sh": "shell", "bash": "shell", "zsh": "shell", "node": "javascript"}
_SHEBANG: Final = re.compile(r"#!.*?\b(python|bash|sh|zsh|perl|ruby|node)")
_HTML_BYTES: Final = 32 * 2**20  # an HTML tree takes about ten times its source


@dataclass(frozen=True)
class Options:
    """What reading depends on besides the file."""

    max_document_bytes: int = 1_000_000
    max_prose_bytes: int = 1_000_000
    text_fields: tuple[str, ...] = ("text",)
    record_bytes: int = 16 * 2**20
    whole_pages: bool = False
    """Leave the boilerplate in HTML pages."""


@dataclass(frozen=True)
class Piece:
    """One document. `part` is "" for a whole file; `language` is None where the text must tell."""

    text: str
    part: str
    format: str
    language: str | None
    licence: str | None = None
    origin: str = ""  # where it was, if that says more than the file's name: an address, a Message-ID
    time: str = ""  # ISO 8601; when it was written or fetched, if that is known better than by the file
    sha256: str = ""  # of what it was read from, if that is not the whole file


@dataclass(frozen=True)
class Skip:
    """A file or record that gives no document, and why."""

    reason: str
    detail: str
    bytes: int
    part: str = ""
    origin: str = ""


@dataclass
class Notes:
    """What happened on the way that did not cost a document."""

    counts: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)

    def saw_page(self, page: Page) -> None:
        """Count what an HTML page lost on its way to text."""
        self.counts["HTML pages without their boilerplate"] += page.removed > 0
        self.counts["characters of boilerplate left out"] += page.removed
        self.counts["HTML pages nested too deeply, of which only the tags were left out"] += page.flat

    def __iadd__(self, other: Notes) -> Notes:
        self.counts += other.counts
        self.encodings += other.encodings
        return self


def kind_of(name: str) -> tuple[str, str | None, str]:
    """Format, programming language (or None) and compression suffix that a file name promises.

    >>> kind_of("src/Main.java"), kind_of("wiki.JSONL.zst"), kind_of("NOTES")
    (('code', 'java', ''), ('jsonl', None, '.zst'), ('txt', None, ''))
    """
    base = name.rpartition("/")[2].lower()
    suffix = next((s for s in COMPRESSED if base.endswith(s)), "")
    base = base.removesuffix(suffix)
    if base in _BY_NAME:
        return "code", _BY_NAME[base], suffix
    _, dot, extension = base.rpartition(".")
    return (*_BY_EXTENSION.get(extension if dot else "", ("txt", None)), suffix)


def read_file(path: Path, name: str, size: int, options: Options, notes: Notes) -> Iterator[Piece | Skip]:
    """The documents in one file.

    Args:
        path: where it is.
        name: its relative name, which decides the format.
        size: bytes on disk, used to say how much a skipped file would have been.
        options: limits and field names.
        notes: counts of repaired damage are added here.
    """
    format, language, suffix = kind_of(name)
    if format == "parquet":
        pieces = (
            _parquet(path, size, options, notes) if not suffix else iter([Skip("compressed-parquet", suffix, size)])
        )
        yield from _readable(pieces, size)
        return
    if format == "txt" and _is_mail(path, suffix):
        format = "mail"
    if format in _CONTAINERS:
        yield from _readable(_contained(path, format, suffix, size, options, notes), size)
        return
    if name.endswith(".svg"):
        yield Skip("binary", "an image", size)
        return

    def texts(blocks: Iterator[str]) -> Iterator[Piece | Skip]:
        return _texts(blocks, format, language, size, options, notes)

    yield from read_decoded(path, name, size, notes, texts)


def _is_mail(path: Path, suffix: str) -> bool:
    from mojiang.data._mail import looks_like_mail

    try:
        with open_packed(path, suffix) as stream:
            return looks_like_mail(stream.read(16384))
    except (OSError, EOFError, zlib.error, zstandard.ZstdError):
        return False  # reading the file will say why


def _contained(
    path: Path, format: str, suffix: str, size: int, options: Options, notes: Notes
) -> Iterator[Piece | Skip]:
    """The documents of a file that is no stream of characters."""
    from mojiang.data import _docx, _mail, _pdf, _warc

    if format in ("pdf", "docx"):
        read = _pdf.read_pdf if format == "pdf" else _docx.read_docx
        yield from read(path, size, options, notes, partial(open_packed, suffix=suffix) if suffix else None)
        return
    with open_packed(path, suffix) as stream:
        yield from (_mail.read_mail if format == "mail" else _warc.read_warc)(stream, size, options, notes)


def digest(data: bytes) -> str:
    """SHA-256 of bytes, in hex."""
    return hashlib.sha256(data).hexdigest()


def read_decoded(
    path: Path, name: str, size: int, notes: Notes, read: Callable[[Iterator[str]], Iterator[Item]]
) -> Iterator[Item | Skip]:
    """What `read` makes of the decoded blocks of a file, and a `Skip` where it is no text or cannot be read on."""
    return _readable(_decoded(path, name, size, notes, read), size)


def _decoded(
    path: Path, name: str, size: int, notes: Notes, read: Callable[[Iterator[str]], Iterator[Item]]
) -> Iterator[Item | Skip]:
    format, language, suffix = kind_of(name)
    with open_packed(path, suffix) as stream:
        data, whole = read_evidence(stream)
    found = detect(data, "python" if language == "python" else format, whole)
    if not found.is_text:
        yield Skip("binary", found.evidence, size)
        return
    notes.encodings[found.name] += 1
    decoder = Decoder(found.name)
    damage: list[Exception] = []
    with io.BytesIO(data) if whole else open_packed(path, suffix) as stream:
        yield from read(_until_damage(decode_stream(stream, decoder), damage))
    if decoder.broken:
        notes.counts["broken characters replaced by U+FFFD"] += decoder.broken
        notes.counts["files with broken characters"] += 1
    if damage:
        raise damage[0]


def _until_damage(blocks: Iterator[str], damage: list[Exception]) -> Iterator[str]:
    """The blocks before the place where a compressed file is damaged, so that what is whole before it is not lost."""
    try:
        yield from blocks
    except DAMAGED as error:
        damage.append(error)


def _readable(items: Iterator[Item | Skip], size: int) -> Iterator[Item | Skip]:
    """The items of a file, ended by a `Skip` when it cannot be read any further."""
    try:
        yield from items
    except FileNotFoundError:
        yield Skip("vanished", "the file was there when the folder was listed", size)
    except Bomb as error:
        yield Skip("compression-bomb", str(error), size)
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        yield Skip("broken-compression", str(error), size)
    except OSError as error:
        # gzip reports bad data as BadGzipFile, an OSError without a number.
        yield Skip("unreadable" if error.errno else "broken-compression", error.strerror or str(error), size)


def _texts(
    blocks: Iterator[str], format: str, language: str | None, size: int, options: Options, notes: Notes
) -> Iterator[Piece | Skip]:
    records: dict[str, Callable[[Iterator[str], Options], Iterator[tuple[str, Any] | Skip]]]
    records = {"jsonl": jsonl_records, "json": json_records, "csv": csv_records}
    if format in records:
        for item in records[format](blocks, options):
            yield from [item] if isinstance(item, Skip) else _record(*item, format, options, notes)
        return
    licence = None
    if format == "html":
        source = "".join(_at_most(blocks, _HTML_BYTES))
        if len(source) > _HTML_BYTES:
            yield Skip("html-too-large", f"more than {_HTML_BYTES} characters", size)
            return
        page = html_page(source, options.whole_pages)
        notes.saw_page(page)
        blocks, licence = iter([page.text]), page.licence
    limit = options.max_document_bytes if format == "code" else options.max_prose_bytes
    for number, (text, last) in enumerate(cut(blocks, limit, notes), 1):
        if number == 1 and format == "txt" and (found := _SHEBANG.match(text)):
            format, language = "code", _SHELLS.get(found[1], found[1])
        yield Piece(text, "" if last and number == 1 else str(number), format, language, licence)


def _at_most(blocks: Iterator[str], limit: int) -> Iterator[str]:
    total = 0
    for block in blocks:
        yield block
        total += len(block)
        if total > limit:
            return


def cut(blocks: Iterator[str], limit: int, notes: Notes) -> Iterator[tuple[str, bool]]:
    """Cut a stream of text into pieces of at most `limit` UTF-8 bytes, at blank lines or line ends.

    A line longer than that is cut at a space or after a sentence, or, failing both, between two characters; nothing is
    lost. Yields (piece, whether it is the last); an empty stream yields one empty piece.
    """
    held, at, pending = "", 0, None
    for block in blocks:
        held, at = held[at:] + block, 0
        while len(held) - at > limit:
            end = _cut_point(held, at, limit, notes)
            if pending is not None:
                yield pending, False
            pending, at = held[at:end], end
    while at < len(held):
        end = _cut_point(held, at, limit, notes)
        if pending is not None:
            yield pending, False
        pending, at = held[at:end], end
    yield pending or "", True


def _cut_point(held: str, at: int, limit: int, notes: Notes) -> int:
    window = held[at : at + limit].encode("utf-8", "surrogatepass")[:limit].decode("utf-8", "ignore")
    end = at + len(window)
    if end >= len(held):
        return len(held)
    half = at + len(window) // 2
    for mark in ("\n\n", "\n", "\r"):
        found = held.rfind(mark, half if mark == "\n\n" else at, end)
        if found >= at:
            return found + len(mark)
    notes.counts["lines longer than a document, cut"] += 1
    for mark in ("。", ". ", " ", "，"):
        found = held.rfind(mark, half, end)
        if found >= half:
            return found + len(mark)
    return max(end, at + 1)


def _record(part: str, value: Any, format: str, options: Options, notes: Notes) -> Iterator[Piece | Skip]:
    """The documents of one JSON value or CSV row."""
    text = text_of(value, options.text_fields)
    if text is None:
        seen = ", ".join(sorted(map(str, value))[:12]) if isinstance(value, dict) else type(value).__name__
        size = len(json.dumps(value, ensure_ascii=False).encode("utf-8", "surrogatepass"))
        yield Skip("missing-text-field", f"has {seen}", size, part)
        return
    licence = None
    if isinstance(value, dict):
        licence = next((v for key in ("licence", "license") if isinstance(v := value.get(key), str) and v), None)
    # JSON may escape half a surrogate pair, which no UTF-8 file can hold.
    text = text.encode("utf-8", "replace").decode() if _surrogates(text) else text
    for number, (piece, last) in enumerate(cut(iter([text]), options.max_document_bytes, notes), 1):
        yield Piece(piece, part if last and number == 1 else f"{part}.{number}", format, None, licence)


def _surrogates(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def text_of(value: Any, fields: tuple[str, ...]) -> str | None:
    """The text of a record: a string itself, or its `fields` joined by blank lines; None when it has none of them.

    >>> text_of({"title": "静夜思", "text": ["床前明月光", "疑是地上霜"], "n": 3}, ("title", "text"))
    '静夜思\\n\\n床前明月光\\n疑是地上霜'
    """
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        return None
    found = []
    for name in fields:
        item = value.get(name)
        if isinstance(item, list) and item and all(isinstance(line, str) for line in item):
            item = "\n".join(item)
        if isinstance(item, str):
            found.append(item)
    return "\n\n".join(found) if found else None


def bounded_lines(blocks: Iterator[str], limit: int) -> Iterator[tuple[str, int]]:
    """Lines with their ends, and how many characters of each were left out because it is longer than `limit`."""
    held, left_out = "", 0
    for block in blocks:
        *lines, rest = block.split("\n")
        for line in lines:
            held += line
            yield (held[:limit] if len(held) > limit else held + "\n"), left_out + max(0, len(held) - limit)
            held, left_out = "", 0
        held += rest
        if len(held) > limit:
            left_out += len(held) - limit
            held = held[:limit]
    if held:
        yield held, left_out


def jsonl_records(blocks: Iterator[str], options: Options) -> Iterator[tuple[str, Any] | Skip]:
    """(line number, value) of each line of JSON."""
    for number, (line, left_out) in enumerate(bounded_lines(blocks, options.record_bytes), 1):
        part, size = str(number), len(line.encode("utf-8", "surrogatepass"))
        if left_out:
            yield Skip("record-too-long", f"line of {len(line) + left_out} characters", size + left_out, part)
        elif line.strip():
            try:
                yield part, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Skip("broken-json", f"line {number}: {error}", size, part)


def json_records(
    blocks: Iterator[str], options: Options, unwrap: Unwrap | None = None
) -> Iterator[tuple[str, Any] | Skip]:
    """(number, value) of an array of records, one record, what an object wraps, or one record after another."""
    decoder, held, at, number = json.JSONDecoder(), "", 0, 0
    between = re.compile(r"[\s,]*")
    array: bool | None = None
    exhausted = False
    while True:
        match = between.match(held, at)
        at = match.end() if match else at
        if array is None and at < len(held):
            array = held[at] == "["
            at += array
            continue
        if at < len(held) and not (array and held[at] == "]"):
            try:
                value, at = decoder.raw_decode(held, at)
                number += 1
                yield from _numbered(number, (unwrap or partial(_expanded, fields=options.text_fields)), value)
                continue
            except (ValueError, RecursionError) as error:
                too_long = len(held) - at > options.record_bytes
                if exhausted or too_long:
                    rest = len(held) - at + sum(len(block) for block in blocks)
                    reason = "record-too-long" if too_long else "broken-json"
                    yield Skip(reason, f"after {number} records: {error}", rest, str(number + 1))
                    return
        elif exhausted or at < len(held):
            if array and exhausted and at >= len(held):
                yield Skip("broken-json", f"the array is not closed after {number} records", 0, str(number + 1))
            elif rest := len(held[at + 1 :].strip()) + sum(len(block.strip()) for block in blocks):
                yield Skip("broken-json", f"something follows the array of {number} records", rest, str(number + 1))
            return
        # Doubling keeps the repeated attempts at one long record linear in its length.
        held, at = held[at:], 0
        more = "".join(_at_most(blocks, max(1, len(held))))
        exhausted = not more
        held += more


def _numbered(number: int, unwrap: Unwrap, value: Any) -> Iterator[tuple[str, Any]]:
    """What one value holds, numbered apart from what others hold: those of a later one with its own number before."""
    for part, item in unwrap(str(number), value):
        yield part if number == 1 or item is value else f"{number}/{part}", item


def _expanded(part: str, value: Any, fields: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and text_of(value, fields) is None:
        lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(item, dict) for item in v)]
        if len(lists) == 1:
            yield from ((str(number), item) for number, item in enumerate(lists[0], 1))
            return
    yield part, value


def csv_records(blocks: Iterator[str], options: Options) -> Iterator[tuple[str, Any] | Skip]:
    """(line number, {column: cell}) of each row under a header; commas, tabs, semicolons or bars."""
    long_lines: list[Skip] = []

    def lines() -> Iterator[str]:
        for number, (line, left_out) in enumerate(bounded_lines(blocks, options.record_bytes), 1):
            if left_out:
                size = len(line) + left_out
                long_lines.append(Skip("record-too-long", f"line of {size} characters", size, str(number)))
            else:
                taken.append(len(line.encode("utf-8", "surrogatepass")))
                yield line

    taken: list[int] = []  # bytes of the lines that the row at hand is made of
    source = lines()
    first = next(source, "")
    delimiter = max(",\t;|", key=first.count)
    rows = csv.reader(_chain(first, source), delimiter=delimiter, strict=True)
    limit_before = csv.field_size_limit(options.record_bytes)
    header: list[str] | None = None
    before = 0
    try:
        while True:
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                where = (
                    f"line {rows.line_num}" if rows.line_num == before + 1 else f"lines {before + 1}-{rows.line_num}"
                )
                yield Skip("broken-csv", f"{where}: {error}", sum(taken), str(rows.line_num))
                continue
            finally:
                before = rows.line_num
                size, taken[:] = sum(taken), []
            if header is None:
                header = row
            elif any(row[len(header) :]):  # a comma too many would cut the text short
                said = f"line {rows.line_num}: {len(row)} cells, and the header names {len(header)}; quote cells"
                yield Skip("too-many-cells", said, size, str(rows.line_num))
            elif row:
                yield str(rows.line_num), dict(zip(header, row, strict=False))
    finally:
        csv.field_size_limit(limit_before)
    yield from long_lines


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _parquet(path: Path, size: int, options: Options, notes: Notes) -> Iterator[Piece | Skip]:
    """Row group by row group: a broken one costs its own rows and no others."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            names = file.schema_arrow.names
            wanted = [name for name in (*options.text_fields, "licence", "license") if name in names]
            if not set(wanted) & set(options.text_fields):
                yield Skip("missing-text-field", f"has {', '.join(names[:12])}", size)
                return
            for group in range(file.num_row_groups):
                first, rows = number, file.metadata.row_group(group).num_rows
                try:
                    for batch in file.iter_batches(64, row_groups=[group], columns=wanted, use_threads=False):
                        for row in _rows(batch, notes):
                            number += 1
                            yield from _record(str(number), row, "parquet", options, notes)
                except (pa.ArrowException, OSError) as error:
                    said = f"{rows - (number - first):,} rows of group {group + 1}: {str(error).splitlines()[0]}"
                    lost = size * (rows - (number - first)) // max(1, file.metadata.num_rows)
                    yield Skip("broken-parquet", said, lost, f"{number + 1}-{first + rows}")
                    number = first + rows
    except (pa.ArrowException, OSError) as error:
        if isinstance(error, OSError) and error.errno:
            raise  # of the disk; pyarrow calls a broken header an OSError too
        yield Skip("broken-parquet", str(error).splitlines()[0], size, str(number + 1) if number else "")


def _rows(batch: Any, notes: Notes) -> list[dict[str, Any]]:
    """The rows of a batch; strings with bytes that are no UTF-8 get U+FFFD for them, which is counted."""
    import pyarrow as pa

    try:
        found: list[dict[str, Any]] = batch.to_pylist()
    except UnicodeDecodeError:
        columns = {}
        for name, column in zip(batch.schema.names, batch.columns, strict=True):
            if pa.types.is_string(column.type) or pa.types.is_large_string(column.type):
                values = column.cast(pa.large_binary()).to_pylist()
                texts = [None if value is None else value.decode("utf-8", "replace") for value in values]
                notes.counts["broken characters replaced by U+FFFD"] += sum(
                    text.count("\ufffd") for text in texts if text is not None
                )
                columns[name] = texts
            else:
                columns[name] = [None] * batch.num_rows
        found = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return found
