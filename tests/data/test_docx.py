"""Word files made by python-docx and by hand: headings, lists, tables, changes, notes, and hostile archives."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import docx
import pytest

from mojiang.data import _docx
from mojiang.data._formats import Notes, Options, Piece, Skip, read_file


def read(path: Path, data: bytes, **options: int) -> tuple[list[Piece], list[Skip]]:
    path.write_bytes(data)
    found = list(read_file(path, path.name, len(data), Options(**options), Notes()))
    return [i for i in found if isinstance(i, Piece)], [i for i in found if isinstance(i, Skip)]


def saved(document: docx.document.Document) -> bytes:
    stream = io.BytesIO()
    document.save(stream)
    return stream.getvalue()


def with_body(body: str, **members: str) -> bytes:
    """A Word file with this XML as its body."""
    space = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main" xmlns:mc="urn:mc"'
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("word/document.xml", f"<w:document {space}><w:body>{body}</w:body></w:document>")
        for name, content in members.items():
            archive.writestr(f"word/{name}.xml", f"<w:{name} {space}>{content}</w:{name}>")
    return stream.getvalue()


def run(text: str) -> str:
    return f"<w:r><w:t>{text}</w:t></w:r>"


def test_a_document_of_python_docx_becomes_markdown(tmp_path: Path) -> None:
    document = docx.Document()
    document.add_heading("年度报告", 0)
    document.add_heading("First part", 2)
    document.add_paragraph("Some text, ").add_run("in bold.").bold = True
    document.add_paragraph("one", style="List Bullet").paragraph_format.left_indent = 0
    table = document.add_table(rows=2, cols=2)
    for at, text in enumerate(("名称", "n", "cats|dogs", "3")):
        table.cell(at // 2, at % 2).text = text
    document.add_paragraph("End.")
    pieces, skips = read(tmp_path / "a.docx", saved(document))
    assert not skips
    assert pieces[0].format == "docx"
    assert pieces[0].text.split("\n\n") == [
        "# 年度报告", "## First part", "Some text, in bold.", "one",
        "| 名称 | n |\n| --- | --- |\n| cats\\|dogs | 3 |", "End.", "",
    ]  # fmt: skip
    assert pieces[0].time.startswith("20")


def test_changes_links_boxes_and_notes(tmp_path: Path) -> None:
    body = f"""<w:p><w:r><w:t>kept </w:t></w:r><w:ins>{run("inserted")}</w:ins>
      <w:del><w:r><w:delText>deleted</w:delText></w:r></w:del><w:hyperlink>{run(" link")}</w:hyperlink>
      <w:r><w:tab/><w:t>x</w:t><w:br/><w:t>y</w:t></w:r></w:p>
      <w:p><w:pPr><w:numPr/></w:pPr>{run("item")}</w:p>
      <w:p><mc:AlternateContent><mc:Choice><w:p>{run("box")}</w:p></mc:Choice>
      <mc:Fallback><w:p>{run("box")}</w:p></mc:Fallback></mc:AlternateContent></w:p>"""
    pieces, _ = read(tmp_path / "a.docx", with_body(body, footnotes=f"<w:p>{run('a note')}</w:p>"))
    assert pieces[0].text == "kept inserted link\tx\ny\n\n- item\nbox\n\na note\n\n"


def test_a_table_in_a_cell_and_heading_ids_of_another_language(tmp_path: Path) -> None:
    inner = f"<w:tbl><w:tr><w:tc><w:p>{run('in')}</w:p></w:tc></w:tr></w:tbl>"
    body = f"""<w:p><w:pPr><w:pStyle w:val="1"/></w:pPr>{run("标题")}</w:p>
      <w:tbl><w:tr><w:tc>{inner}<w:p>{run("out")}</w:p></w:tc><w:tc><w:p>{run("b")}</w:p></w:tc></w:tr></w:tbl>"""
    styles = '<w:style w:styleId="1"><w:name w:val="heading 1"/></w:style>'
    pieces, _ = read(tmp_path / "a.docx", with_body(body, styles=styles))
    assert pieces[0].text.startswith("# 标题\n\n| ")
    assert [word in pieces[0].text for word in ("in", "out", "b")] == [True] * 3


def test_a_long_one_is_cut_without_loss(tmp_path: Path) -> None:
    data = with_body("".join(f"<w:p>{run(f'paragraph {i}')}</w:p>" for i in range(3000)))
    whole = read(tmp_path / "a.docx", data)[0][0].text
    assert whole.count("paragraph") == 3000
    assert "".join(p.text for p in read(tmp_path / "a.docx", data, max_prose_bytes=900)[0]) == whole


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"PK\x03\x04 no archive", "broken-docx"),
        (b"\xd0\xcf\x11\xe0" + bytes(600), "encrypted"),
        (with_body("<w:p>")[:-40], "broken-docx"),
        (with_body("<w:p><w:r>"), "broken-docx"),
    ],
)
def test_damage_is_counted(tmp_path: Path, data: bytes, reason: str) -> None:
    pieces, skips = read(tmp_path / "a.docx", data)
    assert (pieces, [(s.reason, s.bytes) for s in skips]) == ([], [(reason, len(data))])


def test_a_zip_bomb_stops_and_what_came_before_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_docx, "_MAX_XML", 3_000_000)
    data = with_body(f"<w:p>{run('before')}</w:p>" + f"<w:p>{run('x' * 1000)}</w:p>" * 10_000)
    assert len(data) < 100_000
    pieces, skips = read(tmp_path / "a.docx", data, max_prose_bytes=1000)
    assert pieces[0].text.startswith("before")
    assert [s.reason for s in skips] == ["broken-docx"]
    assert "unpacks to more than" in skips[0].detail
