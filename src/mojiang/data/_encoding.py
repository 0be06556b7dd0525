"""Which characters do these bytes mean? Evidence first (BOM, UTF-8 validity), declarations next, statistics last.

The order matters more than the cleverness of each test. A page that says `gb2312` and is valid UTF-8 *is* UTF-8: text
in another encoding passes the UTF-8 check by chance with a probability that falls by half with each character. A file
that is UTF-8 but for a few broken bytes stays UTF-8, each broken sequence becoming one U+FFFD that is counted; guessing
another encoding for it would turn every good character into mojibake.
"""

from __future__ import annotations

import codecs
import gzip
import re
import threading
import unicodedata
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Final

import charset_normalizer
import zstandard

from mojiang.data._language import identify

DAMAGED: Final = (EOFError, zlib.error, zstandard.ZstdError, gzip.BadGzipFile)  # of a compressed file
EVIDENCE_BYTES: Final = 1 << 20  # enough to be sure; bounded so that a huge file is not read twice
BLOCK_BYTES: Final = 1 << 20

# Longest first: the UTF-32 mark starts with the UTF-16 one.
_BOMS: Final = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_MAGIC: Final = (
    b"%PDF-", b"\x89PNG", b"GIF8", b"PK\x03\x04", b"\x7fELF", b"\xff\xd8\xff", b"\x1f\x8b", b"Rar!", b"BZh",
    b"\xfd7zXZ", b"7z\xbc\xaf", b"\x28\xb5\x2f\xfd", b"SQLite format 3", b"OggS", b"PAR1", b"\xca\xfe\xba\xbe",
)  # fmt: skip
_COOKIE: Final = re.compile(rb"^[ \t\f]*#.*?coding[:=][ \t]*([-\w.]+)")  # PEP 263
_META: Final = re.compile(rb"<meta[^>]{0,200}?charset\s*=\s*[\"']?\s*([-\w.:]+)", re.IGNORECASE)
_XML: Final = re.compile(rb"^\s*<\?xml[^>]{0,200}?encoding\s*=\s*[\"']([-\w.:]+)", re.IGNORECASE)
# The most frequent characters of modern and classical Chinese, simplified and traditional: about a third of any text.
_COMMON_HAN: Final = frozenset(
    "的一是不了在人有我他这個个上们們来來到时時大地为為子中你说說生国國年着就那和要她出也得里裡后後自以会會家可下而过過天去能对對小多然于於"
    "心学學么麼之都好看起发發当當没沒成只如事把还還用第样樣道想作种種开開美总總从從无無情己面最女但现現前些所同日手又行意动動方期它头頭"
    "经經长長儿兒回位分爱愛老因很给給名法间間斯知世什两兩次使身者被高已亲親其进進此话話常与與活正感，。、：；？！“”《》（）"
)
_CJK_OR_PUNCTUATION: Final = re.compile(
    "[\u00b7\u00d7\u2010-\u2027\u2200-\u22ff\u2460-\u25ff\u3000-\u303f\u4e00-\u9fff\uff00-\uffef]"
)
# What files of the last decades are in. The full list of codecs has national variants that "fit" any damaged file.
_LEGACY: Final = (
    "cp1252", "cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "cp1258", "iso8859_2",
    "iso8859_15", "koi8_r", "koi8_u", "mac_roman", "big5", "big5hkscs", "shift_jis", "cp932", "euc_jp", "iso2022_jp",
    "euc_kr", "cp949", "gb18030", "cp437", "cp866", "tis_620",
)  # fmt: skip
_EAST: Final = frozenset((
    "gb18030", "gbk", "gb2312", "hz", "big5", "big5hkscs", "cp950", "euc_jp", "shift_jis", "cp932", "euc_jis_2004",
    "euc_jisx0213", "shift_jisx0213", "iso2022_jp", "euc_kr", "cp949", "johab",
))  # fmt: skip
# Syllables that no Korean text of a few sentences is without.
_COMMON_HANGUL: Final = frozenset(
    "이다는에의가을하고를은한로서지사기아도그자어나리인시대있정일수해부전으과들보제것안게라여장주"
)
_ACCENTS: Final = frozenset("àáâãäåæçèéêëìíîïñòóôõöøùúûüœßÀÁÂÃÄÅÆÇÈÉÊËÌÍÎÏÑÒÓÔÕÖØÙÚÛÜŒ")
_TYPOGRAPHY: Final = frozenset("“”‘’„–—…«»¿¡°§€£·ºª©®\u00a0•")
_PLAIN: Final = re.compile("[a-zA-Z]")
_HIGH: Final = re.compile(rb"[\x80-\xff]")
_JUDGED_BYTES: Final = 256 * 1024
_WESTERN: Final = frozenset(("ca", "da", "de", "en", "es", "fi", "fr", "is", "it", "nl", "no", "pt", "sv"))
_NO_CHARSETS: Final = frozenset((
    "idna", "punycode", "raw-unicode-escape", "raw_unicode_escape", "undefined", "unicode-escape", "unicode_escape",
    "unicode_internal", "utf-7", "utf_7", "mbcs", "oem",
))  # fmt: skip
_TEXT_CONTROLS: Final = frozenset(b"\t\n\r\f\x1b\x08")


