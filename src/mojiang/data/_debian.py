"""Examples from what Debian says about its packages (see `_packages.debian_records`)."""

from __future__ import annotations

import gzip
import hashlib
import json
import random
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mojiang.data._records import Record

Package = dict[str, str]
_FILE: Final = "debian-records.jsonl"
_MIN_PROSE: Final = 80  # characters; shorter descriptions say no more than the summary
_MAX_ANSWER: Final = 600
_ASKED: Final = (
    "What does the Debian package {} do?", "What is the package {} for?", "Tell me about the Debian package {}.",
    "Why would I install {} on Debian?", "What is {}?", "Describe the Debian package {} in a few sentences.",
)  # fmt: skip
_NAME: Final = r"[A-Z][\w.+-]*(?: [A-Z][\w.+-]*){0,2}"
# A pattern whose last group is the answer, and the question; {0} is the package, {1} the first group.
_PATTERNS: Final = (
    (re.compile(rf"(?:^|[.\n] ?)({_NAME}) is (an? [^.;:()\n]{{10,120}})[.;,(]"), "What is {1}?"),
    (re.compile(r"\b(provid)es ([^.;:()\n]{10,120})[.;,(]"), "What does {0} provide?"),
    (re.compile(r"[Tt]his (package) contains ([^.;:()\n]{10,120})[.;,(]"), "What does the package {0} contain?"),
    (re.compile(r"\b(written) in ([A-Z][\w+#]*)"), "Which language is {0} written in?"),
    (re.compile(rf"\b(based) on (?:the )?({_NAME})"), "What is {0} based on?"),
    (re.compile(r"\b(support)s ([^.;:()\n]{10,100})[.;,(]"), "What does {0} support?"),
)


def packages_in(path: Path) -> Iterator[Package]:
    """The records of a snapshot, by name."""
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        yield from map(json.loads, lines)


def prose(long: str) -> str:
    """A long description as paragraphs; lists and other indented lines keep their line ends.

    >>> prose("One sentence\\non two lines.\\n.\\nList:\\n * a\\n * b")
    'One sentence on two lines.\\n\\nList:\\n* a\\n* b'
    """
    paragraphs = []
    for block in re.split(r"\n\.(?:\n|$)", long):
        kept = re.sub(r"\n(?! |[*+-] |\d+[.)] )", " ", block.strip("\n"))
        paragraphs.append("\n".join(re.sub(r"\s+", " ", line).strip() for line in kept.splitlines()))
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def _record(package: Package, value: dict[str, Any], part: str = "") -> Record:
    # Packages built from one source share most of their description, so they go to one split.
    return Record(_FILE, package["package"] + part, value, together=package["source"])


def sections(path: Path) -> Iterator[Record]:
    """Summary and description, labelled with the section."""
    for package in packages_in(path):
        text = f"{package['short']}\n\n{prose(package['long'])}".strip()
        yield _record(package, {"text": text, "label": package["section"]})


def summaries(path: Path) -> Iterator[Record]:
    """Description and its one-line summary."""
    for package in packages_in(path):
        text = prose(package["long"])
        if len(text) >= _MIN_PROSE:
            yield _record(package, {"source": text, "target": package["short"]})


def asked(name: str) -> str:
    """A question about a package; which of several is decided by its name."""
    return _ASKED[_digest(name) % len(_ASKED)].format(name)


def answer_of(package: Package) -> str:
    """As many paragraphs of the description as fit, or "" where there is little to say."""
    text = prose(package["long"])
    kept = ""
    for paragraph in text.split("\n\n"):
        if kept and len(kept) + len(paragraph) > _MAX_ANSWER and not kept.endswith(":"):
            break
        kept = f"{kept}\n\n{paragraph}" if kept else paragraph
    return kept if _MIN_PROSE <= len(kept) <= 2 * _MAX_ANSWER and not kept.endswith(":") else ""


