"""Stand-ins for personal data: the same value has the same stand-in wherever it occurs, and nobody's data is one.

A stand-in is derived with a secret key (HMAC-SHA-256, RFC 2104), so that without the key it can neither be undone nor
be guessed by trying all telephone numbers. It keeps its format, and lies where no real one can be: reserved domains and
networks, provinces and countries that there are not, check digits that are wrong.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import os
import re
from typing import Final

from mojiang.core.errors import BadUsage
from mojiang.data import _checks as checks
from mojiang.data._pii import PiiKind, country_code

_NAMED: Final = {"address": ("Address-", "某地址"), "person": ("Person-", "某人"), "place": ("Place-", "某地")}
_LEAST: Final = 16  # characters of a key
_LETTERS: Final = "ABCDEFGHJKLMNPQRSTUVWXYZ"
_SEPARATORS: Final = re.compile(r"[^0-9A-Za-z@.:\u3400-\u9fff]")


def read_key(variable: str) -> bytes:
    """The secret key out of an environment variable.

    Raises:
        BadUsage: it is not set, or too short to keep anything secret.
    """
    key = os.environ.get(variable, "")
    if len(key) < _LEAST:
        what = f"has {len(key)} characters; {_LEAST} or more are needed" if key else "is not set"
        raise BadUsage(
            f"pseudonyms need a secret key, and ${variable} {what}", hint=f"export {variable}=$(openssl rand -hex 32)"
        )
    return key.encode()


def pseudonym(kind: PiiKind, value: str, key: bytes) -> str:
    """The stand-in of a value.

    >>> pseudonym("email", "Me@Home.org", b"k" * 16) == pseudonym("email", "me@home.org", b"k" * 16)
    True
    """
    stream = _Stream(key, kind, canonical(kind, value))
    if kind == "email":
        return f"user-{stream.number(16**10):010x}@example.com"
    if kind == "ip":
        if ":" in value:
            return str(ipaddress.IPv6Address((0x20010DB8 << 96) + stream.number(2**64)))
        return str(ipaddress.IPv4Address(0xF0000000 + stream.number(2**28 - 2**16)))  # reserved "for future use"
    if kind == "plate":
        return "某I" + _like(value[2:], stream)
    if kind == "passport":
        return "X000" + _like("0" * max(4, len(value) - 4), stream)
    if kind == "iban":
        return "XX00" + _like(value[4:], stream)
    if kind == "phone":
        return _phone(value, stream)
    if kind in _NAMED:
        english, chinese = _NAMED[kind]
        return f"{english if value.isascii() else chinese}{stream.number(16**8):08x}"
    return _wrong_check("00" + _like(value[2:], stream))


class _Stream:
    """Numbers that only the key and the value decide."""

    def __init__(self, key: bytes, kind: str, value: str) -> None:
        mac = hmac.new(key, f"{kind}\0{value}".encode(), hashlib.sha256).digest()
        self._state = int.from_bytes(mac, "big")

    def number(self, below: int) -> int:
        self._state, rest = divmod(self._state, below)
        return rest


def canonical(kind: PiiKind, value: str) -> str:
    """What two spellings of the same value have in common.

    >>> canonical("phone", "+86 138-1234-5678") == canonical("phone", "13812345678")
    True
    """
    if kind == "email":
        value = re.sub(r"\s?[\[({<]\s?(at|dot)\s?[\])}>]\s?", lambda m: "@" if m[1] == "at" else ".", value)
    plain = _SEPARATORS.sub("", value).lower()
    if kind == "ip":
        return ipaddress.ip_address(value).exploded
    if kind == "phone":
        digits = "".join(c for c in plain if c.isdigit()).lstrip("0")
        return digits[2:] if re.fullmatch(r"86(1\d{10}|[2-9]\d{8,10}|10\d{8})", digits) else digits
    return plain.replace(".", "").replace(":", "") if kind == "plate" else plain


def _like(shape: str, stream: _Stream) -> str:
    """Digits for digits, letters for letters; what separates them stays."""
    made = []
    for c in shape:
        if c.isdigit():
            made.append(str(stream.number(10)))
        elif c.isascii() and c.isalpha():
            made.append(_LETTERS[stream.number(len(_LETTERS))])
        else:
            made.append(c)
    return "".join(made)


def _phone(value: str, stream: _Stream) -> str:
    """The country code stays; three noughts, as no number begins; then digits of its own."""
    head = ""
    if prefix := re.match(r"\(?(?:\+|00)", value):
        code = country_code("".join(c for c in value[prefix.end() :] if c.isdigit()))
        head = value[: prefix.end() + len(code)]
    elif prefix := re.match(r"86(?=[ -]?1[3-9])|1(?=[-. (])", value):
        head = prefix[0]
    zeros, made = 0, []
    for c in value[len(head) :]:
        if c.isdigit() and zeros < 3:
            zeros += 1
            made.append("0")
        else:
            made.append(str(stream.number(10)) if c.isdigit() else c)
    return head + "".join(made)


def _wrong_check(code: str) -> str:
    """A number whose last digit does not check the others."""
    digits = "".join(c for c in code if c.isdigit())
    if digits and checks.luhn(digits):
        last = max(i for i, c in enumerate(code) if c.isdigit())
        code = code[:last] + str((int(code[last]) + 1) % 10) + code[last + 1 :]
    return code
