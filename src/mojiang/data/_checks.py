"""Numbers that carry their own proof: check digits of cards, accounts, Chinese identity cards and companies."""

from __future__ import annotations

from datetime import date
from typing import Final

_IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BI": 27, "BR": 29,
    "BY": 28, "CH": 21, "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DJ": 27, "DK": 18, "DO": 28, "EE": 20, "EG": 29,
    "ES": 24, "FI": 18, "FK": 18, "FO": 18, "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28,
    "HN": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23, "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20,
    "LB": 28, "LC": 32, "LI": 21, "LT": 20, "LU": 20, "LV": 21, "LY": 25, "MC": 27, "MD": 24, "ME": 22, "MK": 19,
    "MN": 20, "MR": 27, "MT": 31, "MU": 30, "NI": 28, "NL": 18, "NO": 15, "OM": 23, "PK": 24, "PL": 28, "PS": 29,
    "PT": 25, "QA": 29, "RO": 24, "RS": 22, "RU": 33, "SA": 24, "SC": 31, "SD": 18, "SE": 24, "SI": 19, "SK": 24,
    "SM": 27, "SO": 23, "ST": 25, "SV": 28, "TL": 23, "TN": 24, "TR": 26, "UA": 29, "VA": 22, "VG": 24, "XK": 20,
    "YE": 30,
}  # fmt: skip
# GB/T 2260: the first two digits of a region, with Hong Kong, Macau, Taiwan residents (81 to 83) and foreigners (91).
_REGIONS: Final = (
    "11 12 13 14 15 21 22 23 31 32 33 34 35 36 37 41 42 43 44 45 46 50 51 52 53 54 61 62 63 64 65 71 81 82 83 91"
)
PROVINCES: Final = frozenset(_REGIONS.split())
_ID_WEIGHTS: Final = (7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2)
_USCC_ALPHABET: Final = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_USCC_WEIGHTS: Final = tuple(pow(3, i, 31) for i in range(17))
# GB 32100: who registers, and what it registers.
_USCC_KINDS: Final = {
    "1": "1239", "2": "19", "3": "123459", "4": "19", "5": "1239", "6": "129", "7": "129", "8": "19", "9": "123",
    "A": "19", "N": "1239", "Y": "1",
}  # fmt: skip


def luhn(digits: str) -> bool:
    """ISO/IEC 7812: whether the last digit checks the others.

    >>> luhn("4111111111111111"), luhn("4111111111111112")
    (True, False)
    """
    total = 0
    for position, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + position % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def iban_length(country: str) -> int:
    """Characters of an IBAN of that country; 0 where there are none."""
    return _IBAN_LENGTHS.get(country, 0)


def iban(code: str) -> bool:
    """ISO 13616: length of its country, and 97 as it should be.

    >>> iban("GB82WEST12345698765432"), iban("GB82WEST12345698765433")
    (True, False)
    """
    if len(code) != iban_length(code[:2]):
        return False
    return int("".join(str(int(c, 36)) for c in code[4:] + code[:4])) % 97 == 1


def resident_id(code: str) -> bool:
    """GB 11643: an identity number with province, day of birth and, where it has 18 digits, its check digit.

    >>> resident_id("11010519491231002X"), resident_id("110105194912310021"), resident_id("110105491231002")
    (True, False, True)
    """
    if code[:2] not in PROVINCES:
        return False
    if len(code) == 15:
        return _was_born("19" + code[6:12])
    if len(code) != 18 or not _was_born(code[6:14]):
        return False
    total = sum(weight * int(digit) for weight, digit in zip(_ID_WEIGHTS, code, strict=False))
    return "10X98765432"[total % 11] == code[17].upper()


def _was_born(day: str) -> bool:
    try:
        born = date(int(day[:4]), int(day[4:6]), int(day[6:]))
    except ValueError:
        return False
    return date(1890, 1, 1) <= born <= date.today()


def uscc(code: str) -> bool:
    """GB 32100: a unified social credit code, of a known registrar and province, with its check character.

    >>> uscc("91350100M000100Y43"), uscc("91350100M000100Y44")
    (True, False)
    """
    if len(code) != 18 or code[1] not in _USCC_KINDS.get(code[0], "") or code[2:4] not in PROVINCES | {"10"}:
        return False
    if any(c not in _USCC_ALPHABET for c in code):
        return False
    total = sum(_USCC_ALPHABET.index(c) * weight for c, weight in zip(code, _USCC_WEIGHTS, strict=False))
    return _USCC_ALPHABET[(31 - total % 31) % 31] == code[17]


def card_network(digits: str) -> str:
    """Who issued a payment card of that many digits, by how its number begins; empty if nobody.

    >>> card_network("4111111111111111"), card_network("6222021234567890123"), card_network("9111111111111111")
    ('visa', 'unionpay', '')
    """
    length, two, four = len(digits), int(digits[:2]), int(digits[:4])
    rules = (
        ("visa", digits[0] == "4", (13, 16, 19)),
        ("mastercard", 51 <= two <= 55 or 2221 <= four <= 2720, (16,)),
        ("amex", two in (34, 37), (15,)),
        ("unionpay", two in (62, 81), (16, 17, 18, 19)),
        ("discover", four == 6011 or two == 65 or 644 <= four // 10 <= 649, (16, 19)),
        ("jcb", 3528 <= four <= 3589, (16,)),
        ("diners", 300 <= four // 10 <= 305 or two in (36, 38), (14,)),
    )
    return next((name for name, begins, lengths in rules if begins and length in lengths), "")
