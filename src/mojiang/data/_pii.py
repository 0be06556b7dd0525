"""Personal data in English and Chinese text: how each kind is written, what proves it, what speaks against it.

A detector is a pattern and a test of its matches. A kind with check digits must pass them; a kind that looks like
ordinary numbers needs a word beside it that says what it is; words such as "order no." or "version" speak against.
"""

from __future__ import annotations

import ipaddress
import re
from bisect import bisect
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final, Literal, NamedTuple, get_args

from mojiang.data import _checks as checks
from mojiang.data._addresses import find_addresses
from mojiang.data._names import NAMES, find_names

PiiKind = Literal[
    "email", "iban", "resident_id", "uscc", "card", "bank_card", "phone", "ip", "plate", "passport", "address",
    "person", "place",
]  # fmt: skip
KINDS: Final[tuple[PiiKind, ...]] = tuple(kind for kind in get_args(PiiKind) if kind not in NAMES)
"""What rules find; names are found by models (see `_names`)."""


class Found(NamedTuple):
    """Characters [start, end) of a text are of this kind."""

    start: int
    end: int
    kind: PiiKind


@dataclass(frozen=True)
class _Detector:
    kind: PiiKind
    pattern: re.Pattern[str]
    accept: Callable[[re.Match[str]], int]
    """End of what was found, 0 for nothing."""


# Letters and digits here are ASCII's: a Chinese character beside a number is no part of it.
_LEFT: Final = r"(?<![0-9A-Za-z_])(?<![0-9][.-])"
_RIGHT: Final = r"(?![0-9A-Za-z_])(?![.-][0-9])"
_NUMBERED: Final = re.compile(
    r"(?:order|invoice|tracking|serial|ticket|imei|imsi|isbn|issn|sku|part|model|case|bug|article|msg|message|"
    r"timestamp|hash|uuid|订单|订单号|单号|编号|流水号|流水|运单|快递|物流单?|序列号|批号|货号|学号|工号|条码|商品|"
    r"QQ|qq|群号?|期号)(?:\s?(?:号码?|no|nr|id|num(?:ber)?))?\.?\s?(?:[:：#=为是]|is)?\s?[#A-Z-]{0,4}$",
    re.IGNORECASE,
)
_PHONE_WORD: Final = re.compile(
    r"(?:\b(?:tel(?:ephone|efon|eph)?|t[eé\ufffd]l(?:[eé\ufffd]phone)?(?: au)?|tlf|f[óo]n|phone|fax(?:ing)?|"
    r"facs(?:imile)?|mobile|cell(?:ular|phone)?|"
    r"call(?: us)?(?: now| today| anytime)?|dial|ph|mob|gsm|voice|hotline|whatsapp|sms|contact(?:ed|(?: \w+)?))"
    r"(?: (?:to|at|us at|us|on|no|number|is|me at|\(?toll[ -]free\)?))*\b"
    r"|(?<![\w.])[ptfm]:|\b(?:my|his|her|our|your|their)(?: \w+)? (?:number|no\.?|line)(?: is)?"
    r"|电话|電話|手机号?码?|手機號?碼?|传真|傳真|致电|拨打|电洽|電洽|专线|專線|联系方式|热线|座机|固话|联系人?|微信)"
    r"(?:[\d\s.:：#()（=是为+/,、;-]|\b(?:or|and)\b|或){0,40}$",  # what follows may be the second number
    re.IGNORECASE,
)
_VERSION_WORD: Final = re.compile(
    r"(?:\b(?:v|ver|versions?|release|build|firmware|driver|section|sect?|chapter|clause|rev(?:ision)?|fig(?:ure)?|table)|§|版本|"
    r"版|第|章|节|固件)\.?\s?[:：号]?\s?$",
    re.IGNORECASE,
)
_REVISION: Final = re.compile(r"\.\w{1,5},(?:[\d.]+,)?$")  # Conf.pm,1.91.2.7
_IP_WORD: Final = re.compile(
    r"(?:\b(?:ip|ipv4|host|server|address|addr|dns|ping|from|client|gateway|route|login|ssh|tcp|udp|peer)\b|地址|主机|"
    r"服务器|登录|网关)[^\n]{0,20}$",
    re.IGNORECASE,
)
_ID_WORD: Final = re.compile(r"身份证|证件号|身份号|公民身份|ID card|identity (?:card|number)", re.IGNORECASE)
_BANK_WORD: Final = re.compile(r"卡号|账号|帐号|账户|银行|开户|储蓄卡|借记卡|信用卡|account|card", re.IGNORECASE)
_PASSPORT_WORD: Final = re.compile(r"passport|护照|通行证", re.IGNORECASE)


