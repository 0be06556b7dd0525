"""Rules that tell a text from menus, lists, spam and debris: Gopher's, C4's and FineWeb's, with Chinese equivalents.

Each rule is a measure and a threshold, and the first that is broken is the reason. The order and the measures are those
of datatrove, with which they are compared in the tests. For Chinese, where no space says where a word ends, words are
counted as `_words` does, n-grams of words become n-grams of 1.64 times as many characters, and what English measures by
the shape of its words is measured by the length of clauses and the share of characters.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

from pydantic import Field

from mojiang.core.config import Config
from mojiang.data._accounting import Changes
from mojiang.data._ngrams import NOT_KNOWN, Calm, repeated_ngrams, rule_out, top_ngram
from mojiang.data._words import (
    CHARACTERS_PER_WORD,
    HAN,
    KANA,
    UNSPACED,
    Remembered,
    Segmenter,
    is_exact,
    sentences,
    words,
)

Share = float


class Gopher(Config):
    """Rae et al. 2021, table A1: what a document of words looks like."""

    on: bool = True
    """Apply these rules."""
    min_words: int = Field(50, ge=0)
    """Fewer words (marks do not count)."""
    max_words: int = Field(100_000, ge=1)
    """More words."""
    min_word_length: float = Field(3.0, ge=0)
    """Mean length of words, where there are spaces."""
    max_word_length: float = Field(10.0, gt=0)
    """Mean length of words, where there are spaces."""
    min_clause_length: float = Field(3.0, ge=0)
    """Chinese: mean number of characters between marks and spaces; below are lists of keywords."""
    max_clause_length: float = Field(60.0, gt=0)
    """Chinese: above are texts without any mark, or no texts at all."""
    max_symbol_ratio: float = Field(0.1, ge=0)
    """# or ellipses for each word."""
    max_bullet_lines: Share = Field(0.9, ge=0, le=1)
    """Share of lines that begin with a bullet."""
    max_ellipsis_lines: Share = Field(0.3, ge=0, le=1)
    """Share of lines that end in an ellipsis."""
    min_alphabetic: Share = Field(0.8, ge=0, le=1)
    """Share of words and marks that have a letter."""
    min_alphabetic_zh: Share = Field(0.65, ge=0, le=1)
    """Chinese: share of characters that are letters or Chinese characters, not marks, digits or symbols."""
    min_stop_words: int = Field(2, ge=0)
    """Different words out of the eight commonest (English), or characters out of twenty (Chinese)."""


class Repetition(Config):
    """Rae et al. 2021, table A1: how much of a document says the same again."""

    on: bool = True
    """Apply these rules."""
    duplicate_paragraphs: Share = Field(0.30, ge=0, le=1)
    """Share of paragraphs that were there before."""
    duplicate_paragraph_characters: Share = Field(0.20, ge=0, le=1)
    """Share of characters in them."""
    duplicate_lines: Share = Field(0.30, ge=0, le=1)
    """Share of lines that were there before."""
    duplicate_line_characters: Share = Field(0.20, ge=0, le=1)
    """Share of characters in them."""
    top_ngrams: dict[int, Share] = Field(default_factory=lambda: {2: 0.20, 3: 0.18, 4: 0.16})
    """Share of characters in the commonest n-gram of words, for each n."""
    duplicate_ngrams: dict[int, Share] = Field(
        default_factory=lambda: {5: 0.15, 6: 0.14, 7: 0.13, 8: 0.12, 9: 0.11, 10: 0.10}
    )
    """Share of characters in n-grams of words that were there before, for each n."""


class FineWeb(Config):
    """Penedo et al. 2024: lists, menus and what was cut into pieces."""

    on: bool = True
    """Apply these rules."""
    min_ended_lines: Share = Field(0.12, ge=0, le=1)
    """Share of lines that end with a mark."""
    max_short_lines: Share = Field(0.67, ge=0, le=1)
    """Share of short lines."""
    short_line: int = Field(30, ge=1)
    """Characters up to which a line is short."""
    short_line_zh: int = Field(12, ge=1)
    """Chinese: the same."""
    max_duplicate_characters: Share = Field(0.01, ge=0, le=1)
    """Share of characters in lines that were there before."""
    max_new_lines: float = Field(0.3, ge=0)
    """Line ends for each word."""