@dataclass(frozen=True)
class Encoding:
    """What was decided and why; `name` is a Python codec, or "" for bytes that are not text."""

    name: str
    evidence: str

    @property
    def is_text(self) -> bool:
        """False for binary files."""
        return bool(self.name)


BINARY: Final = "binary"
_broken = threading.local()


def _count_and_replace(error: UnicodeError) -> tuple[str, int]:
    # A codec error handler is the only place that sees each broken sequence once, also across block edges.
    if not isinstance(error, UnicodeDecodeError):
        raise error
    _broken.count = getattr(_broken, "count", 0) + 1
    return "\ufffd", error.end


codecs.register_error("mojiang-replace", _count_and_replace)


class Decoder:
    """Incremental decoding that replaces and counts what cannot be decoded.

    >>> decoder = Decoder("utf-8"); decoder.decode(b"good \\xff bad", final=True), decoder.broken
    ('good \ufffd bad', 1)
    """

    def __init__(self, encoding: str) -> None:
        self._decoder = codecs.getincrementaldecoder(encoding)("mojiang-replace")
        self.broken = 0

    def decode(self, block: bytes, final: bool = False) -> str:
        """Text of the next block; `final` flushes a sequence cut off by the end of the file."""
        _broken.count = 0
        text = self._decoder.decode(block, final)
        self.broken += _broken.count
        return text


def decode_stream(stream: BinaryIO, decoder: Decoder) -> Iterator[str]:
    """Decoded blocks of a binary stream, in bounded memory."""
    while block := stream.read(BLOCK_BYTES):
        yield decoder.decode(block)
    if tail := decoder.decode(b"", final=True):
        yield tail


def read_evidence(stream: BinaryIO) -> tuple[bytes, bool]:
    """The bytes to judge a file by, and whether they are the whole file.

    That is its first MiB, and, where this is all ASCII, also the first stretch that is not.
    """
    head = block = stream.read(EVIDENCE_BYTES)
    try:
        following = stream.read(BLOCK_BYTES)
        if not following:
            return head, True
        while block and block.isascii():
            block, following = following, stream.read(BLOCK_BYTES)
    except DAMAGED:  # what comes before the damage is read, and then it is met again
        pass
    return (head if block is head or not block else head[: 64 * 1024] + block), False