def conversations(path: Path, limit: int) -> Iterator[Record]:
    """What a package is for, as question and answer; `limit` of them, chosen by hash of the name."""
    chosen = sorted(packages_in(path), key=lambda package: _digest(package["package"]))
    found = ((package, answer_of(package)) for package in chosen)
    for number, (package, text) in enumerate((p, t) for p, t in found if t):
        if number == limit:
            return
        messages = [asked(package["package"]), text]
        yield _record(package, {"messages": messages, "kind": "package"})


def preferences(path: Path) -> Iterator[Record]:
    """The package's own description against that of the package of its section that is next in length.

    Nearly equal lengths, so that the longer answer is not simply the better one.
    """
    by_section: dict[str, list[tuple[int, str, Package]]] = defaultdict(list)
    for package in packages_in(path):
        if text := answer_of(package):
            by_section[package["section"]].append((len(text), text, package))
    for _, group in sorted(by_section.items()):
        group.sort(key=lambda entry: (entry[0], entry[2]["package"]))
        for (_, text, package), (_, worse, other) in zip(group, group[1:] + group[:1], strict=True):
            if package["source"] != other["source"] and text != worse and package["package"] not in worse:
                name = package["package"]
                yield _record(package, {"prompt": asked(name), "chosen": text, "rejected": worse})


def questions(path: Path) -> Iterator[Record]:
    """Questions by pattern. Every third is asked of another text of the section too, which does not answer it."""
    before: dict[str, tuple[Package, str]] = {}
    for package in packages_in(path):
        name, text = package["package"], prose(package["long"])
        if len(text) < _MIN_PROSE:
            continue
        for number, (pattern, template) in enumerate(_PATTERNS):
            found = pattern.search(text)
            if found is None:
                continue
            question = template.format(name, found[1])
            answer = {"text": found[2].rstrip(), "start": found.start(2)}
            yield _record(package, {"question": question, "context": text, "answers": [answer]}, f".{number}")
            other, context = before.get(package["section"], (package, text))
            subject = found[1] if "{1}" in template else name
            if _digest(question) % 3 == 0 and subject.lower() not in context.lower():
                value = {"question": question, "context": context, "answers": []}
                yield _record(other, value, f".{number}.{name}")
        before[package["section"]] = (package, text)


_FACTS: Final = {
    "package": "The package is called {}.", "version": "Its version is {}.", "section": "It belongs to {}.",
    "homepage": "Its home page is {}.", "size": "It takes {} kB.", "summary": "In a few words: {}.",
}  # fmt: skip


def json_tasks(path: Path, rows: int, seed: int) -> Iterator[Record]:
    """Facts about a package in words, in changing order, and the JSON object with two to four of them."""
    every = list(packages_in(path))
    generator = random.Random(f"json {seed}")
    for number in range(1, rows + 1):
        package = generator.choice(every)
        facts: dict[str, Any] = {**{k: package[k] for k in ("package", "version", "section", "homepage")},
                                 "size": int(package["size"] or 0), "summary": package["short"]}  # fmt: skip
        facts = {key: value for key, value in facts.items() if value}
        told = generator.sample(sorted(facts), len(facts))
        keys = generator.sample(sorted(facts), min(len(facts), generator.randint(2, 4)))
        text = " ".join(_FACTS[key].format(facts[key]) for key in told)
        named = ", ".join(f'"{key}"' for key in keys)
        prompt = f"{text}\n\nGive a JSON object with exactly the keys {named}. Answer with the JSON alone."
        answer = json.dumps({key: facts[key] for key in keys}, ensure_ascii=False)
        yield _record(package, {"prompt": prompt, "answer": answer}, f".{number}")


def _digest(text: str) -> int:
    # Of more than the text: splits go by the text's own hash, and what is chosen here must not fill one of them.
    return int.from_bytes(hashlib.sha256(f"debian\0{text}".encode()).digest()[:8], "big")