class C4(Config):
    """Raffel et al. 2020: takes lines out of documents, then drops what has too few sentences left."""

    on: bool = False
    """Apply these rules. They change texts, and no list, table, verse or code survives them."""
    terminal_marks: bool = True
    """Take out lines that do not end with a mark."""
    min_line_words: int = Field(3, ge=0)
    """Take out lines with fewer words."""
    max_word_characters: int = Field(1000, ge=1)
    """Take out lines with a longer word; where there are no spaces, a longer clause."""
    citations: bool = True
    """Take [1], [edit] and [citation needed] out of lines."""
    javascript: bool = True
    """Take out lines that speak of it."""
    policies: bool = True
    """Take out lines on cookies, privacy and terms of use."""
    lorem_ipsum: bool = True
    """Drop documents that hold the placeholder."""
    curly_brackets: bool = True
    """Drop documents with a curly bracket: code."""
    min_sentences: int = Field(5, ge=0)
    """Drop documents with fewer sentences left."""


class Verdict(NamedTuple):
    """What rules say of a text: why it goes (empty when it stays), how far, and the text as it is then."""

    reason: str
    detail: str
    text: str


STOP_WORDS: Final = frozenset(("the", "be", "to", "of", "and", "that", "have", "with"))
STOP_CHARACTERS: Final = frozenset("的一是不了在人有我他这个们中来上为和也以之其而于與為這")
_PUNCTUATION: Final = frozenset(
    "!/—”:％１〈&(、━\\【#%「」，】；+^]~“《„';’{|∶´[=-`*．（–？！：$～«〉,><》)?）。…@_.\"}►»"
)
_TERMINAL: Final = tuple(".?!。！？．؟।…\"'”’」』）)")
_SENTENCE_MARKS: Final = tuple(".?!。！？．｡﹒﹖﹗‼‽⁇⁈⁉؟۔։।॥။።፧៖⸮")
_BULLETS: Final = ("•", "-")
_BULLETS_ZH: Final = ("•", "-", "·", "●", "○", "■", "□", "◆", "★", "※", "▪", "➢", "①", "②", "③", "④", "⑤", "⑥")
_PARAGRAPHS: Final = re.compile(r"\n{2,}")
_LINES: Final = re.compile("\n+")
_CLAUSE: Final = re.compile(rf"[\w{HAN}{KANA}]+")
_CITATION: Final = re.compile(r"\[\d*\]|\[edit\]|\[citation needed\]")
_POLICIES: Final = (
    "terms of use", "privacy policy", "cookie policy", "uses cookies", "use of cookies", "use cookies", "隐私政策",
    "服务条款", "使用条款", "使用cookie", "免责声明", "版权所有", "未经授权", "转载请注明",
)  # fmt: skip


def say(measure: str, value: float, bound: str, threshold: float) -> str:
    """Why, in words: `duplicate lines: 0.42, at most 0.3`."""
    return f"{measure}: {value:.4g}, {bound} {threshold:g}"


def alphabetic(word: str) -> bool:
    """Whether a word has a letter."""
    return word.isalpha() or any(map(str.isalpha, word))


_ALPHABETIC: Final = Remembered(alphabetic)
_SOLID: Final = Remembered(lambda word: 0 if _PUNCTUATION.issuperset(word) else len(word))
"""The length of a word that is more than marks; 0 for others."""


def counted(tokens: Sequence[str], exact: bool) -> float:
    """How many words there are that are more than marks."""
    return _count(list(_SOLID.each(tokens)), exact)


def _count(lengths: Sequence[int], exact: bool) -> float:
    solid = len(lengths) - lengths.count(0)
    return solid if exact else solid / CHARACTERS_PER_WORD


def gopher(text: str, tokens: Sequence[str], language: str, rules: Gopher, exact: bool = True) -> Verdict | None:
    """The first of Gopher's rules on quality that a text breaks; None when it keeps them all."""
    lengths = list(_SOLID.each(tokens))
    total = max(1.0, len(tokens) if exact else len(tokens) / CHARACTERS_PER_WORD)
    for reason, value, bound, threshold in _gopher(text, tokens, lengths, language, rules, exact, total):
        if value < threshold if bound == "at least" else value > threshold:
            return Verdict(f"gopher-{reason}", say(reason, value, bound, threshold), text)
    return None


