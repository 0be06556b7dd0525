"""Text of Word files (.docx, ISO/IEC 29500) as light Markdown: headings, lists, tables and notes survive.

Streamed from the XML in the archive, so that a long report takes no more memory than a short one. Inserted text counts
and deleted text does not; comments are no part of the text.
"""

from __future__ import annotations

import io
import re
import struct
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, Final

from mojiang.data._formats import Notes, Options, Piece, Skip, cut
from mojiang.data._html import markdown_table
from mojiang.data._packed import on_disk

_W: Final = "{http://schemas.openxmlformats.org/wordprocessingml/2006/main}"
_STRICT: Final = "{http://purl.oclc.org/ooxml/wordprocessingml/main}"
_MAX_XML: Final = 1 << 30  # bytes of one part, unpacked
_PASSED: Final = frozenset(("delText", "instrText", "Fallback", "comment"))  # Fallback repeats what Choice says
_OLE: Final = b"\xd0\xcf\x11\xe0"


def read_docx(
    path: Path, size: int, options: Options, notes: Notes, unpack: Callable[[Path], BinaryIO] | None = None
) -> Iterator[Piece | Skip]:
    """The text of a Word file, cut like any long text; see `read_pdf` for the arguments."""
    with on_disk(path, unpack) as real:
        with open(real, "rb") as file:
            if file.read(4) == _OLE:
                yield Skip("encrypted", "a password protects it, or it is an old .doc by another name", size)
                return
        number = 0
        try:
            with zipfile.ZipFile(real) as archive:
                time = _modified(archive)
                for number, (text, last) in enumerate(cut(_blocks(archive), options.max_prose_bytes, notes), 1):
                    yield Piece(text, "" if last and number == 1 else str(number), "docx", None, time=time)
        except (zipfile.BadZipFile, LookupError, ET.ParseError, RuntimeError, ValueError, struct.error) as error:
            detail = f"after {number} parts: {error}" if number else str(error)
            yield Skip("broken-docx", detail, size, str(number + 1) if number else "")


class _Bounded(io.RawIOBase):
    """At most so many bytes of a member; an archive of a few kB can unpack to terabytes."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self._left = stream, _MAX_XML

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        data = self._stream.read(min(size, 1 << 20) if size >= 0 else 1 << 20)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"a part unpacks to more than {_MAX_XML:,} bytes")
        return data


def _modified(archive: zipfile.ZipFile) -> str:
    if "docProps/core.xml" not in archive.namelist():
        return ""
    with archive.open("docProps/core.xml") as stream:
        found = re.search(rb"<dcterms:(?:modified|created)[^>]*>([^<]{10,40})<", stream.read(65536))
    return found[1].decode("ascii", "ignore") if found else ""


def _blocks(archive: zipfile.ZipFile) -> Iterator[str]:
    styles = _heading_styles(archive)
    names = archive.namelist()
    main = next((n for n in ("word/document.xml", "word/document2.xml") if n in names), "word/document.xml")
    yield from _part(archive, main, styles)
    for name in ("word/footnotes.xml", "word/endnotes.xml"):
        if name in names:
            yield from _part(archive, name, styles)


def _heading_styles(archive: zipfile.ZipFile) -> dict[str, int]:
    """Style id → heading level. Ids are in the language of the Word that wrote them, names are not."""
    found = {}
    if "word/styles.xml" in archive.namelist():
        with archive.open("word/styles.xml") as stream:
            for _, element in ET.iterparse(_Bounded(stream)):
                if _local(element.tag) != "style":
                    continue
                name = next((v for c in element if _local(c.tag) == "name" and (v := _value(c))), "").lower()
                level = re.fullmatch(r"heading ([1-9])", name)
                if level or name == "title":
                    found[_attribute(element, "styleId")] = min(6, int(level[1])) if level else 1
                element.clear()
    return found


@dataclass
class _State:
    """Where in the tree the reader is."""

    runs: list[list[str]] = field(default_factory=list)  # a stack: text boxes hold paragraphs in paragraphs
    rows: list[list[list[str]]] = field(default_factory=list)  # a stack of tables
    cells: list[list[str]] = field(default_factory=list)
    passed: int = 0
    prefix: str = ""


def _part(archive: zipfile.ZipFile, name: str, styles: dict[str, int]) -> Iterator[str]:
    state = _State()
    with archive.open(name) as stream:
        for event, element in ET.iterparse(_Bounded(stream), events=("start", "end")):
            tag = _local(element.tag)
            if tag in _PASSED:
                state.passed += 1 if event == "start" else -1
            elif not state.passed:
                if event == "start":
                    _open_tag(tag, state)
                elif block := _close_tag(tag, element, state, styles):
                    yield block
            if event == "end" and tag in ("p", "tbl", "Fallback", "sectPr", "drawing", "pict"):
                element.clear()


def _open_tag(tag: str, state: _State) -> None:
    if tag == "p":
        state.runs.append([])
        state.prefix = ""
    elif tag == "tbl":
        state.rows.append([])
    elif tag == "tr" and state.rows:
        state.rows[-1].append([])
    elif tag == "tc":
        state.cells.append([])


def _close_tag(tag: str, element: ET.Element, state: _State, styles: dict[str, int]) -> str:
    """What is complete with this tag, to be written; "" for the rest."""
    run = state.runs[-1] if state.runs else []
    if tag in ("t", "tab", "br", "cr", "noBreakHyphen"):
        run.append({"t": element.text or "", "tab": "\t", "noBreakHyphen": "-"}.get(tag, "\n"))
    elif tag == "pStyle" and (level := styles.get(_value(element))):
        state.prefix = "#" * level + " "
    elif tag == "numPr" and not state.prefix:
        state.prefix = "- "
    elif tag == "p" and state.runs:
        text = "".join(state.runs.pop()).strip()
        return _placed(state.prefix * (not state.cells) + text, state) if text else ""
    elif tag == "tc" and state.cells:
        cell = "\n".join(state.cells.pop())
        if state.rows and state.rows[-1]:
            state.rows[-1][-1].append(cell)
    elif tag == "tbl" and state.rows:
        return _placed(markdown_table(state.rows.pop()), state)
    return ""


def _placed(block: str, state: _State) -> str:
    """A block inside a cell stays there until the table is complete."""
    if state.cells:
        state.cells[-1].append(block)
        return ""
    return block + ("\n" if block.startswith("- ") else "\n\n")


def _local(tag: str) -> str:
    return tag.rpartition("}")[2]


def _attribute(element: ET.Element, name: str) -> str:
    return element.get(_W + name) or element.get(_STRICT + name) or ""


def _value(element: ET.Element) -> str:
    return _attribute(element, "val")
