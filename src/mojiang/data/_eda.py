"""Easy data augmentation: a few words replaced, put in, swapped or left out (Wei and Zou 2019), in English and Chinese.

Digits, names and marks stay where they are, and so does whatever negates: without its "not", a text says the opposite.
"""

from __future__ import annotations

import random
import re
from typing import Final, Literal

from mojiang.data._thesaurus import Thesaurus
from mojiang.data._words import HAN, UNSPACED

Edit = Literal["synonym", "insert", "swap", "delete"]

_PIECE: Final = re.compile(r"[^\W\d_]+(?:['’][^\W\d_]+)*|[\W\d_]+")
_OTHER: Final = re.compile(rf"[^{HAN}]+")
_MARK: Final = re.compile(r"[\W\d_]+")
_LONGEST: Final = 4
_NEGATING: Final = (
    "not no never none nothing nobody nowhere neither nor without hardly barely cannot few little less least but "
    "不 没 沒 无 無 别 別 非 未 勿 莫 毫 没有 沒有 并不 从不 不是 难以 缺乏 而 但"
)
_COMMON: Final = (
    "a an the of to in on at by for with from as is are was were be been being am it its this that these those and or "
    "if so than then there here i you he she we they me him her us them my your his our their what which who whom do "
    "does did have has had will would can could shall should may might must s t"
)
_STAY: Final = frozenset(f"{_NEGATING} {_COMMON}".split())


def pieces(text: str, language: str, thesaurus: Thesaurus) -> list[str]:
    """A text cut into words and what is between them; Chinese by the longest words that the thesaurus has.

    >>> pieces("Big, red.", "en", {}), pieces("很便宜的酒店!", "zh", {"便宜": ("低廉",), "酒店": ("饭店",)})
    (['Big', ', ', 'red', '.'], ['很', '便宜', '的', '酒店', '!'])
    """
    if language not in UNSPACED:
        return _PIECE.findall(text)
    cut, place = [], 0
    while place < len(text):
        other = _OTHER.match(text, place)
        if other:
            found = other[0]
        else:
            lengths = range(min(_LONGEST, len(text) - place), 1, -1)
            found = next((w for n in lengths if (w := text[place : place + n]) in thesaurus), text[place])
        cut.append(found)
        place += len(found)
    return cut


def edit(text: str, language: str, kind: Edit, share: float, thesaurus: Thesaurus, chance: random.Random) -> str:
    """The text with about `share` of its words edited, at least one where one can be.

    >>> edit("a big house", "en", "synonym", 0.1, {"big": ("large",)}, random.Random(0))
    'a large house'
    """
    cut = pieces(text, language, thesaurus)
    places = [i for i, piece in enumerate(cut) if _free(piece, language)]
    number = max(1, round(share * len(places)))
    if kind == "synonym":
        known = [i for i in places if piece_key(cut[i]) in thesaurus]
        for i in sorted(chance.sample(known, min(number, len(known)))):
            cut[i] = _replaced(cut, i, thesaurus, chance)
    elif kind == "insert":
        known = [i for i in places if piece_key(cut[i]) in thesaurus]
        space = "" if language in UNSPACED else " "
        for word in [cut[i] for i in chance.sample(known, min(number, len(known)))]:
            cut[chance.choice(places)] += space + chance.choice(thesaurus[piece_key(word)])
    elif kind == "swap" and len(places) > 1:
        for _ in range(number):
            one, two = chance.sample(places, 2)
            cut[one], cut[two] = cut[two], cut[one]
    elif kind == "delete" and len(places) > 1:
        for i in chance.sample(places, min(number, len(places) - 1)):
            cut[i] = ""
            if i + 1 < len(cut) and cut[i + 1] == " ":
                cut[i + 1] = ""
    return "".join(cut)


def piece_key(piece: str) -> str:
    """How a word is looked up."""
    return piece.lower()


def _free(piece: str, language: str) -> bool:
    """Whether a piece is a word that may be edited; Latin words in Chinese are names."""
    low = piece.lower()
    if _MARK.fullmatch(piece) or low in _STAY or low.endswith(("n't", "n’t")) or (piece.isupper() and len(piece) > 1):
        return False
    return language not in UNSPACED or not _OTHER.fullmatch(piece)


def _replaced(cut: list[str], place: int, thesaurus: Thesaurus, chance: random.Random) -> str:
    word = cut[place]
    new = chance.choice(thesaurus[piece_key(word)])
    if word[0].isupper():
        new = new[0].upper() + new[1:]
    # "a big" → "an enormous"
    if place >= 2 and cut[place - 1] == " " and cut[place - 2].lower() in ("a", "an"):
        article = "an" if new[0].lower() in "aeiou" else "a"
        cut[place - 2] = article.capitalize() if cut[place - 2][0].isupper() else article
    return new