Measure = tuple[str, float, str, float]


def _gopher(
    text: str, tokens: Sequence[str], lengths: Sequence[int], language: str, rules: Gopher, exact: bool, total: float
) -> Iterator[Measure]:
    unspaced = language in UNSPACED
    number = _count(lengths, exact)
    yield "few-words", number, "at least", rules.min_words
    yield "many-words", number, "at most", rules.max_words
    if unspaced:
        clauses = _CLAUSE.findall(text)
        length = sum(map(len, clauses)) / max(1, len(clauses))
        yield "short-clauses", length, "at least", rules.min_clause_length
        yield "long-clauses", length, "at most", rules.max_clause_length
    else:
        mean = sum(lengths) / max(1, len(lengths) - lengths.count(0))
        yield "short-words", mean, "at least", rules.min_word_length
        yield "long-words", mean, "at most", rules.max_word_length
    yield "hashes", text.count("#") / total, "at most", rules.max_symbol_ratio
    ellipses = text.count("...") + text.count("…") + text.count("。。。") - (text.count("……") if unspaced else 0)
    yield "ellipses", ellipses / total, "at most", rules.max_symbol_ratio
    lines = text.splitlines() or [""]
    bullets = _BULLETS_ZH if unspaced else _BULLETS
    yield "bullets", sum(s.lstrip().startswith(bullets) for s in lines) / len(lines), "at most", rules.max_bullet_lines
    ended = sum(s.rstrip().endswith(("...", "…")) for s in lines) / len(lines)
    yield "cut-lines", ended, "at most", rules.max_ellipsis_lines
    if unspaced:
        solid_text = "".join(text.split())
        share = sum(map(str.isalpha, solid_text)) / max(1, len(solid_text))
        yield "symbols", share, "at least", rules.min_alphabetic_zh
    else:
        yield "symbols", sum(_ALPHABETIC.each(tokens)) / max(1, len(tokens)), "at least", rules.min_alphabetic
    if language == "en":
        yield "stop-words", len(STOP_WORDS.intersection(tokens)), "at least", rules.min_stop_words
    elif language == "zh":
        yield "stop-words", len(STOP_CHARACTERS.intersection(text)), "at least", rules.min_stop_words


def repetition(
    text: str, tokens: Sequence[str], rules: Repetition, exact: bool = True, calm: Calm = NOT_KNOWN
) -> Verdict | None:
    """The first of Gopher's rules on repetition that a text breaks; what `calm` rules out is not counted again."""
    if not text.strip():
        return Verdict("empty", "", text)
    for reason, value, threshold in _repetition(text, tokens, rules, exact, calm):
        if value > threshold:
            return Verdict(f"repetition-{reason}", say(reason, value, "at most", threshold), text)
    return None


def _repetition(
    text: str, tokens: Sequence[str], rules: Repetition, exact: bool, calm: Calm
) -> Iterator[tuple[str, float, float]]:
    for name, parts, shares in (
        (
            "paragraphs",
            _PARAGRAPHS.split(text.strip()),
            (rules.duplicate_paragraphs, rules.duplicate_paragraph_characters),
        ),
        ("lines", _LINES.split(text), (rules.duplicate_lines, rules.duplicate_line_characters)),
    ):  # fmt: skip
        again, characters = repeated(parts)
        yield name, again / len(parts), shares[0]
        yield f"{name[:-1]}-characters", characters / len(text), shares[1]
    for n, threshold in () if calm.top else sorted(rules.top_ngrams.items()):
        units, space = (n, " ") if exact else (characters_of(n), "")
        yield f"top-{n}-gram", top_ngram(tokens, units, space) / len(text), threshold
    characters = 1
    for n, threshold in () if calm.repeated else sorted(rules.duplicate_ngrams.items()):
        if characters:  # where no n-gram is there twice, no longer one is
            characters = repeated_ngrams(tokens, n if exact else characters_of(n))
        yield f"{n}-grams", characters / len(text), threshold