def _before(match: re.Match[str], characters: int = 24) -> str:
    return match.string[max(0, match.start() - characters) : match.start()].rpartition("\n")[2]


def _near(match: re.Match[str], pattern: re.Pattern[str], before: int = 30, after: int = 0) -> bool:
    text = match.string
    return bool(pattern.search(text, max(0, match.start() - before), min(len(text), match.end() + after)))


def _digits(text: str) -> str:
    return "".join(c for c in text if c.isdigit())


def _whole(ok: Callable[[re.Match[str]], object]) -> Callable[[re.Match[str]], int]:
    return lambda match: match.end() if ok(match) else 0


# -- e-mail -------------------------------------------------------------------------------------------------------

_EMAIL: Final = re.compile(
    r"(?<![A-Za-z0-9_+])(?<!://)(?P<local>[A-Za-z0-9_](?:[A-Za-z0-9._+'-]{0,62}[A-Za-z0-9_+-])?)"
    r"(?:@|\s?[\[({<]\s?at\s?[\])}>]\s?)"
    r"(?P<domain>(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?(?:\.|\s?[\[({<]\s?dot\s?[\])}>]\s?))+"
    r"(?P<tld>[A-Za-z]{2,24}))(?![A-Za-z0-9_@-])(?!:[\w~./-]+[/.]\w)",
    re.ASCII,
)
_ENDINGS: Final = (
    "png jpg jpeg gif svg webp bmp ico js css ts tsx jsx json xml html htm php asp jsp txt pdf zip gz exe dll class "
    "local localhost localdomain invalid test example internal lan"
)
_NO_TLD: Final = frozenset(_ENDINGS.split())
_MESSAGE_ID: Final = re.compile(r"(?:message-id|in-reply-to|references|content-id|article)\s?:?[^\n]{0,120}<$", re.I)


def _is_email(match: re.Match[str]) -> bool:
    domain = match["domain"].lower()
    if match["tld"].lower() in _NO_TLD or re.fullmatch(r"(?:.*\.)?example\.(?:com|org|net|edu)", domain):
        return False  # RFC 2606: nobody's
    return not _MESSAGE_ID.search(match.string, max(0, match.start() - 160), match.start())


# -- telephone ----------------------------------------------------------------------------------------------------

