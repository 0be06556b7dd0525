"""Text of PDF files, page by page: soft line breaks joined, running heads and page numbers taken out.

PDFium (the engine of Chrome) reads several hundred pages a second. A PDF holds positions, not paragraphs, so what is a
line end and what only the edge of the paper is told from how full the line is.
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Final

from mojiang.data._formats import Notes, Options, Piece, Skip, cut
from mojiang.data._packed import on_disk

_MAX_CHARACTERS: Final = 200_000_000  # of one file; a page of a hostile one unpacks to anything
_EDGE_LINES: Final = 2  # at the top and at the bottom of a page, where running heads are
_FEW_PAGES: Final = 5
_FULL: Final = 0.8  # of the usual width of a page: a line as long as that goes on in the next one
_HYPHEN: Final = "\ufffe"  # PDFium's mark of a word divided at a line end
_WORD: Final = re.compile(r"[^\W\d_]+(?:-[^\W\d_]+)*")
_DIVIDED: Final = re.compile(rf"([^\W\d_]*){_HYPHEN}([^\W\d_]*)")
_STARTS_NEW: Final = re.compile(r"\s*(?:[•‣▪–—*·-]\s|\(?\d{1,3}[.)]\s|第.{1,4}[章节條条]|#)")


def read_pdf(
    path: Path, size: int, options: Options, notes: Notes, unpack: Callable[[Path], BinaryIO] | None = None
) -> Iterator[Piece | Skip]:
    """The text of a PDF as one document, cut like any long text.

    Args:
        path: the file.
        size: its bytes, for what is skipped.
        options: limits.
        notes: what was repaired is counted here.
        unpack: opens a compressed file; its content goes through a temporary file, since a PDF is read from its end.
    """
    try:
        import pypdfium2
    except ImportError:
        yield Skip("needs-extra", "PDF is read with pip install 'mojiang[documents]'", size)
        return
    with on_disk(path, unpack) as real:
        try:
            document = pypdfium2.PdfDocument(real)
        except pypdfium2.PdfiumError as error:
            locked = "password" in str(error).lower()
            yield Skip("encrypted" if locked else "broken-pdf", str(error), size)
            return
        try:
            yield from _document(document, size, options, notes)
        finally:
            document.close()


def _document(document: Any, size: int, options: Options, notes: Notes) -> Iterator[Piece | Skip]:
    pages, broken, total = [], 0, 0
    for number in range(len(document)):
        text = _page(document, number)
        broken += text is None
        pages.append(_lines(text or ""))
        total += len(text or "")
        if total > _MAX_CHARACTERS:
            yield Skip("pdf-too-large", f"more than {_MAX_CHARACTERS:,} characters by page {number + 1}", size)
            return
    if broken:
        notes.counts["PDF pages that could not be read"] += broken
    if not any(pages):
        detail = f"{len(pages)} pages of pictures: it needs character recognition" if pages else "no pages"
        yield Skip("broken-pdf" if broken else "pdf-without-text", detail, size)
        return
    _without_running_heads(pages, notes)
    known = {word.lower() for lines in pages for line in lines for word in _WORD.findall(line)}
    pages = [[_undivided(line, known) for line in lines] for lines in pages]
    said = document.get_metadata_dict(skip_empty=True)
    time = pdf_date(said.get("ModDate") or said.get("CreationDate") or "")
    texts = (joined(lines) + "\n\n" for lines in pages if lines)
    for number, (text, last) in enumerate(cut(texts, options.max_prose_bytes, notes), 1):
        yield Piece(text, "" if last and number == 1 else str(number), "pdf", None, time=time)


def _undivided(line: str, known: set[str]) -> str:
    """Words that a line end divided, in one: `admin|istrator`, but `Non-Maintainer`, as the rest of the text has it."""

    def whole(found: re.Match[str]) -> str:
        left, right = found[1], found[2]
        if f"{left}{right}".lower() in known:
            return left + right
        hyphen = f"{left}-{right}".lower() in known or not right[:1].islower()
        return f"{left}-{right}" if hyphen else left + right

    return _DIVIDED.sub(whole, line)


def _page(document: Any, number: int) -> str | None:
    """The text of a page in reading order, or None for one that is broken."""
    import pypdfium2

    try:
        page = document[number]
        text = page.get_textpage()
        found: str = text.get_text_range(errors="replace")
        text.close()
        page.close()
    except pypdfium2.PdfiumError:
        return None
    return found


def _lines(text: str) -> list[str]:
    """Lines without the blanks at their ends; what a PDF has instead of text (NULs, half pairs) is left out."""
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\0", "")
    return [line.rstrip() for line in text.encode("utf-8", "ignore").decode().split("\n") if line.strip()]


def _without_running_heads(pages: list[list[str]], notes: Notes) -> None:
    """Take out lines at the edges that most pages share, whatever number is in them."""

    def shape(line: str) -> str:
        return re.sub(r"^[\d.]+(?=\s|$)|\b(?:\d+|[ivxlc]+)(?:\s*/\s*\d+)?$", "0", line.strip())

    if len(pages) < _FEW_PAGES:
        return
    seen: Counter[str] = Counter()
    for lines in pages:
        seen.update({shape(line) for line in lines[:_EDGE_LINES] + lines[-_EDGE_LINES:]})
    usual = {line for line, count in seen.items() if count >= max(_FEW_PAGES, 0.3 * len(pages))}
    for number, lines in enumerate(pages):
        edge = {*range(_EDGE_LINES), *range(len(lines) - _EDGE_LINES, len(lines))}
        kept = [line for at, line in enumerate(lines) if not (at in edge and shape(line) in usual)]
        notes.counts["running heads and page numbers of PDFs removed"] += len(lines) - len(kept)
        pages[number] = kept


def joined(lines: list[str]) -> str:
    """Lines of a page as text: one that runs to the edge goes on in the next, unless that begins something new.

    >>> joined(["A line that is as wide as the others in", "this paragraph of three lines of text", "ends.", "Next"])
    'A line that is as wide as the others in this paragraph of three lines of text ends.\\nNext'
    """
    widths = sorted(_width(line) for line in lines)
    full = _FULL * widths[round(0.9 * (len(widths) - 1))]
    out: list[str] = []
    goes_on = False
    for line in lines:
        if out and out[-1].endswith(_HYPHEN):
            out[-1] = out[-1][:-1] + line.lstrip()
        elif goes_on and not _STARTS_NEW.match(line):
            out[-1] += _space_between(out[-1], line) + line.lstrip()
        else:
            out.append(line)
        goes_on = _width(line) >= full and " . ." not in line  # a line of a table of contents is full of dots
    return "\n".join(out).replace(_HYPHEN, "-")


def _width(line: str) -> int:
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in line)


def _space_between(left: str, right: str) -> str:
    wide = (unicodedata.east_asian_width(c) in "WF" for c in (left[-1], right.lstrip()[0]))
    return "" if all(wide) else " "


def pdf_date(text: str) -> str:
    """A PDF's date as ISO 8601, or "".

    >>> pdf_date("D:20230204115901-00'00'"), pdf_date("yesterday")
    ('2023-02-04T11:59:01', '')
    """
    found = re.match(r"D:(\d{4})(\d\d)(\d\d)(\d\d)(\d\d)(\d\d)", text)
    return "{}-{}-{}T{}:{}:{}".format(*found.groups()) if found else ""
