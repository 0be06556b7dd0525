"""Lists of words that speak against a text: whole words where there are spaces, anywhere in a text without."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from mojiang.core.errors import BadInput
from mojiang.data._words import words


@dataclass(frozen=True)
class Keywords:
    """Keywords by how they are looked for: as tokens, and as substrings of their lengths."""

    spaced: dict[str, list[tuple[str, ...]]] = field(default_factory=dict)
    """First token → the keywords that begin with it."""
    unspaced: frozenset[str] = frozenset()

    def found(self, text: str, language: str) -> list[str]:
        """Every occurrence of a keyword, one after another and never two at one place.

        >>> read_words(["bad word", "赌博", "ass"]).found("A bad word: class; 网上赌博", "zh")
        ['bad word', '赌博']
        """
        low = text.lower()
        return self._tokens(low) + (self._substrings(low) if self.unspaced and not low.isascii() else [])

    def _tokens(self, text: str) -> list[str]:
        if not self.spaced:
            return []
        tokens, hits, place = words(text, "en"), [], 0
        while place < len(tokens):
            match = next(
                (
                    word
                    for word in self.spaced.get(tokens[place], ())
                    if tuple(tokens[place : place + len(word)]) == word
                ),
                None,
            )
            if match:
                hits.append(" ".join(match))
            place += len(match) if match else 1
        return hits

    def _substrings(self, text: str) -> list[str]:
        lengths = sorted({len(word) for word in self.unspaced}, reverse=True)
        first = {word[0] for word in self.unspaced}
        hits, place = [], 0
        while place < len(text):
            if text[place] in first:
                match = next((text[place : place + n] for n in lengths if text[place : place + n] in self.unspaced), "")
                if match:
                    hits.append(match)
                    place += len(match) - 1
            place += 1
        return hits


def read_words(lines: Iterable[str]) -> Keywords:
    """Keywords out of lines; what follows # is a remark."""
    spaced: dict[str, list[tuple[str, ...]]] = {}
    unspaced = set()
    for line in lines:
        word = line.partition("#")[0].strip().lower()
        if not word:
            continue
        if any("\u3040" <= c <= "\u9fff" or "\u0e00" <= c <= "\u0e7f" for c in word):
            unspaced.add(word)
        elif tokens := tuple(words(word, "en")):
            spaced.setdefault(tokens[0], []).append(tokens)
    for group in spaced.values():
        group.sort(key=len, reverse=True)
    return Keywords(spaced, frozenset(unspaced))


def read_keywords(path: Path) -> Keywords:
    """Keywords out of a file, one a line.

    Raises:
        BadInput: there is no such file, or no word in it.
    """
    try:
        made = read_words(path.read_text(encoding="utf-8-sig").splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"the keywords in {path} cannot be read: {error}", hint="give a UTF-8 file, a word a line"
        ) from None
    if not made.spaced and not made.unspaced:
        raise BadInput(f"there are no keywords in {path}", hint="write one a line")
    return made