_CODES: Final = """
    1 7 20 27 30 31 32 33 34 36 39 40 41 43 44 45 46 47 48 49 51 52 53 54 55 56 57 58 60 61 62 63 64 65 66 81 82 84
    86 90 91 92 93 94 95 98 211 212 213 216 218 220 221 222 223 224 225 226 227 228 229 230 231 232 233 234 235 236
    237 238 239 240 241 242 243 244 245 246 248 249 250 251 252 253 254 255 256 257 258 260 261 262 263 264 265 266
    267 268 269 290 291 297 298 299 350 351 352 353 354 355 356 357 358 359 370 371 372 373 374 375 376 377 378 380
    381 382 383 385 386 387 389 420 421 423 500 501 502 503 504 505 506 507 508 509 590 591 592 593 594 595 596 597
    598 599 670 672 673 674 675 676 677 678 679 680 681 682 683 685 686 687 688 689 690 691 692 850 852 853 855 856
    870 871 872 873 874 878 880 881 882 883 886 888 960 961 962 963 964 965 966 967 968 970 971 972 973 974 975 976
    977 992 993 994 995 996 998
"""
_COUNTRY_CODES: Final = frozenset(_CODES.split())
_MOBILE_ZH: Final = re.compile(
    r"(?<![0-9A-Za-z_+])(?<![0-9][.-])(?:(?:\(?(?:\+|00)86\)?|86)[ -]?)?"
    r"(?P<number>1(?:3\d|4[014-9]|5[0-35-9]|6[2567]|7[0-8]|8\d|9[0-35-9])(?P<sep>[ -]?)\d{4}(?P=sep)\d{4})"
    + _RIGHT
    + r"(?!\s?(?:[元块人次个件美%]|万|亿|号(?!码)))"
)
_LANDLINE_ZH: Final = re.compile(
    r"(?<![0-9A-Za-z_.+])(?<![0-9]-)(?:(?:\+|00)86[ -]?)?"
    r"(?P<area>\(0(?:10|2\d|[3-9]\d{2})\)|（0(?:10|2\d|[3-9]\d{2})）|0(?:10|2\d|[3-9]\d{2}))(?P<sep>[ －-]?)"
    r"(?P<number>[2-8]\d{2,3}[ -]?\d{4})(?:(?:转|-|ext\.? ?)\d{1,5})?(?![0-9A-Za-z_])"
)
_NANP: Final = re.compile(
    r"(?<![0-9A-Za-z_=/])(?<![0-9][.+-])(?:\+?1(?: - |[-. ]{1,2}|(?=\(|[2-9]\d\d[-.]\d{3}[-.]\d{4})))?"
    r"(?P<area>\([2-9][0-8]\d\)|[2-9][0-8]\d)(?P<one> - |[-. /]{0,2})(?P<exchange>[2-9]\d{2})"
    r"(?P<two> - |[-. ]{0,2})(?P<line>\d{4})"
    r"(?:,? ?(?:x|ext\.?) ?\d{1,5}|(?:[WHFMC]|Fax|Tel)(?![0-9A-Za-z_]))?" + _RIGHT,
    re.IGNORECASE,
)
_INTERNATIONAL: Final = re.compile(
    r"(?<![0-9A-Za-z_+])(?:\+ ?|\b00[ -]?)(?P<number>[1-9](?:[ .()/-]{0,2}\d){7,14})(?![0-9A-Za-z_])"
)
_NATIONAL: Final = re.compile(
    r"(?<![0-9A-Za-z_.+-])(?P<number>\(?\d(?:(?:[ ./-]{1,2}|\) ?-?|\(0\)| ?\()?\d){6,13})" + _RIGHT
)  # only beside a word that says so
# Written as nothing else is: with the nought of long-distance calls (01-6411600, 0818 304 304, 03 25 83 10 10), digit
# by digit, or as a local number of North America in a list of addresses.
_TRUNK: Final = re.compile(
    r"(?<![0-9A-Za-z_.+/=#$-])(?<![0-9] )(?:0[1-9]\d{0,2}-\d{3,4}-?\d{3,4}|0[1-9]\d{1,3} \d{3} \d{3,4}"
    r"|0[1-9](?P<sep>[ .])\d\d(?P=sep)\d\d(?P=sep)\d\d(?P=sep)\d\d)" + _RIGHT + r"(?! [0-9])"
)
_SPACED: Final = re.compile(
    r"(?<![0-9A-Za-z_.])(?<![0-9] )(?:1 ?[-.]? ?)?\(? ?[2-9](?: ?\d){2} ?\)? {0,2}[-.]? ?[2-9](?: {0,2}\d){2} ?[-.]"
    r" ?\d(?: ?\d){3}(?![0-9A-Za-z_]| [0-9])|(?<![0-9A-Za-z_.])(?<![0-9] )(?:1 )?[2-9](?: \d){9}(?![0-9A-Za-z_]| [0-9])"
)
_ABROAD: Final = re.compile(
    r"(?<![0-9A-Za-z_.+-])\((?P<code>[2-9]\d{1,2})\)[- ]?(?P<number>\d{3,4}[- ]?\d{4})" + _RIGHT
)
_LOCAL: Final = re.compile(r"(?:(?<=[,)] )|(?<=\n> )|(?<=\n))(?P<number>[2-9]\d{2}-\d{4})(?=,? (?:www|http)|[,;] ?\n)")
_GROUPED: Final = re.compile(r"00[ -][1-9]\d{0,2}(?:[ -]\d{2,4}){3,5}\Z")
_DATE_OR_TIME: Final = re.compile(r"(?:19|20)\d\d[-/. ]\d{1,2}[-/. ]\d{1,2}|\d{1,2}[-/.]\d{1,2}[-/.](?:19|20)\d\d")


_STAND_IN: Final = re.compile(r"(?:00)?(?:1|7|\d\d)?000")  # how `_pseudonyms` begins a number
_FICTION: Final = re.compile(r"1?(?:\d{3})?55501\d\d")  # never given to anybody in North America


def country_code(digits: str) -> str:
    """The country code that an international number begins with (ITU-T E.164); empty if there is none."""
    return next((digits[:n] for n in (1, 2, 3) if digits[:n] in _COUNTRY_CODES), "")


