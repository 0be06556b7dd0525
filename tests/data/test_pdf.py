"""PDFs written by hand, so that every line in them is known; pypdf is the peer for words, locks and damage."""

from __future__ import annotations

import gzip
import io
import random
import re
import sys
from pathlib import Path

import pypdf
import pytest

from mojiang.data._formats import Notes, Options, Piece, Skip, read_file
from mojiang.data._pdf import _undivided, joined


def pdf(pages: list[list[str]]) -> bytes:
    """A PDF with these lines on its pages, in Helvetica."""
    objects = ["<< /Type /Catalog /Pages 2 0 R >>", "", "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"]
    kids = []
    for lines in pages:
        shown = "\n".join(f"({line.translate({40: '', 41: ''})}) Tj T*" for line in lines)
        stream = f"BT /F1 10 Tf 14 TL 50 800 Td\n{shown}\nET"
        objects.append(f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream")
        kids.append(len(objects) + 1)
        objects.append(
            f"<< /Type /Page /Parent 2 0 R /MediaBox [0 0 595 842] /Contents {len(objects)} 0 R "
            "/Resources << /Font << /F1 3 0 R >> >> >>"
        )
    objects[1] = f"<< /Type /Pages /Count {len(kids)} /Kids [{' '.join(f'{k} 0 R' for k in kids)}] >>"
    out, offsets = b"%PDF-1.4\n", []
    for number, content in enumerate(objects, 1):
        offsets.append(len(out))
        out += f"{number} 0 obj\n{content}\nendobj\n".encode()
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    end = f"xref\n0 {size}\n0000000000 65535 f \n{table}trailer\n<< /Size {size} /Root 1 0 R >>\n"
    return out + f"{end}startxref\n{len(out)}\n%%EOF".encode()


def read(path: Path, data: bytes, **options: int) -> tuple[list[Piece], list[Skip], Notes]:
    path.write_bytes(data)
    notes = Notes()
    found = list(read_file(path, path.name, len(data), Options(**options), notes))
    return [i for i in found if isinstance(i, Piece)], [i for i in found if isinstance(i, Skip)], notes


LINES = [f"Sentence number {i} says something that fills the whole width of its line here" for i in range(6)]


def test_lines_that_fill_the_page_are_one_paragraph(tmp_path: Path) -> None:
    pieces, skips, _ = read(tmp_path / "a.pdf", pdf([["A heading", *LINES, "and ends here.", "- an item"]]))
    assert not skips
    assert pieces[0].text.split("\n")[:3] == ["A heading", " ".join([*LINES, "and ends here."]), "- an item"]


def test_the_words_are_those_pypdf_finds(tmp_path: Path) -> None:
    data = pdf([[f"page {p} line {i} {'word ' * (i % 9)}" for i in range(30)] for p in range(3)])
    peer = " ".join(page.extract_text() for page in pypdf.PdfReader(io.BytesIO(data)).pages)
    assert read(tmp_path / "a.pdf", data)[0][0].text.split() == peer.split()


def test_running_heads_and_page_numbers_go_and_are_counted(tmp_path: Path) -> None:
    body = [[f"Unique content {p * 7919} stands on this page.", f"More of topic {p}."] for p in range(12)]
    pages = [["The Title of the Book", *lines, f"page {p + 1}"] for p, lines in enumerate(body)]
    pieces, _, notes = read(tmp_path / "a.pdf", pdf(pages))
    assert pieces[0].text.split() == " ".join(" ".join(lines) for lines in body).split()
    assert notes.counts["running heads and page numbers of PDFs removed"] == 24


def test_a_long_pdf_is_cut_and_a_compressed_one_read(tmp_path: Path) -> None:
    data = pdf([[f"Line {p}.{i} of a long report." for i in range(40)] for p in range(10)])
    whole = read(tmp_path / "a.pdf", data)[0][0].text
    parts = read(tmp_path / "a.pdf", data, max_prose_bytes=1000)[0]
    assert "".join(part.text for part in parts) == whole
    assert [part.part for part in parts] == [str(n) for n in range(1, len(parts) + 1)]
    assert read(tmp_path / "b.pdf.gz", gzip.compress(data))[0][0].text == whole


def test_what_has_no_text_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writer = pypdf.PdfWriter(clone_from=io.BytesIO(pdf([["secret"]])))
    writer.encrypt("password", algorithm="RC4-128")
    locked = io.BytesIO()
    writer.write(locked)
    reasons = {
        "scan.pdf": (pdf([[], []]), "pdf-without-text"),
        "locked.pdf": (locked.getvalue(), "encrypted"),
        "broken.pdf": (b"%PDF-1.4\nnothing", "broken-pdf"),
    }
    for name, (data, reason) in reasons.items():
        pieces, skips, _ = read(tmp_path / name, data)
        assert (pieces, [(s.reason, s.bytes) for s in skips]) == ([], [(reason, len(data))]), name
    monkeypatch.setitem(sys.modules, "pypdfium2", None)
    skips = read(tmp_path / "scan.pdf", pdf([["text"]]))[1]
    assert skips[0].reason == "needs-extra"
    assert "pip install 'mojiang[documents]'" in skips[0].detail


def test_damage_never_raises_and_never_vanishes(tmp_path: Path) -> None:
    data = pdf([LINES] * 8)
    generator = random.Random(0)
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(generator.randrange(1, 30)):
            broken[generator.randrange(len(broken))] = generator.randrange(256)
        pieces, skips, _ = read(tmp_path / "a.pdf", bytes(broken[: generator.randrange(1, len(broken))]))
        assert pieces or skips


def test_a_word_divided_at_a_line_end_is_what_the_rest_of_the_text_calls_it() -> None:
    known = {"administrator", "non-maintainer", "un-american"}
    for divided, whole in {
        "the admin\ufffeistrator at": "the administrator at", "a Non\ufffeMaintainer upload": "a Non-Maintainer upload",
        "un\ufffeamerican": "un-american", "orphan\ufffeing": "orphaning", "Franco\ufffeGerman": "Franco-German",
    }.items():  # fmt: skip
        assert _undivided(divided, known) == whole


def test_joining_knows_chinese_hyphens_and_lists() -> None:
    assert (
        joined(["这一行写满了整个页面的宽度，", "下一行接着写完了。", "完"])
        == "这一行写满了整个页面的宽度，下一行接着写完了。\n完"
    )
    assert joined(["a word that is divi\ufffe", "ded at the end of it"]) == "a word that is divided at the end of it"
    listed = ["1. The first item of a list is a long line", "2. The second item of a list is also long"]
    assert joined(listed) == "\n".join(listed)
    assert re.findall(r"\n", joined(["short", "also short", "a much longer line than those above it"])) == ["\n", "\n"]
