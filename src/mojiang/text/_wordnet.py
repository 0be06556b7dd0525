"""Lemmas by WordNet's own rules (morphy): exceptions first, then endings, and only what WordNet knows.

The words and exceptions are those of WordNet 3.0 (Princeton University; its licence opens the file), without phrases.
"""

from __future__ import annotations

import lzma
import re
from dataclasses import dataclass
from functools import cache, lru_cache
from importlib import resources
from typing import Final, Literal

PartOfSpeech = Literal["noun", "verb", "adjective", "adverb"]

# Ending → what takes its place, in WordNet's order.
_ENDINGS: Final[dict[PartOfSpeech, tuple[tuple[str, str], ...]]] = {
    "noun": (
        ("s", ""), ("ses", "s"), ("ves", "f"), ("xes", "x"), ("zes", "z"), ("ches", "ch"), ("shes", "sh"),
        ("men", "man"), ("ies", "y"),
    ),
    "verb": (
        ("s", ""), ("ies", "y"), ("es", "e"), ("es", ""), ("ed", "e"), ("ed", ""), ("ing", "e"), ("ing", ""),
    ),
    "adjective": (("er", ""), ("est", ""), ("er", "e"), ("est", "e")),
    "adverb": (),
}  # fmt: skip
_ORDER: Final[tuple[PartOfSpeech, ...]] = ("verb", "noun", "adjective", "adverb")
# Words that no rule should touch: closed classes, of which WordNet knows only chance namesakes (`as`, `us`, `his`).
_NAMESAKES: Final = (
    "as us his its this thus was has does ours hers yours theirs is less unless across perhaps always afterwards else "
    "during whereas besides sometimes towards others plus versus yes sans ground"
)
_CLOSED: Final = frozenset(_NAMESAKES.split())
_IRREGULAR: Final = {"was": "be", "is": "be", "are": "be", "am": "be", "were": "be", "been": "be", "has": "have",
                       "does": "do", "did": "do", "had": "have", "'s": "be", "n't": "not", "ca": "can", "wo": "will",
                       "others": "other"}  # fmt: skip


@dataclass(frozen=True)
class _Words:
    known: frozenset[str]
    exceptions: dict[str, str]


@cache
def _wordnet() -> dict[str, _Words]:
    packed = resources.files("mojiang.text").joinpath("wordnet.txt.xz").read_bytes()
    found: dict[str, _Words] = {}
    for part in re.split("^# ", lzma.decompress(packed).decode(), flags=re.MULTILINE)[1:]:
        name, *lines = part.splitlines()
        single = frozenset(line for line in lines if " " not in line)
        found[name] = _Words(single, {pair[0]: pair[1] for line in lines if len(pair := line.split()) > 1})
    return found


def lemma(word: str, part: PartOfSpeech) -> str:
    """What WordNet's `morphy` gives for a lower-case word of this part of speech; the word itself if it knows none.

    >>> lemma("children", "noun"), lemma("running", "verb"), lemma("better", "adjective"), lemma("glorped", "verb")
    ('child', 'run', 'good', 'glorped')
    """
    return _morphy(word, part) or word


def _morphy(word: str, part: PartOfSpeech) -> str | None:
    words = _wordnet()[part]
    if word in words.exceptions:
        return words.exceptions[word]
    if word in words.known:
        return word
    if part == "noun" and (word.endswith("ss") or len(word) <= 2):
        return None
    for ending, other in _ENDINGS[part]:
        if word.endswith(ending) and (stem := word.removesuffix(ending) + other) in words.known:
            return stem
    return None


@lru_cache(65536)
def lemma_of(word: str) -> str:
    """The lemma of a lower-case word whose part of speech is not known.

    What ends in -ed or -ing is taken for a verb's form; else what WordNet has as it stands stays, and the rest is tried
    as verb, noun and adjective in turn.

    >>> [lemma_of(word) for word in "was the mice went used happier as buildings".split()]
    ['be', 'the', 'mouse', 'go', 'use', 'happy', 'as', 'building']
    """
    if word in _IRREGULAR:
        return _IRREGULAR[word]
    if word in _CLOSED:
        return word
    words = _wordnet()
    for part in ("noun", "verb"):
        if word in words[part].exceptions:
            return words[part].exceptions[word]
    if word.endswith(("ed", "ing")) and (verb := _morphy(word, "verb")):
        return verb
    if any(word in words[part].known for part in _ORDER):
        return word
    return next((found for part in _ORDER if (found := _morphy(word, part))), word)