def characters_of(n: int) -> int:
    """As many characters as n words of Chinese have."""
    return round(n * CHARACTERS_PER_WORD)


def calm_texts(
    texts: Sequence[str], tokens: Sequence[Sequence[str]], rules: Repetition, exact: bool = True
) -> list[Calm]:
    """Which of the rules on n-grams each text surely keeps."""
    top, again = rules.top_ngrams, rules.duplicate_ngrams
    if not exact:
        top, again = ({characters_of(n): share for n, share in group.items()} for group in (top, again))
    return rule_out(list(map(len, texts)), tokens, top, again, " " if exact else "")


def repeated(parts: Sequence[str]) -> tuple[int, int]:
    """How many parts were there before, and their characters."""
    seen: set[str] = set()
    number = characters = 0
    for part in parts:
        if part in seen:
            number += 1
            characters += len(part)
        else:
            seen.add(part)
    return number, characters


def fineweb(text: str, tokens: Sequence[str], language: str, rules: FineWeb, exact: bool = True) -> Verdict | None:
    """The first of FineWeb's rules that a text breaks."""
    lines = [line for line in text.split("\n") if line.strip()]
    if not lines:
        return Verdict("empty", "", text)
    short = rules.short_line_zh if language in UNSPACED else rules.short_line
    total = max(1.0, len(tokens) if exact else len(tokens) / CHARACTERS_PER_WORD)
    ended = sum(line.endswith(_SENTENCE_MARKS if language not in UNSPACED else _TERMINAL) for line in lines) / len(
        lines
    )
    if ended < rules.min_ended_lines:
        return Verdict("fineweb-open-lines", say("ended lines", ended, "at least", rules.min_ended_lines), text)
    for reason, value, threshold in (
        ("short-lines", sum(len(line) <= short for line in lines) / len(lines), rules.max_short_lines),
        ("again", repeated(lines)[1] / max(1, len(text.replace("\n", ""))), rules.max_duplicate_characters),
        ("list", text.count("\n") / total, rules.max_new_lines),
    ):
        if value > threshold:
            return Verdict(f"fineweb-{reason}", say(reason, value, "at most", threshold), text)
    return None


def c4(text: str, language: str, rules: C4, changes: Changes, segmenter: Segmenter = "characters") -> Verdict:
    """The text without the lines that C4 takes out; its reason when C4 drops it."""
    kept, number = [], 0
    for line in map(str.strip, text.splitlines()):
        if _too_long(line, language, rules):
            changes["lines taken out: a word too long"] += 1
            continue
        if rules.citations:
            line = _CITATION.sub("", line)
        if why := _line_goes(line, language, rules, segmenter):
            if why in ("lorem-ipsum", "curly-bracket"):
                return Verdict(f"c4-{why}", line[:200], text)
            changes[f"lines taken out: {why}"] += bool(line)
            continue
        number += sentences(line, language)
        kept.append(line)
    if number < rules.min_sentences:
        return Verdict("c4-few-sentences", say("sentences", number, "at least", rules.min_sentences), text)
    return Verdict("", "", "\n".join(kept).strip())


def _too_long(line: str, language: str, rules: C4) -> bool:
    parts = _CLAUSE.findall(line) if language in UNSPACED else line.split()
    return any(len(part) > rules.max_word_characters for part in parts)


def _line_goes(line: str, language: str, rules: C4, segmenter: Segmenter) -> str:
    unspaced = language in UNSPACED
    marks = _TERMINAL if unspaced else (".", "?", "!", '"', "'")
    if rules.terminal_marks and (not line.endswith(marks) or (not unspaced and line.endswith("..."))):
        return "no mark at the end"
    number = len(line.split())
    if unspaced:
        number = int(counted(words(line, language, segmenter), is_exact(language, segmenter)))
    if number < rules.min_line_words:
        return "few words"
    low = line.lower()
    for applies, reason in (
        (rules.lorem_ipsum and "lorem ipsum" in low, "lorem-ipsum"),
        (rules.javascript and "javascript" in low, "javascript"),
        (rules.curly_brackets and "{" in line, "curly-bracket"),
        (rules.policies and any(policy in low for policy in _POLICIES), "policies"),
    ):
        if applies:
            return reason
    return ""