def _is_mobile_zh(match: re.Match[str]) -> bool:
    if match["number"][1:] == match["number"][1] * 10:
        return False
    before = _before(match)
    if _PHONE_WORD.search(before):
        return True
    return not _NUMBERED.search(before) and not before.endswith(("=", "/", "#", "&", "$", "¥"))


def _is_landline_zh(match: re.Match[str]) -> bool:
    area, number = _digits(match["area"]).lstrip("0"), _digits(match["number"])
    if len(number) != 8 and (area == "10" or area[0] == "2" or len(number) != 7):
        return False
    written = match["sep"] or not match["area"].startswith("0")
    before = _before(match)
    after = match.string[match.end() : match.end() + 2]
    if match["sep"] == " " and (re.search(r"[0-9] $", before) or re.match(r" [0-9]", after)):
        return False  # groups out of a longer number
    return bool(_PHONE_WORD.search(before)) or bool(written and not _NUMBERED.search(before))


def _is_nanp(match: re.Match[str]) -> bool:
    area, exchange = _digits(match["area"]), match["exchange"]
    if area.endswith("11") or exchange.endswith("11") or (exchange == "555" and match["line"].startswith("01")):
        return False  # services; numbers for films
    before = _before(match)
    if _PHONE_WORD.search(before):
        return True
    written = match["area"].startswith("(") or (match["one"] and match["two"])
    if match["one"] == " " and (re.search(r"[0-9] \Z", before) or re.match(r" [0-9]", match.string[match.end() :][:2])):
        return False  # a row of numbers
    whole = written and match[0].startswith(("1", "+1", "("))  # "call to order: 1-402-597-4111"
    return bool(whole or (written and not _NUMBERED.search(before)))


def _is_international(match: re.Match[str]) -> bool:
    digits = _digits(match["number"])
    code = country_code(digits)
    national = digits[len(code) :].lstrip("0") if code else ""
    plain = match["number"].isdigit()
    if not code or len(digits) > 15 or len(national) < (8 if plain else 6) or digits[len(code) :].startswith("000"):
        return False
    grouped = bool(_GROUPED.match(match[0]))
    if not match[0].startswith("+") and not grouped and not _PHONE_WORD.search(_before(match)):
        return False
    if re.match(r"\d{1,3}\.\d{4,6}[ ,]", match["number"]):
        return False  # degrees
    if code == "1":
        return len(national) == 10 and national[0] in "23456789" and national[3] in "23456789"
    if code == "86":
        return bool(re.fullmatch(r"1[3-9]\d{9}|(?:10|2\d)\d{8}|[3-9]\d{9,10}", national))
    return True


