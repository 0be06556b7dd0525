"""What a token stands for, by the kind of tokenizer: its bytes, and where words begin.

byte-level   GPT-2, Llama 3, Qwen, SmolLM2: every byte is written as one letter, " the" is "Ġthe"
metaspace    SentencePiece's way (Llama 2, T5, Marian): " the" is "▁the", unknown bytes are "<0xE4>"
wordpiece    BERT's way: "##ing" goes on with a word, "the" begins one
plain        everything else: a token stands for its own characters
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

from mojiang.tokenizer._format import LETTER_BYTES

Kind = Literal["byte-level", "metaspace", "wordpiece", "plain"]

_BYTE: Final = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_META: Final = "▁"


def kind_of(spec: Mapping[str, Any]) -> Kind:
    """The kind of a `tokenizer.json`."""
    decoder, model = json.dumps(spec.get("decoder"), ensure_ascii=False), spec.get("model") or {}
    if "ByteLevel" in decoder:
        return "byte-level"
    if "Metaspace" in decoder or _META in decoder:
        return "metaspace"
    if model.get("continuing_subword_prefix") and (model.get("type") == "WordPiece" or "WordPiece" in decoder):
        return "wordpiece"
    return "plain"


def spelled(token: str, kind: Kind, prefix: str = "##") -> bytes:
    """The bytes a token of the model's vocabulary stands for.

    >>> spelled("Ġthe", "byte-level"), spelled("▁the", "metaspace"), spelled("##ing", "wordpiece")
    (b' the', b' the', b'ing')
    """
    if kind == "byte-level" and all(letter in LETTER_BYTES for letter in token):
        return bytes(LETTER_BYTES[letter] for letter in token)
    if kind == "metaspace":
        byte = _BYTE.fullmatch(token)
        return bytes([int(byte[1], 16)]) if byte else token.replace(_META, " ").encode()
    if kind == "wordpiece":
        token = token.removeprefix(prefix)
    return token.encode()


def reachable_tokens(spec: Mapping[str, Any]) -> frozenset[str]:
    """Tokens that the model itself may make of plain text; a special one among them needs watching.

    A merge table makes only what it joins, a vocabulary that is looked up whole makes any of its entries.
    """
    model = spec.get("model") or {}
    vocab = model.get("vocab") or {}
    if isinstance(vocab, list):
        return frozenset(piece for piece, _ in vocab)
    merges = model.get("merges")
    if merges is None or model.get("ignore_merges"):
        return frozenset(vocab)
    joined = ("".join(merge.split(" ", 1) if isinstance(merge, str) else merge) for merge in merges)
    return frozenset(joined) | frozenset(token for token in vocab if len(token) == 1)


def word_starts(ids: Sequence[int], pieces: Sequence[bytes]) -> list[bool]:
    """For each token whether a word begins with it, from the bytes of each id (empty for special tokens).

    A word begins with the white space before it, where letters, digits and other characters meet, and at every Chinese
    or Japanese character; special tokens stand alone.
    """
    starts, last, opened = [], "", False  # opened: the last token is the space before a word
    for id in ids:
        piece = pieces[id]
        first = _class(piece) if piece else ""
        new = first != "continued" and (first != last or first in ("", "han"))
        starts.append(new and not (opened and first))
        opened = piece.endswith(b" ")
        if not piece:
            last = ""
        elif (end := _last_class(piece)) != "continued":
            last = end
    return starts


def _class(piece: bytes) -> str:
    """What kind of character a piece begins with: "" is white space, "continued" the middle of a character."""
    first = piece[0]
    if first < 0x80:
        letter = chr(first)
        return "" if letter.isspace() else "letter" if letter.isalpha() else "digit" if letter.isdigit() else "other"
    if first < 0xC0:
        return "continued"
    # In UTF-8, E3 to E9 begin U+3000 to U+9FFF (kana, Han and their punctuation), EF full-width forms, F0 A0 rarer Han;
    # E2 begins typographic punctuation and F0 9F emoji.
    if 0xE3 <= first <= 0xE9 or first == 0xEF or piece[:2] >= b"\xf0\xa0":
        return "han"
    return "other" if first in (0xE2, 0xF0) else "letter"


def _last_class(piece: bytes) -> str:
    """What kind of character a piece ends with."""
    at = len(piece) - 1
    while at > 0 and 0x80 <= piece[at] < 0xC0:
        at -= 1
    return _class(piece[at:])
