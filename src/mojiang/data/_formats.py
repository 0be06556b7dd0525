"""From a file to the texts in it, whatever its format, in bounded memory.

`read_file` yields a `Piece` for each document and a `Skip` for each record or file that gives none: nothing is passed
over in silence. Memory is bounded by a few times `max_document_bytes` plus `record_bytes`, never by the file.
"""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Final, cast

import zstandard

from mojiang.data._encoding import Decoder, decode_stream, detect, read_evidence

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
    "jsonl": "jsonl ndjson", "parquet": "parquet",
}  # fmt: skip
_BY_EXTENSION: Final[dict[str, tuple[str, str | None]]] = {
    **{ext: ("code", language) for language, exts in _CODE.items() for ext in exts.split()},
    **{ext: (name, None) for name, exts in _FORMATS.items() for ext in exts.split()},
}
_BY_NAME: Final = {"makefile": "makefile", "dockerfile": "dockerfile", "rakefile": "ruby", "cmakelists.txt": "cmake"}
_COMPRESSED: Final = (".gz", ".zst")
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


@dataclass(frozen=True)
class Piece:
    """One document. `part` is "" for a whole file; `language` is None where the text must tell."""

    text: str
    part: str
    format: str
    language: str | None
    licence: str | None = None


@dataclass(frozen=True)
class Skip:
    """A file or record that gives no document, and why."""

    reason: str
    detail: str
    bytes: int
    part: str = ""


@dataclass
class Notes:
    """What happened on the way that did not cost a document."""

    counts: Counter[str] = field(default_factory=Counter)
    encodings: Counter[str] = field(default_factory=Counter)

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
    suffix = next((s for s in _COMPRESSED if base.endswith(s)), "")
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
    try:
        if format == "parquet":
            yield from _parquet(path, size, options) if not suffix else [Skip("compressed-parquet", suffix, size)]
            return
        with _open(path, suffix) as stream:
            data, whole = read_evidence(stream)
        found = detect(data, "python" if language == "python" else format, whole)
        if not found.is_text or name.endswith(".svg"):
            yield Skip("binary", found.evidence if not found.is_text else "an image", size)
            return
        notes.encodings[found.name] += 1
        decoder = Decoder(found.name)
        with io.BytesIO(data) if whole else _open(path, suffix) as stream:
            blocks = decode_stream(stream, decoder)
            yield from _texts(blocks, format, language, size, options, notes)
        if decoder.broken:
            notes.counts["broken characters replaced by U+FFFD"] += decoder.broken
            notes.counts["files with broken characters"] += 1
    except FileNotFoundError:
        yield Skip("vanished", "the file was there when the folder was listed", size)
    except (EOFError, zlib.error, zstandard.ZstdError) as error:
        yield Skip("broken-compression", str(error), size)
    except OSError as error:
        # gzip reports bad data as BadGzipFile, an OSError without a number.
        yield Skip("unreadable" if error.errno else "broken-compression", error.strerror or str(error), size)


def _open(path: Path, suffix: str) -> BinaryIO:
    if suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if suffix == ".zst":
        return cast(BinaryIO, zstandard.open(path, "rb"))
    return open(path, "rb")


def _texts(
    blocks: Iterator[str], format: str, language: str | None, size: int, options: Options, notes: Notes
) -> Iterator[Piece | Skip]:
    records: dict[str, Callable[[Iterator[str], Options], Iterator[tuple[str, Any] | Skip]]]
    records = {"jsonl": _jsonl, "json": _json, "csv": _csv}
    if format in records:
        for item in records[format](blocks, options):
            yield from [item] if isinstance(item, Skip) else _record(*item, format, options, notes)
        return
    if format == "html":
        source = "".join(_at_most(blocks, _HTML_BYTES))
        if len(source) > _HTML_BYTES:
            yield Skip("html-too-large", f"more than {_HTML_BYTES} characters", size)
            return
        blocks = iter([html_to_text(source)])
    limit = options.max_document_bytes if format == "code" else options.max_prose_bytes
    for number, (text, last) in enumerate(cut(blocks, limit, notes), 1):
        if number == 1 and format == "txt" and (found := _SHEBANG.match(text)):
            format, language = "code", _SHELLS.get(found[1], found[1])
        yield Piece(text, "" if last and number == 1 else str(number), format, language)


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


def _jsonl(blocks: Iterator[str], options: Options) -> Iterator[tuple[str, Any] | Skip]:
    for number, (line, left_out) in enumerate(bounded_lines(blocks, options.record_bytes), 1):
        part, size = str(number), len(line.encode("utf-8", "surrogatepass"))
        if left_out:
            yield Skip("record-too-long", f"line of {len(line) + left_out} characters", size + left_out, part)
        elif line.strip():
            try:
                yield part, json.loads(line)
            except (ValueError, RecursionError) as error:
                yield Skip("broken-json", f"line {number}: {error}", size, part)


def _json(blocks: Iterator[str], options: Options) -> Iterator[tuple[str, Any] | Skip]:
    """An array of records, one record, an object that wraps a list of records, or one record after another."""
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
                yield from _expanded(str(number), value, options.text_fields)
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
            return
        # Doubling keeps the repeated attempts at one long record linear in its length.
        held, at = held[at:], 0
        more = "".join(_at_most(blocks, max(1, len(held))))
        exhausted = not more
        held += more


