"""Text is written in an encoding by Python's codecs and must be read back; damage must be counted exactly."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mojiang.data._encoding import EVIDENCE_BYTES, Decoder, decode_stream, detect, named_codec, read_evidence

CHINESE = "你好，世界。这是一个测试，我们的工作是检查编码。\n第2行：他们有自己的想法。\n"
TRADITIONAL = "你好，世界。這是一個測試，我們的工作是檢查編碼。在這個世界上有很多人，他們都有自己的想法。\n" * 3
RUSSIAN = "Привет, как дела? Сегодня хорошая погода, и мы идём гулять в парк. Потом будем обедать.\n" * 3
JAPANESE = "こんにちは世界。これはテストです。日本語の文章を書きます。今日は天気がいいですね。\n" * 3
KOREAN = "안녕하세요 세계. 이것은 시험입니다. 한국어 문장을 씁니다. 오늘은 날씨가 좋습니다.\n" * 3
FRENCH = "Le café est très agréable en été, où l'élève a étudié le français à l'école.\n" * 3


def read(data: bytes, kind: str = "txt") -> str:
    found = detect(data, kind)
    return "".join(decode_stream(io.BytesIO(data), Decoder(found.name)))


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        *((CHINESE, e) for e in ("utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "gb18030", "gbk")),
        ("English only\nplain", "utf-16-le"),
        ("English only\nplain", "utf-16-be"),
        ("春眠不觉晓", "gb18030"),
        (TRADITIONAL, "big5"),
        (RUSSIAN, "cp1251"),
        (RUSSIAN, "koi8-r"),
        (JAPANESE, "shift-jis"),
        (JAPANESE, "euc-jp"),
        (KOREAN, "euc-kr"),
        (FRENCH, "latin-1"),
        ("Zażółć gęślą jaźń. Dzień dobry, jak się masz? Wszystko w porządku, dziękuję.\n" * 3, "cp1250"),
    ],
)  # fmt: skip
def test_text_written_in_an_encoding_is_read_back(text: str, encoding: str) -> None:
    assert read(text.encode(encoding)) == text


def test_python_cookie_and_html_charset_are_honoured() -> None:
    source = "# -*- coding: koi8-r -*-\nname = 'слово'\n"
    assert read(source.encode("koi8-r"), "python") == source
    page = '<meta charset="iso-8859-2"><p>żółć i łąka</p>'
    assert read(page.encode("iso-8859-2"), "html") == page
    # The WHATWG rule: gb2312 means its superset, which has the character 镕.
    page = '<meta http-equiv="Content-Type" content="text/html; charset=gb2312"><p>朱镕基</p>'
    assert read(page.encode("gb18030"), "html") == page


SPANISH = "¿Qué día es hoy? ¡Mañana será otro día, señor! Él pidió «café» y se marchó después.\n" * 3
GERMAN = "Die Straße führt über die Brücke. „Schöne Grüße“ – sagte er und ging früh nach Hause…\n" * 3


@pytest.mark.parametrize(
    ("text", "encoding", "declared"),
    [
        (CHINESE, "gb18030", "iso-8859-1"),
        (CHINESE, "gb18030", "big5"),
        (CHINESE, "gb18030", "shift_jis"),
        (CHINESE, "gb18030", "windows-1251"),
        (CHINESE, "utf-8", "gb2312"),
        (TRADITIONAL, "big5", "gb2312"),
        (TRADITIONAL, "big5", "windows-1252"),
        (JAPANESE, "shift_jis", "iso-8859-1"),
        (JAPANESE, "euc_jp", "gb2312"),
        (JAPANESE, "euc_jp", "euc-kr"),
        (KOREAN, "euc_kr", "gb2312"),
        (KOREAN, "cp949", "iso-8859-1"),
        (RUSSIAN, "cp1251", "iso-8859-1"),
        (RUSSIAN, "koi8_r", "windows-1251"),
        (RUSSIAN, "cp1251", "koi8-r"),
        (RUSSIAN, "cp1251", "gb2312"),
        (FRENCH, "cp1252", "gb2312"),
        (SPANISH, "cp1252", "big5"),
        (GERMAN, "cp1252", "shift_jis"),
        (GERMAN, "cp1252", "x-no-such-charset"),
    ],
)
def test_a_declaration_that_is_wrong_is_overruled(text: str, encoding: str, declared: str) -> None:
    page = f'<meta charset="{declared}"><p>{text}</p>'
    assert read(page.encode(encoding), "html") == page
    body = f"<p>{text}</p>".encode(encoding)  # and the same when only the server says it
    assert body.decode(detect(body, "html", declared=named_codec(declared)).name) == f"<p>{text}</p>"


@pytest.mark.parametrize(
    ("text", "encoding"),
    [(SPANISH, "cp1252"), (GERMAN, "cp1252"), ("Señor Peña y la niña\n", "cp1252"), (KOREAN[:30], "euc_kr"),
     (JAPANESE[:30], "euc_jp"), (RUSSIAN[:40], "koi8_r")],
)  # fmt: skip
def test_short_texts_and_punctuation(text: str, encoding: str) -> None:
    assert read(text.encode(encoding)) == text


@pytest.mark.parametrize(
    ("text", "encoding"), [(CHINESE * 3, "gb18030"), (TRADITIONAL, "big5"), (KOREAN, "euc_kr"), (JAPANESE, "euc_jp")]
)
def test_one_damaged_byte_does_not_change_the_encoding(text: str, encoding: str) -> None:
    data = bytearray((text * 2).encode(encoding))
    data[data.index(b"\n", len(data) // 2) - 1] = 0xFF  # the second half of the last character of a line
    found = detect(bytes(data))
    damaged = bytes(data).decode(found.name, "replace")
    assert sum(a != b for a, b in zip(damaged.split("\n"), (text * 2).split("\n"), strict=True)) == 1


def test_valid_utf8_wins_over_a_wrong_declaration() -> None:
    page = '<meta charset="gb2312"><p>其实是 UTF-8 的页面</p>'
    assert read(page.encode(), "html") == page


@pytest.mark.parametrize(
    ("data", "text", "broken"),
    [
        ("好的中文".encode() + b"\xff" + "还是中文".encode(), "好的中文\ufffd还是中文", 1),
        ("中文".encode() + b"\xe4\xb8 x", "中文\ufffd x", 1),
        (b"hello \xff\xfe broken", "hello \ufffd\ufffd broken", 2),
        (b"bro\xffken", "bro\ufffdken", 1),
        ("已有的\ufffd不算".encode() + b"\x80", "已有的\ufffd不算\ufffd", 1),
        ("结尾被截断".encode()[:-1], "结尾被截\ufffd", 1),
    ],
)
def test_broken_utf8_stays_utf8_and_is_counted(data: bytes, text: str, broken: int) -> None:
    found = detect(data)
    decoder = Decoder(found.name)
    assert "".join(decode_stream(io.BytesIO(data), decoder)) == text
    assert decoder.broken == broken


@pytest.mark.parametrize("data", [b"\x89PNG\r\n\x1a\n", b"%PDF-1.7 text", bytes(range(256)) * 8, b"\x00\x01\x02" * 99])
def test_binary_is_recognised(data: bytes) -> None:
    assert not detect(data).is_text


def test_evidence_of_a_long_ascii_head_includes_what_follows_it() -> None:
    data = b"plain text\n" * (3 * EVIDENCE_BYTES // 11) + CHINESE.encode("gb18030")
    evidence, whole = read_evidence(io.BytesIO(data))
    assert not whole
    assert len(evidence) <= 2 * EVIDENCE_BYTES
    assert detect(evidence, whole=whole).name == "gb18030"


# FF FE 00 00 is both "UTF-16, then NUL" and "UTF-32": no reader can tell, and no text starts with NUL.
@given(st.text().filter(lambda text: not text.startswith("\0")), st.sampled_from(["utf-8-sig", "utf-16", "utf-32"]))
def test_any_text_with_a_mark_round_trips(text: str, encoding: str) -> None:
    assert read(text.encode(encoding)) == text


@given(st.binary(max_size=300), st.integers(1, 7))
def test_counting_does_not_depend_on_where_blocks_end(data: bytes, size: int) -> None:
    whole, pieces = Decoder("utf-8"), Decoder("utf-8")
    text = whole.decode(data, final=True)
    cut = "".join(pieces.decode(data[i : i + size]) for i in range(0, len(data), size)) + pieces.decode(b"", final=True)
    assert (cut, pieces.broken) == (text, whole.broken)
    assert text == data.decode("utf-8", "replace")