def detect(data: bytes, kind: str = "txt", whole: bool = True, declared: str = "") -> Encoding:
    """Decide the encoding of a file from its evidence.

    Args:
        data: what `read_evidence` returned.
        whole: that is the entire file; otherwise it may end inside a character.
        kind: "python" makes a PEP 263 cookie binding, "html" honours `<meta charset>`, anything else neither.
        declared: the codec that a protocol named (see `named_codec`), which counts as much as one in the document.

    >>> detect("你好，世界。这是一个测试".encode("gb18030")).name
    'gb18030'
    """
    for mark, name in _BOMS:
        if data.startswith(mark):
            return Encoding(name, "byte order mark")
    if not data or data.startswith(_MAGIC):
        return Encoding("" if data else "utf-8", "signature of a binary format" if data else "empty")
    if b"\0" in data and not _is_damaged(data, whole):
        wide = _wide(data)
        return Encoding(wide, "UTF-16 without a mark") if wide else Encoding("", "NUL bytes")
    controls = sum(data.count(bytes((c,))) for c in range(32) if c not in _TEXT_CONTROLS)
    if controls > max(8, len(data) // 100):  # a bell or two is dirt in a text, not a binary format
        return Encoding("", "control bytes")
    return _by_content(data, kind, whole, declared)


def _by_content(data: bytes, kind: str, whole: bool, named: str) -> Encoding:
    declared = _declared(data, kind) or named
    if declared and kind == "python" and _decodes(data, declared, whole):
        return Encoding(declared, "PEP 263 cookie")
    if _decodes(data, "utf-8", whole):
        return Encoding("utf-8", "valid UTF-8")
    valid, invalid = _utf8_sequences(data, whole)
    if valid >= invalid:  # text in GB 18030 or Latin-1 has six broken sequences and more for each valid one
        return Encoding("utf-8", f"UTF-8 with {invalid} broken sequences")
    if declared and _decodes(data, declared, whole) and _plausible(data, declared):
        return Encoding(declared, "declared in the document")
    if _is_western(data):
        return Encoding("cp1252", "accents within words, in windows-1252")
    east = _east_asian(data)
    if east:
        return Encoding(east, f"the characters people write, in {east}")
    guessed = _guess(data)
    if guessed:
        return Encoding(guessed, "statistics (charset-normalizer)")
    if declared and _decodes(data, declared, whole):
        return Encoding(declared, "declared in the document")
    high = sum(data.count(bytes((c,))) for c in range(128, 256))
    if high > 0.3 * len(data) and not valid:
        return Encoding("", "no encoding fits")
    return Encoding("utf-8", f"UTF-8 with {invalid} broken sequences")


def _is_damaged(data: bytes, whole: bool) -> bool:
    """Whether the NULs in it are dirt in a text: a few, where everything else is UTF-8 (and UTF-16 is not)."""
    count = data.count(b"\0")
    few = count <= 4 or count * 1000 <= len(data)
    return few and count * 10 <= len(data) and _decodes(data, "utf-8", whole)


def _decodes(data: bytes, encoding: str, whole: bool) -> bool:
    try:
        # Evidence that stops in the middle of a character is no error, and an incremental decoder forgives it.
        codecs.getincrementaldecoder(encoding)("strict").decode(data, whole)
    except (UnicodeError, LookupError):
        return False
    return True


def _wide(data: bytes) -> str:
    """UTF-16 (or -32) without a mark, recognised by decoding to characters people write; "" if it is not that."""
    for name in ("utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"):
        try:
            text = codecs.getincrementaldecoder(name)("strict").decode(data[:65536], False)
        except UnicodeError:
            continue
        usual = sum(
            c in "\t\n\r" or 32 <= ord(c) < 0x600 or 0x2010 <= ord(c) < 0x2040 or 0x3000 <= ord(c) < 0xA000
            or 0xAC00 <= ord(c) < 0xD7B0 or 0xFF00 <= ord(c) < 0xFFF0 for c in text
        )  # fmt: skip
        odd = sum(unicodedata.category(c) in ("Cn", "Co", "Cc") and c not in "\t\n\r\f" for c in text)
        # ASCII read with the wrong byte order becomes CJK-like noise without any space, digit or newline.
        anchored = any(c in " \n\r0123456789,.，。、" for c in text)
        if text and anchored and usual >= 0.95 * len(text) and odd <= 0.01 * len(text):
            return name
    return ""


def _declared(data: bytes, kind: str) -> str:
    if kind == "python":
        found = next((m for line in data.split(b"\n", 2)[:2] if (m := _COOKIE.match(line))), None)
    elif kind == "html":
        found = _META.search(data[:4096]) or _XML.match(data)
    else:
        return ""
    if found is None:
        return ""
    return named_codec(found[1].decode("ascii", "replace"), kind == "html")


def named_codec(label: str, html: bool = True) -> str:
    """The Python codec that a declared charset means, or "" for none that is known.

    >>> named_codec("GB2312"), named_codec("latin1"), named_codec("x-unknown")
    ('gb18030', 'cp1252', '')
    """
    label = label.strip().lower()
    # The WHATWG rule: what calls itself gb2312 or gbk is read as their superset. And what declares itself in ASCII
    # cannot be in UTF-16.
    label = {"gb2312": "gb18030", "gbk": "gb18030", "x-gbk": "gb18030"}.get(label, label)
    if html and label in ("iso-8859-1", "latin1", "ascii", "us-ascii"):
        label = "cp1252"
    try:
        found = codecs.lookup(label)
    except (LookupError, ValueError):  # a name with a NUL in it
        return ""
    # Python also calls zlib, rot13 and unicode_escape codecs: none is the charset of a document.
    is_charset = found._is_text_encoding and found.name not in _NO_CHARSETS
    return "" if not is_charset or found.name.startswith(("utf-16", "utf-32")) else found.name


def _utf8_sequences(data: bytes, whole: bool) -> tuple[int, int]:
    """Number of valid multi-byte UTF-8 sequences, and of broken ones."""
    decoder = Decoder("utf-8")
    text = decoder.decode(data, whole)
    return sum(not c.isascii() for c in text) - decoder.broken, decoder.broken


def _tolerant(data: bytes, codec: str) -> str:
    """The text if the bytes are in `codec` but for one character in a hundred, else "".

    A page with one damaged byte is still in its encoding.
    """
    first = _HIGH.search(data)
    start = max(0, first.start() - 1) if first else 0
    decoder = Decoder(codec)
    text = decoder.decode(data[start : start + _JUDGED_BYTES])
    wide = sum(not c.isascii() for c in text)
    return text if decoder.broken <= wide // 100 else ""


def _east_asian(data: bytes) -> str:
    """The codec of Chinese, Japanese or Korean text, or ""; each must give what that language is written with."""
    tests = (
        ("gb18030", _is_chinese), ("cp949", _is_korean), ("euc_jp", _is_japanese), ("cp932", _is_japanese),
        ("big5", _is_traditional), ("big5hkscs", _is_traditional),
    )  # fmt: skip
    for codec, usual in tests:
        text = _tolerant(data, codec)
        if text and usual(text):
            return codec
    return ""


def _wide_characters(text: str) -> list[str]:
    return [c for c in text if not c.isascii() and c != "\ufffd"]


def _is_chinese(text: str) -> bool:
    """Written with the characters Chinese is written with; EUC-KR, Big5 and Shift-JIS misread as GB 18030 are not."""
    wide = _wide_characters(text)
    if not wide or sum(bool(_CJK_OR_PUNCTUATION.match(c)) for c in wide) < 0.9 * len(wide):
        return False
    common = sum(c in _COMMON_HAN for c in wide) / len(wide)
    if len(wide) >= 12:
        return common >= 0.12
    # Level 1 of GB 2312 holds the 3755 characters of everyday use; accented Latin falls outside it when misread.
    leads = [c.encode("gb18030")[0] for c in wide]
    return sum(0xB0 <= lead <= 0xD7 or 0xA1 <= lead <= 0xA3 for lead in leads) >= 0.8 * len(wide)


def _is_traditional(text: str) -> bool:
    return len(_wide_characters(text)) >= 12 and _is_chinese(text)


def _is_korean(text: str) -> bool:
    """Hangul, hardly a Chinese character among it, and the syllables that sentences are made of."""
    letters = [c for c in text if c.isalpha() and not c.isascii()]
    hangul = [c for c in letters if "\uac00" <= c <= "\ud7a3"]
    common = sum(c in _COMMON_HANGUL for c in hangul)
    return len(letters) >= 8 and len(hangul) >= 0.8 * len(letters) and common >= 0.15 * len(hangul)


def _is_japanese(text: str) -> bool:
    """Kana among the characters, most of them hiragana or full-width katakana."""
    letters = [c for c in text if c.isalpha() and not c.isascii()]
    kana = sum("\u3041" <= c <= "\u30ff" for c in letters)
    half = sum("\uff66" <= c <= "\uff9d" for c in letters)  # any stray byte is a half-width kana of Shift-JIS
    return len(letters) >= 8 and kana >= 0.25 * len(letters) and half <= 0.1 * len(letters)


def _is_western(data: bytes) -> bool:
    """Windows-1252: accented letters beside plain ones, and the punctuation of word processors, hardly anything else.

    The code pages of other Latin alphabets fail: what they have at these places is no letter, or stands alone, here.
    """
    text = _tolerant(data, "cp1252")
    wide = [i for i, c in enumerate(text) if not c.isascii()]
    letters = sum(c.isalpha() for c in text)
    if len(wide) < 2 or len(wide) > 0.4 * letters:
        return False
    accents = [i for i in wide if text[i] in _ACCENTS]
    beside = sum(
        _PLAIN.match(text[i - 1 : i]) is not None or _PLAIN.match(text[i + 1 : i + 2]) is not None for i in accents
    )
    marks = sum(text[i] in _TYPOGRAPHY for i in wide)
    return bool(accents or marks >= 3) and beside + marks >= 0.97 * len(wide) and beside >= 0.9 * len(accents)


def _plausible(data: bytes, declared: str) -> bool:
    """Whether it reads like text as declared: servers say Latin-1 of everything, and that always decodes."""
    text = _tolerant(data, declared)
    letters = [c for c in text if c.isalpha()]
    wide = [c for c in letters if not c.isascii()]
    if len(wide) < 12:
        return declared not in _EAST or not _is_western(data)
    if declared in _EAST:
        # Kana lie at the same places in EUC-JP and GB 18030: text must be of the language its encoding is for.
        japanese, korean = "jp" in declared or "jis" in declared, declared in ("euc_kr", "cp949", "johab")
        return (_is_japanese if japanese else _is_korean if korean else _is_chinese)(text)
    if _east_asian(data):
        return False
    cyrillic = sum("\u0400" <= c <= "\u04ff" for c in wide)
    if cyrillic > 0.5 * len(wide):
        return sum(c.islower() for c in wide) > 0.5 * len(wide)  # KOI8 read as windows-1251 shouts, and vice versa
    latin = sum(ord(c) < 0x250 for c in wide)
    return latin < 0.5 * len(wide) or len(wide) < 0.4 * len(letters)


def _guess(data: bytes) -> str:
    best = charset_normalizer.from_bytes(data[: 64 * 1024], cp_isolation=list(_LEGACY)).best()
    if best is None or not _decodes(data, best.encoding, False):
        return ""
    text = str(best)
    wide = [i for i, c in enumerate(text) if not c.isascii()]
    # A stray byte in ASCII text is damage, not a language: it must sit in a word, and not be a letter no one uses.
    in_word = sum(text[i].isalpha() and (text[i - 1 : i].isalpha() or text[i + 1 : i + 2].isalpha()) for i in wide)
    latin = all(ord(text[i]) < 0x250 for i in wide)
    if in_word < 0.7 * len(wide) or (latin and any(text[i] in "ÿþ¿ÞÐð" for i in wide)):
        return ""
    # The code pages of Latin letters differ in few places, which statistics on letters cannot tell; the language can.
    if latin and identify(text) in _WESTERN and _decodes(data, "cp1252", False):
        return "cp1252"
    return best.encoding