def _is_trunk(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    return 9 <= len(digits) <= 11 and not _STAND_IN.match(digits) and not _NUMBERED.search(_before(match))


def _is_abroad(match: re.Match[str]) -> bool:
    return match["code"] in _COUNTRY_CODES and not _NUMBERED.search(_before(match))


def _is_spaced(match: re.Match[str]) -> bool:
    digits = _digits(match[0])[-10:]
    usual = len(digits) == 10 and digits[3] in "23456789" and len(set(digits)) > 3 and not _FICTION.fullmatch(digits)
    return usual and " " in match[0] and not _NUMBERED.search(_before(match))


def _is_national(match: re.Match[str]) -> bool:
    digits = _digits(match["number"])
    if (
        not 7 <= len(digits) <= (12 if match["number"].isdigit() else 13)
        or _FICTION.fullmatch(digits)
        or _STAND_IN.match(digits)
    ):
        return False
    return not _DATE_OR_TIME.match(match["number"]) and bool(_PHONE_WORD.search(_before(match, 64)))


# -- addresses of machines ----------------------------------------------------------------------------------------

_IPV4: Final = re.compile(r"(?<![0-9A-Za-z_.-])(?:\d{1,3}\.){3}\d{1,3}(?![0-9A-Za-z_]|\.\d|-\d)")
_IPV6: Final = re.compile(r"(?<![0-9A-Za-z:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![0-9A-Za-z:])")


def _is_ipv4(match: re.Match[str]) -> bool:
    parts = match[0].split(".")
    if any(len(part) > 1 and part[0] == "0" or int(part) > 255 for part in parts):
        return False
    before = _before(match)
    if not ipaddress.IPv4Address(match[0]).is_global or parts[0] == "0":
        return False
    if _VERSION_WORD.search(before) or _REVISION.search(before):
        return False
    # 1.2.3.4 is as likely a version or a section; then it takes a word beside it.
    return max(map(int, parts)) >= 20 or bool(_IP_WORD.search(before))


def _is_ipv6(match: re.Match[str]) -> bool:
    try:
        return ipaddress.IPv6Address(match[0]).is_global and any(c.isdigit() for c in match[0])
    except ValueError:
        return False


# -- cards and accounts -------------------------------------------------------------------------------------------

_CARD: Final = re.compile(
    r"(?<![0-9A-Za-z_.+])(?<![0-9][ -])(?:\d{13,19}"
    r"|\d{4}(?P<sep>[ -])\d{4}(?P=sep)\d{4}(?P=sep)\d{1,4}(?:(?P=sep)\d{1,3})?"
    r"|\d{4}(?P<sep2>[ -])\d{6}(?P=sep2)\d{4,5}|\d{6}(?P<sep3>[ -])\d{10,13})(?![0-9A-Za-z_])(?![ .-]?\d)"
)
_IBAN: Final = re.compile(r"(?<![0-9A-Za-z_])[A-Z]{2}\d{2}(?: ?[A-Z0-9]){11,30}")


def _is_card(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    network = card_is(digits)
    return network not in ("", "unionpay") and not _NUMBERED.search(_before(match))


def card_is(digits: str) -> str:
    """The network of a payment card with a right check digit."""
    return checks.card_network(digits) if checks.luhn(digits) and len(set(digits)) > 2 else ""


def _is_bank_card(match: re.Match[str]) -> bool:
    digits = _digits(match[0])
    if len(digits) < 16 or not checks.luhn(digits) or len(set(digits)) <= 2 or _NUMBERED.search(_before(match)):
        return False
    network = card_is(digits)
    return network == "unionpay" or (not network and digits[0] in "3456789" and _near(match, _BANK_WORD, before=16))


def _iban_end(match: re.Match[str]) -> int:
    """An IBAN may be written in groups, and a word may follow it: its country knows how long it is."""
    length, end = checks.iban_length(match[0][:2]), match.start()
    while length and end < match.end():
        length -= match.string[end] != " "
        end += 1
    if length or (end < len(match.string) and match.string[end].isascii() and match.string[end].isalnum()):
        return 0
    return end if checks.iban(match.string[match.start() : end].replace(" ", "")) else 0


# -- papers -------------------------------------------------------------------------------------------------------

_RESIDENT: Final = re.compile(
    r"(?<![0-9A-Za-z_.])(?<![0-9]-)(?:\d{17}[\dXx]|\d{6}(?P<sep>[ -])\d{8}(?P=sep)\d{3}[\dXx])(?![0-9A-Za-z_])(?!\.\d)"
)
_RESIDENT_OLD: Final = re.compile(_LEFT + r"\d{15}" + _RIGHT)
_USCC: Final = re.compile(r"(?<![0-9A-Za-z_.])[0-9ANY]\d\d{6}[0-9A-HJ-NPQRTUWXY]{10}(?![0-9A-Za-z_])")
_PLATE: Final = re.compile(
    r"(?<![A-Za-z0-9])[京津沪渝冀豫云辽黑湘皖鲁新苏浙赣鄂桂甘晋蒙陕吉闽贵粤青藏川宁琼使领][A-HJ-NP-Z][·•.\- ]?"
    r"(?:(?=[A-HJ-NP-Z0-9]*\d[A-HJ-NP-Z0-9]*\d)[A-HJ-NP-Z0-9]{4}[A-HJ-NP-Z0-9挂学警港澳领使]"
    r"|[A-HJK][A-HJ-NP-Z0-9]\d{4}|\d{5}[A-HJK])(?![A-Za-z0-9])"
)
_PASSPORT: Final = re.compile(
    _LEFT
    + r"(?!X000)(?:[EGDSPH]\d{8}|E[A-HJ-NP-Z]\d{7}|[CHMW]\d{8}|[A-Z]{1,2}\d{6,8}|\d{9}|[A-Z]\d[A-Z0-9]{7})"
    + _RIGHT
)


def _is_old_resident(match: re.Match[str]) -> bool:
    return checks.resident_id(match[0]) and _near(match, _ID_WORD)


_DETECTORS: Final = (
    _Detector("email", _EMAIL, _whole(_is_email)),
    _Detector("iban", _IBAN, _iban_end),
    _Detector("resident_id", _RESIDENT, _whole(lambda m: checks.resident_id(m[0].replace(" ", "").replace("-", "")))),
    _Detector("resident_id", _RESIDENT_OLD, _whole(_is_old_resident)),
    _Detector("uscc", _USCC, _whole(lambda m: checks.uscc(m[0]))),
    _Detector("bank_card", _CARD, _whole(_is_bank_card)),
    _Detector("card", _CARD, _whole(_is_card)),
    _Detector("phone", _INTERNATIONAL, _whole(_is_international)),
    _Detector("phone", _MOBILE_ZH, _whole(_is_mobile_zh)),
    _Detector("phone", _LANDLINE_ZH, _whole(_is_landline_zh)),
    _Detector("phone", _NANP, _whole(_is_nanp)),
    _Detector("phone", _NATIONAL, _whole(_is_national)),
    _Detector("phone", _TRUNK, _whole(_is_trunk)),
    _Detector("phone", _ABROAD, _whole(_is_abroad)),
    _Detector("phone", _SPACED, _whole(_is_spaced)),
    _Detector("phone", _LOCAL, _whole(lambda m: not _FICTION.fullmatch(_digits(m[0])))),
    _Detector("ip", _IPV4, _whole(_is_ipv4)),
    _Detector("ip", _IPV6, _whole(_is_ipv6)),
    _Detector("plate", _PLATE, _whole(lambda m: True)),
    _Detector("passport", _PASSPORT, _whole(lambda m: _near(m, _PASSPORT_WORD, after=12))),
)
# Where it pays to look: most of a text has neither digits nor an at sign, and a search for either is fast.
_NUMERIC: Final = re.compile(r"[0-9](?:[^\n0-9]{0,3}[0-9]){3,}")
_AT: Final = re.compile(r"@|[\[({<]\s?at\s?[\])}>]")


def _zones(text: str, pattern: re.Pattern[str], left: int, right: int) -> list[tuple[int, int]]:
    """Stretches of a text around the matches of a pattern, sorted and apart."""
    zones: list[tuple[int, int]] = []
    for match in pattern.finditer(text):
        low, high = max(0, match.start() - left), min(len(text), match.end() + right)
        if zones and low <= zones[-1][1]:
            zones[-1] = (zones[-1][0], high)
        else:
            zones.append((low, high))
    return zones


def find_pii(text: str, kinds: Iterable[PiiKind] = KINDS) -> list[Found]:
    """What is in a text, in order and apart; where two kinds claim a place, the one with the stronger proof has it.

    >>> [(f.kind, "or call +44 20 7946 0958 me@home.org"[f.start:f.end]) for f in
    ...  find_pii("or call +44 20 7946 0958 me@home.org")]
    [('phone', '+44 20 7946 0958'), ('email', 'me@home.org')]
    """
    wanted = set(kinds)
    numeric, at = _zones(text, _NUMERIC, 12, 40), _zones(text, _AT, 80, 280)
    found: list[Found] = []
    for detector in _DETECTORS:
        if detector.kind not in wanted:
            continue
        zones = at if detector.kind == "email" else numeric
        if detector.kind == "plate":  # few digits, and a character that is rare elsewhere
            zones = [] if text.isascii() else [(0, len(text))]
        for match in (match for low, high in zones for match in detector.pattern.finditer(text, low, high)):
            end = detector.accept(match)
            place = bisect(found, (match.start(),)) if end else 0
            if not end or (place and found[place - 1].end > match.start()):
                continue
            if place == len(found) or found[place].start >= end:
                found.insert(place, Found(match.start(), end, detector.kind))
    if "address" in wanted and not text.isascii():
        found = _with(found, (Found(start, end, "address") for start, end in find_addresses(text)))
    return found


def _with(found: list[Found], more: Iterable[Found]) -> list[Found]:
    """What was found, and more where nothing was."""
    for one in more:
        place = bisect(found, (one.start,))
        before, after = found[place - 1].end if place else 0, found[place].start if place < len(found) else one.end
        if before <= one.start and one.end <= after:
            found.insert(place, one)
    return found


def find_all(text: str, language: str, kinds: Iterable[PiiKind]) -> list[Found]:
    """What rules and, for names, models find.

    Raises:
        Unavailable: the model that names in this language need is not installed.
    """
    wanted = set(kinds)
    found = find_pii(text, wanted)
    if wanted.isdisjoint(NAMES):
        return found
    return _with(found, (Found(*name) for name in find_names(text, language) if name[2] in wanted))