def _expanded(part: str, value: Any, fields: tuple[str, ...]) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict) and text_of(value, fields) is None:
        lists = [v for v in value.values() if isinstance(v, list) and v and all(isinstance(item, dict) for item in v)]
        if len(lists) == 1:
            yield from ((str(number), item) for number, item in enumerate(lists[0], 1))
            return
    yield part, value


def _csv(blocks: Iterator[str], options: Options) -> Iterator[tuple[str, Any] | Skip]:
    long_lines: list[Skip] = []

    def lines() -> Iterator[str]:
        for number, (line, left_out) in enumerate(bounded_lines(blocks, options.record_bytes), 1):
            if left_out:
                size = len(line) + left_out
                long_lines.append(Skip("record-too-long", f"line of {size} characters", size, str(number)))
            else:
                yield line

    source = lines()
    first = next(source, "")
    delimiter = max(",\t;|", key=first.count)
    rows = csv.reader(_chain(first, source), delimiter=delimiter, strict=True)
    limit_before = csv.field_size_limit(options.record_bytes)
    header: list[str] | None = None
    try:
        while True:
            try:
                row = next(rows)
            except StopIteration:
                break
            except csv.Error as error:
                yield Skip("broken-csv", f"line {rows.line_num}: {error}", 0, str(rows.line_num))
                continue
            if header is None:
                header = row
            elif row:
                yield str(rows.line_num), dict(zip(header, row, strict=False))
    finally:
        csv.field_size_limit(limit_before)
    yield from long_lines


def _chain(first: str, rest: Iterator[str]) -> Iterator[str]:
    yield first
    yield from rest


def _parquet(path: Path, size: int, options: Options) -> Iterator[Piece | Skip]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    notes, number = Notes(), 0
    try:
        with pq.ParquetFile(path, pre_buffer=False) as file:
            names = file.schema_arrow.names
            wanted = [name for name in (*options.text_fields, "licence", "license") if name in names]
            if not set(wanted) & set(options.text_fields):
                yield Skip("missing-text-field", f"has {', '.join(names[:12])}", size)
                return
            for batch in file.iter_batches(batch_size=64, columns=wanted, use_threads=False):
                for row in batch.to_pylist():
                    number += 1
                    yield from _record(str(number), row, "parquet", options, notes)
    except pa.ArrowException as error:
        yield Skip("broken-parquet", str(error).splitlines()[0], size, str(number + 1) if number else "")


_BLOCKS: Final = frozenset((
    "p", "div", "section", "article", "main", "ul", "ol", "table", "blockquote", "dl", "dt", "dd", "figure",
    "figcaption", "form", "fieldset", "address", "header", "footer", "details", "summary", "hr", "body", "html",
    "caption", "thead", "tbody", "tfoot",
))  # fmt: skip
_DROPPED: Final = ("script", "style", "noscript", "template", "nav", "svg", "iframe", "button", "select", "head")


def html_to_text(source: str) -> str:
    """Readable text of a page as light Markdown: headings, list items, code blocks and table rows survive.

    >>> html_to_text("<h1>猫</h1><p>A <b>cat</b><br>sleeps.</p><pre>x = 1\\n  y</pre>")
    '# 猫\\n\\nA cat\\nsleeps.\\n\\n```\\nx = 1\\n  y\\n```\\n'
    """
    from selectolax.lexbor import LexborHTMLParser

    tree = LexborHTMLParser(source)
    title = tree.css_first("title")
    heading = tree.css_first("h1")
    name = title.text(strip=True) if title is not None else ""
    for tag in _DROPPED:
        for node in tree.css(tag):
            node.decompose()
    out: list[str] = []
    if tree.body is not None:
        _walk(tree.body, out)
    text = "".join(out)
    if name and heading is None:
        text = f"# {name}\n\n{text}"
    blocks = re.split(r"(```\n.*?\n```)", text, flags=re.DOTALL)
    for i in range(0, len(blocks), 2):  # the odd ones are code, kept as they are
        prose = re.sub(r"[ \t\u00a0]+", " ", blocks[i])
        blocks[i] = re.sub(r"\n{3,}", "\n\n", re.sub(r" *\n *", "\n", prose))
    text = "".join(blocks).strip()
    return text + "\n" if text else ""


def _walk(root: Any, out: list[str]) -> None:
    """Depth-first over the tree with an explicit stack: real pages nest deeper than Python's recursion limit."""
    stack: list[Any] = [root]
    while stack:
        node = stack.pop()
        if isinstance(node, str):
            out.append(node)
            continue
        tag = node.tag
        if tag == "-text":
            out.append(re.sub(r"\s+", " ", node.text_content or ""))
        elif tag == "br":
            out.append("\n")
        elif tag == "pre":
            out.append(f"\n\n```\n{node.text().strip(chr(10))}\n```\n\n")
        else:
            before, after = _edges(tag)
            stack.append(after)
            stack.extend(reversed(list(node.iter(include_text=True))))
            stack.append(before)


def _edges(tag: str) -> tuple[str, str]:
    if len(tag) == 2 and tag[0] == "h" and tag[1] in "123456":
        return "\n\n" + "#" * int(tag[1]) + " ", "\n\n"
    if tag == "li":
        return "\n- ", "\n"
    if tag in ("td", "th"):
        return "", " | "
    if tag == "tr":
        return "\n", "\n"
    return ("\n\n", "\n\n") if tag in _BLOCKS else ("", "")
