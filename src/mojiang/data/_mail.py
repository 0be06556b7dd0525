"""E-mail: single messages (.eml, Maildir), and mailboxes in which one follows the other (mbox, RFC 4155).

A message is its subject and its text; of HTML the text. What is attached is counted by name and type: it is no text of
the message, and never lost in silence.
"""

from __future__ import annotations

import email
import email.header
import email.utils
import re
from collections.abc import Iterator
from email.message import Message
from typing import BinaryIO, Final

from mojiang.data._encoding import detect, named_codec
from mojiang.data._formats import Notes, Options, Piece, Skip, cut, digest
from mojiang.data._html import html_to_text

_MAX_MESSAGE: Final = 64 * 2**20
_NO_TEXT: Final = "bytes that are no text"
_FROM: Final = re.compile(rb"From \S.*\b(?:\d\d:\d\d|\d{4})")
_HEADER: Final = re.compile(
    rb"(?:From \S|(?:Return-Path|Received|Delivered-To|X-[\w-]+|From|To|Date|Message-I[Dd]|Subject|MIME-Version):[ \t])"
)
_NEEDED: Final = (rb"^From:[ \t]", rb"^(?:Date|Message-I[Dd]|Received):[ \t]", rb"^(?:Subject|To):[ \t]")


def looks_like_mail(head: bytes) -> bool:
    """Whether a file without a telling name begins with the headers of a message.

    >>> looks_like_mail(b"From: a@b\\nTo: c@d\\nDate: 1 Jan 2020\\n\\nHi"), looks_like_mail(b"From: me\\n\\nDear all")
    (True, False)
    """
    if not _HEADER.match(head):
        return False
    block = re.split(rb"\r?\n\r?\n", head, maxsplit=1)[0]
    return all(re.search(needed, block, re.MULTILINE) for needed in _NEEDED)


def read_mail(stream: BinaryIO, size: int, options: Options, notes: Notes) -> Iterator[Piece | Skip]:
    """The messages of a file. `part` is the number of the message in a mailbox, and empty for a single one."""
    number = 0
    for number, (data, left_out, single) in enumerate(_messages(stream), 1):
        part = "" if single else str(number)
        if left_out:
            yield Skip("message-too-large", f"{len(data) + left_out:,} bytes", len(data) + left_out, part)
            continue
        yield from message_texts(data, part, options, notes)
    if not number:
        yield Skip("empty", "no message in it", size)


def _messages(stream: BinaryIO) -> Iterator[tuple[bytes, int, bool]]:
    """(bytes, bytes beyond the limit, whether the file is this one message) of each message."""
    held: list[bytes] = []
    length = left_out = 0
    mailbox, blank = False, True
    while line := stream.readline(1 << 20):
        if blank and _FROM.match(line):
            if length:
                yield b"".join(held), left_out, False
            held, length, left_out, mailbox = [], 0, 0, True
            blank = False
            continue
        blank = line in (b"\n", b"\r\n")
        if length + len(line) > _MAX_MESSAGE:
            left_out += len(line)
        else:
            held.append(line)
            length += len(line)
    if length:
        yield b"".join(held), left_out, not mailbox


def message_texts(data: bytes, part: str, options: Options, notes: Notes) -> Iterator[Piece | Skip]:
    """The text of one message, and a `Skip` for each attachment."""
    try:
        message = email.message_from_bytes(data)
        texts, attached = _bodies(message)
    except RecursionError:  # the parser's own: it goes down a level of Python for each level of parts
        yield Skip("nested-too-deeply", "parts within parts within parts", len(data), part)
        return
    # ">From " is how a mailbox writes a line that begins with "From ".
    body = "\n\n".join(texts)
    body = re.sub(r"^>(>*From )", r"\1", body, flags=re.MULTILINE) if part else body
    subject = decoded_header(message["subject"])
    text = f"{subject}\n\n{body}".strip() if subject else body.strip()
    time, about = _time(message), decoded_header(message["message-id"]).strip("<> ")
    origin = f"mid:{about}" if about else ""
    for number, (piece, last) in enumerate(cut(iter([text]), options.max_prose_bytes, notes), 1):
        name = part if last and number == 1 else f"{part}.{number}" if part else str(number)
        yield Piece(piece, name, "mail", None, time=time, origin=origin, sha256=digest(data))
    for number, (name, kind, size) in enumerate(attached, 1):
        yield Skip("binary" if name == _NO_TEXT else "attachment", f"{name} ({kind})", size, f"{part}@{number}")


def _bodies(message: Message) -> tuple[list[str], list[tuple[str, str, int]]]:
    """Texts in order, and (name, type, bytes) of what is attached. Of alternatives the plain one is taken."""
    texts: list[str] = []
    attached: list[tuple[str, str, int]] = []
    pending: list[Message] = [message]
    while pending:
        part = pending.pop()
        kind = part.get_content_type()
        if part.is_multipart():
            inner = [p for p in part.get_payload() if isinstance(p, Message)]
            if kind == "multipart/alternative":
                inner = _best(inner)
            pending.extend(reversed(inner))
        elif kind in ("text/plain", "text/html") and part.get_content_disposition() != "attachment":
            text = _text(part)
            texts += [text] if text is not None else []
            attached += [(_NO_TEXT, kind, len(part.get_payload(decode=True) or b""))] if text is None else []
        elif (payload := part.get_payload(decode=True)) or part.get_filename():
            data = payload if isinstance(payload, bytes) else b""
            attached.append((decoded_header(part.get_filename()) or "unnamed", kind, len(data)))
    return [text for text in texts if text.strip()], attached


def _best(parts: list[Message]) -> list[Message]:
    """Of the same text in several forms: the plain one, unless it is empty, then the HTML, then the last."""
    for kind in ("text/plain", "text/html"):
        for part in parts:
            if part.get_content_type() == kind and (_text(part) or "").strip():
                return [part]
    return parts[-1:]


def _text(part: Message) -> str | None:
    """The text of a part; None for bytes that are none."""
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    html = part.get_content_subtype() == "html"
    named = named_codec(str(part.get_content_charset("")))
    found = detect(data, "html" if html else "txt", declared=named)
    if not found.is_text:
        return None
    text = data.decode(found.name, "replace").replace("\r\n", "\n")
    return html_to_text(text, whole=True) if html else text


def decoded_header(value: object) -> str:
    """A header with its encoded words read, in one line; one that is broken stays as it is."""
    try:
        text = str(email.header.make_header(email.header.decode_header(str(value or ""))))
    except (ValueError, LookupError, UnicodeError, email.errors.HeaderParseError):
        text = str(value)
    return " ".join(text.encode("utf-8", "replace").decode().split())


def _time(message: Message) -> str:
    try:
        return email.utils.parsedate_to_datetime(str(message["date"])).isoformat()
    except (TypeError, ValueError, IndexError, OverflowError):
        return ""
