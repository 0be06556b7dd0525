"""Mail written by the standard library's own writer and read back; mailboxes against `mailbox.mbox`."""

from __future__ import annotations

import mailbox
from collections.abc import Callable
from email.message import EmailMessage
from pathlib import Path
from typing import Any

from mojiang.core.report import Report
from mojiang.data import _mail
from mojiang.data._formats import Notes, Options, Piece, Skip, read_file
from mojiang.data._mail import looks_like_mail
from mojiang.data.load import Load


def message(subject: str = "Hello", text: str = "Some text.\n", **headers: str) -> EmailMessage:
    made = EmailMessage()
    made["From"], made["To"], made["Subject"] = "a@example.org", "b@example.org", subject
    made["Date"], made["Message-ID"] = "Mon, 02 Jan 2023 10:00:00 +0800", "<1@example.org>"
    for name, value in headers.items():
        made[name] = value
    made.set_content(text)
    return made


def read(path: Path, data: bytes) -> tuple[list[Piece], list[Skip]]:
    path.write_bytes(data)
    found = list(read_file(path, path.name, len(data), Options(), Notes()))
    return [i for i in found if isinstance(i, Piece)], [i for i in found if isinstance(i, Skip)]


def test_subject_text_time_and_address(tmp_path: Path) -> None:
    pieces, skips = read(tmp_path / "a.eml", bytes(message("年度报告", "请看附件。\n谢谢")))
    assert not skips
    assert [(p.text, p.part, p.format) for p in pieces] == [("年度报告\n\n请看附件。\n谢谢", "", "mail")]
    assert (pieces[0].time, pieces[0].origin) == ("2023-01-02T10:00:00+08:00", "mid:1@example.org")


def test_html_gives_text_and_of_alternatives_the_plain_one_counts(tmp_path: Path) -> None:
    made = message(text="plain")
    made.add_alternative("<p>rich</p>", subtype="html")
    assert read(tmp_path / "a.eml", bytes(made))[0][0].text == "Hello\n\nplain"
    made = message()
    made.set_content("<h1>Title</h1><p>Only <b>HTML</b></p>", subtype="html")
    assert read(tmp_path / "a.eml", bytes(made))[0][0].text == "Hello\n\n# Title\n\nOnly HTML"


def test_a_wrong_charset_is_overruled(tmp_path: Path) -> None:
    text = "这封信声明的编码是错误的，我们还是要读出来。"
    body = b"From: a\nTo: b\nDate: x\nContent-Type: text/plain; charset=iso-8859-1\n\n" + text.encode("gb18030")
    assert read(tmp_path / "a.eml", body)[0][0].text == text
    body = b"From: a\nTo: b\nDate: x\nContent-Type: text/plain; charset=us-ascii\n\n" + text.encode()
    assert read(tmp_path / "a.eml", body)[0][0].text == text


def test_attachments_are_counted_by_name(tmp_path: Path, make: Callable[..., Any]) -> None:
    made = message()
    made.add_attachment(b"%PDF-1.4 ...", maintype="application", subtype="pdf", filename="报告.pdf")
    made.add_attachment("notes", filename="notes.txt")
    inner = message("Inside", "forwarded text")
    made.add_attachment(inner)
    pieces, skips = read(tmp_path / "a.eml", bytes(made))
    assert pieces[0].text.split("\n\n")[:2] == ["Hello", "Some text."]
    assert "forwarded text" in pieces[0].text
    assert [(s.reason, s.detail, s.bytes) for s in skips] == [
        ("attachment", "报告.pdf (application/pdf)", 12),
        ("attachment", "notes.txt (text/plain)", 6),
    ]
    artifact = make(Load(source=str(tmp_path / "a.eml")))
    dropped = {str(row[0]): row[1] for row in Report.load(artifact.path).table("dropped by reason").rows}
    assert dropped == {"attachment": 2}


def test_a_mailbox_against_the_standard_library(tmp_path: Path) -> None:
    box = mailbox.mbox(tmp_path / "in.mbox")
    for number in range(50):
        box.add(message(f"Number {number}", f"Line\n\nFrom here on, text {number}.\n"))
    box.close()
    again = mailbox.mbox(tmp_path / "in.mbox")
    peer = [(m["subject"], m.get_payload()) for m in again]
    again.close()
    pieces, skips = read(tmp_path / "in.mbox", (tmp_path / "in.mbox").read_bytes())
    assert not skips
    assert [p.part for p in pieces] == [str(n) for n in range(1, 51)]
    for piece, (subject, payload) in zip(pieces, peer, strict=True):
        assert piece.text == f"{subject}\n\n{payload.replace('>From', 'From').strip()}"


def test_maildir_and_archives_are_recognised_by_content(tmp_path: Path) -> None:
    made = bytes(message())
    assert read(tmp_path / "1672531200.M1P1.host:2,S", made)[0][0].format == "mail"
    assert read(tmp_path / "2023-January.txt", b"From a Mon Jan  2 10:00:00 2023\n" + made)[0][0].format == "mail"
    assert read(tmp_path / "letter.txt", b"From: me\nTo: you\n\nDear reader")[0][0].format == "txt"
    assert not looks_like_mail(b"To be or not to be\nFrom: x\nDate: y\n")


def test_a_message_without_end_is_counted_and_the_next_one_read(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(_mail, "_MAX_MESSAGE", 10_000)
    long = b"From a Mon Jan  2 10:00:00 2023\n" + bytes(message("big", "long line\n" * 5000)) + b"\n"
    pieces, skips = read(tmp_path / "a.mbox", long + b"From a Mon Jan  2 10:00:00 2023\n" + bytes(message("next")))
    assert [p.text for p in pieces] == ["next\n\nSome text."]
    assert [(s.reason, s.part) for s in skips] == [("message-too-large", "1")]
    assert skips[0].bytes > 50_000


def test_broken_mail_never_raises(tmp_path: Path) -> None:
    for data in (
        b"From: =?x-none?B?!!!?=\nTo: b\nDate: 99\nSubject: =?utf-8?B?//8=?=\n\nbody",
        b"From: a\nTo: b\nDate: x\nContent-Type: multipart/mixed\n\nno boundary at all",
        b"From: a\nTo: b\nDate: x\nContent-Transfer-Encoding: base64\n\n%%%%",
        b"From: a\nTo: b\nDate: x\n",
    ):
        pieces, skips = read(tmp_path / "a.eml", data)
        assert pieces or skips
