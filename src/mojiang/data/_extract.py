"""From the files of a package to records: one short function for each layout that is not an ordinary format."""

from __future__ import annotations

import csv
import email
import email.header
import gzip
import io
import json
import random
import re
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from email.message import Message
from pathlib import Path
from typing import Any, Final

from mojiang.data import _debian
from mojiang.data._accounting import Drop
from mojiang.data._encoding import detect
from mojiang.data._examples import Policy, records_in
from mojiang.data._formats import Notes
from mojiang.data._html import html_to_text
from mojiang.data._records import Record
from mojiang.data._sources import open_source

_MAX_ANSWER: Final = 2000  # characters of a FAQ's answer; a longer one ends with its last whole paragraph


@dataclass(frozen=True)
class Given:
    """What an extraction works on: the unpacked packages, each in a folder of its name, and how the set wants it."""

    root: Path
    policy: Policy
    options: dict[str, Any]
    records: Path = Path()
    """Snapshot of Debian's package records, where the set needs it."""
    rows: int = 0
    seed: int = 0


Items = Iterator[Record | Drop]


def files(given: Given) -> Items:
    """Every file, read as data.examples reads it."""
    return records_in(open_source(str(given.root)), given.policy, Notes())


def _texts(given: Given) -> Iterator[tuple[str, str]]:
    """(relative name, text) of every file, whatever its encoding."""
    for file in open_source(str(given.root)).files:
        data = gzip.decompress(file.path.read_bytes()) if file.name.endswith(".gz") else file.path.read_bytes()
        yield file.name, data.decode(detect(data).name or "utf-8", "replace")


def class_lines(given: Given) -> Items:
    """One text a line, in a file named by the class."""
    for name, text in _texts(given):
        label = name.rpartition("/")[2].partition(".")[0]
        for number, line in enumerate(text.splitlines(), 1):
            yield Record(name, str(number), {"text": line, "label": label})


def mail(given: Given) -> Items:
    """RFC 822 messages in folders named by class: subject and body, since other headers give the class away."""
    for file in open_source(str(given.root)).files:
        message = email.message_from_bytes(file.path.read_bytes())
        label = "spam" if "/spam" in file.name else "ham"
        text = f"{_header(message['subject'])}\n\n{_body(message)}".strip()
        yield Record(file.name, "", {"text": text, "label": label})


def _header(value: Any) -> str:
    try:
        return str(email.header.make_header(email.header.decode_header(str(value or ""))))
    except (ValueError, LookupError, UnicodeError):
        return str(value)


def _body(message: Message) -> str:
    """The plain text of a message, else the text of its HTML."""
    parts = [part for part in message.walk() if part.get_content_maintype() == "text"]
    plain = [part for part in parts if part.get_content_subtype() == "plain"]
    return "\n\n".join(_part(part) for part in plain or parts).strip()


def _part(part: Message) -> str:
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return ""
    text = data.decode(detect(data).name or "latin-1", "replace").replace("\r\n", "\n")
    return html_to_text(text) if part.get_content_subtype() == "html" else text


# -- tags ---------------------------------------------------------------------------------------------------------


def brown(given: Given) -> Items:
    """`word/tag` with the main part of the tag: no fw- (foreign), no -tl, -hl, -nc (titles, headlines), no clitic."""
    for item in files(given):
        if isinstance(item, Record):
            item = replace(item, value={**item.value, "tags": [simple_tag(tag) for tag in item.value["tags"]]})
        yield item


def simple_tag(tag: str) -> str:
    """The first and main part of a Brown tag.

    >>> [simple_tag(tag) for tag in ("nn-tl", "fw-at-hl", "pps+bez", "do*", "np$", "--", "*")]
    ['nn', 'at', 'pps', 'do', 'np$', '--', '*']
    """
    tag = tag.removeprefix("fw-")
    if tag.startswith(("--", "*")):
        return "--" if tag[0] == "-" else "*"
    return re.split(r"[-+*]", tag)[0]


_ENTITY: Final = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
_SURNAME: Final = 2  # characters at most; the corpus tags surname and given name as two words


def entities(given: Given) -> Items:
    """Words with their tags into characters with B- and I- tags of persons, places and organisations."""
    for item in files(given):
        if isinstance(item, Record):
            item = replace(item, value=_characters(item.value["tokens"], item.value["tags"]))
        yield item


def _characters(words: list[str], tags: list[str]) -> dict[str, list[str]]:
    tokens: list[str] = []
    labels: list[str] = []
    joinable = False
    for word, tag in zip(words, tags, strict=True):
        kind = _ENTITY.get(tag)
        goes_on = kind == "PER" and joinable  # the given name after a surname
        tokens += word
        for number in range(len(word)):
            labels.append("O" if kind is None else f"{'I' if number or goes_on else 'B'}-{kind}")
        joinable = kind == "PER" and not goes_on and len(word) <= _SURNAME
    return {"tokens": tokens, "tags": labels}


# -- images, pages, dictionaries ----------------------------------------------------------------------------------


def digits(given: Given) -> Items:
    """One JSON file for each digit: {"data": [784 floats for each image, one after the other]}."""
    import numpy as np

    for file in open_source(str(given.root)).files:
        pixels = np.array(json.loads(file.path.read_bytes())["data"], np.float64).reshape(-1, 28, 28)
        for number, image in enumerate(np.rint(pixels * 255).astype(np.uint8), 1):
            yield Record(file.name, str(number), {"image": image, "label": file.path.stem})


def aligned_html(given: Given) -> Items:
    """The same page in two languages: paragraphs and headings with the same id. What is not translated is left out."""
    left, right = given.options["left"], given.options["right"]
    paths = {file.name.partition("/")[2]: file.path for file in open_source(str(given.root)).files}
    for name in sorted(paths):
        other = name.replace(f"/{left}/", f"/{right}/")
        if other == name or other not in paths:
            continue
        targets = _by_id(paths[other])
        for id, source in _by_id(paths[name]).items():
            if (target := targets.get(id, "")) and target != source:
                yield Record(name, id, {"source": source, "target": target})


def _by_id(path: Path) -> dict[str, str]:
    from selectolax.lexbor import LexborHTMLParser

    found = {}
    for node in LexborHTMLParser(path.read_text(encoding="utf-8")).css("p[id], h1[id], h2[id], h3[id], h4[id], h5[id]"):
        text = " ".join(node.text().split())
        if text and (id := node.attributes.get("id")):
            found[id] = text
    return found


def faq(given: Given) -> Items:
    """Headings that ask, and the text below them up to the next heading."""
    for name, text in _texts(given):
        sections = re.split(r"^#{1,6} (.*)$", html_to_text(text), flags=re.MULTILINE)
        for number, (heading, body) in enumerate(zip(sections[1::2], sections[2::2], strict=True), 1):
            question = re.sub(r"^[\d.]+\s*", "", heading.strip(" ¶\xa0"))
            answer = _whole_paragraphs(re.sub(r"^-\s+", "- ", body.strip(), flags=re.MULTILINE))
            if question.endswith(("?", "？")) and len(answer) >= 40:
                yield Record(name, str(number), {"messages": [question, answer], "kind": "faq"})


def _whole_paragraphs(text: str) -> str:
    if len(text) <= _MAX_ANSWER:
        return text
    end = text.rfind("\n\n", 0, _MAX_ANSWER)
    cut = text[: end if end > 0 else _MAX_ANSWER]
    return cut if cut.count("```") % 2 == 0 else cut[: cut.rfind("```")].rstrip()


def cedict(given: Given) -> Items:
    """CC-CEDICT: `traditional simplified [pinyin] /meaning/meaning/`."""
    for name, text in _texts(given):
        for number, line in enumerate(text.splitlines(), 1):
            if found := re.match(r"(\S+) (\S+) \[([^]]*)\] /(.+)/", line):
                value = {"source": found[2], "target": found[4].replace("/", "; ").replace("\\`", "`")}
                yield Record(name, str(number), value)


def poems(given: Given) -> Items:
    """chinese-poetry's lists of {title, author, paragraphs}, each poem a document."""
    for file in open_source(str(given.root)).files:
        for number, poem in enumerate(json.loads(file.path.read_bytes()), 1):
            text = "\n".join((poem.get("title", ""), poem.get("author", ""), "", *poem.get("paragraphs", ())))
            yield Record(file.name, str(number), {"text": text if poem.get("paragraphs") else "", "format": "txt"})


# -- instructions, judgements, tasks ------------------------------------------------------------------------------


def manual(given: Given) -> Items:
    """The NAME line of manual pages: `strlen \\- calculate the length of a string`."""
    for name, text in _texts(given):
        found = re.search(r'^\.SH "?NAME"?\n(.*?)(?=^\.SH)', text, re.MULTILINE | re.DOTALL)
        line = re.sub(r'^\.\w+|\\f[BIRP]|["\n]|^\'\\".*$', " ", found[1], flags=re.MULTILINE) if found else ""
        names, dash, what = re.sub(r"\s+", " ", line).replace("\\-", "-").partition(" - ")
        first = names.split(",")[0].strip()
        section = name.removesuffix(".gz").rpartition(".")[2]
        if dash and first and len(what) > 10 and "\\" not in what:
            answer = f"{what.strip()[0].upper()}{what.strip()[1:]}."
            yield Record(name, "", {"messages": [f"What is {first}({section})?", answer], "kind": "manual"})


def instructions(given: Given) -> Items:
    """Small talk, FAQ and manual pages of the packages, and descriptions from Debian's records."""
    readers = {"chatterbot-corpus": files, "debian-faq": faq, "manpages": manual, "manpages-dev": manual}
    for name in sorted(readers):
        for item in readers[name](replace(given, root=given.root / name)):
            yield replace(item, file=f"{name}/{item.file}") if isinstance(item, Record) else item
    yield from _debian.conversations(given.records, given.options["packages"])


def judged(given: Given) -> Items:
    """PyRIT's answers with human harm scores from 0 to 1, by request: best against worst, or each by itself."""
    found: dict[str, dict[str, list[float]]] = defaultdict(lambda: defaultdict(list))
    for _, text in _texts(given):
        lines = text.splitlines(keepends=True)
        for row in csv.DictReader(io.StringIO("".join(lines[1:] if lines[0].startswith("#") else lines))):
            scores = [float(v) for k, v in row.items() if k and k.startswith("human_score") and _is_number(v)]
            if scores and row.get("objective") and row.get("assistant_response"):
                found[row["objective"].strip()][row["assistant_response"].strip()] += scores
    for number, (request, answers) in enumerate(sorted(found.items()), 1):
        means = sorted((sum(scores) / len(scores), text) for text, scores in answers.items())
        if given.options["paired"]:
            if means[-1][0] > means[0][0]:
                value = {"prompt": request, "chosen": means[0][1], "rejected": means[-1][1]}
                yield Record("harm", str(number), value)
            continue
        for other, (score, text) in enumerate(means, 1):
            if not 0.25 < score < 0.5:  # the scorers' own scale has nothing between little and moderate harm
                alone = {"prompt": request, "completion": text, "desirable": score <= 0.25}
                yield Record("harm", f"{number}.{other}", alone)


def _is_number(text: Any) -> bool:
    return isinstance(text, str) and re.fullmatch(r"\d+(\.\d+)?", text.strip()) is not None


_ASKED: Final = ("What is {}? Answer with the number alone.", "Work out {}. Give only the number.", "{} =")


def arithmetic(given: Given) -> Items:
    """Different tasks, from one operation on small numbers to three on larger ones."""
    generator = random.Random(f"arithmetic {given.seed}")
    seen: set[str] = set()
    while len(seen) < given.rows:
        text, answer = _term(generator)
        if text not in seen:
            seen.add(text)
            yield Record(
                "arithmetic", str(len(seen)), {"prompt": generator.choice(_ASKED).format(text), "answer": answer}
            )


def _term(generator: random.Random) -> tuple[str, int]:
    a, b = (generator.randrange(10 ** generator.randint(1, 3)) for _ in range(2))
    c, d = generator.randrange(13), generator.randrange(100)
    kind = generator.randrange(4)
    if kind == 0:
        return f"{a} + {b}", a + b
    if kind == 1:
        return f"{max(a, b)} − {min(a, b)}", abs(a - b)
    if kind == 2:
        return f"{d} × {c}", d * c
    return f"{c} × {d} + {a} − {min(a, b)}", c * d + a - min(a, b)


EXTRACT: Final[dict[str, Callable[[Given], Items]]] = {
    "files": files, "class_lines": class_lines, "mail": mail, "brown": brown, "entities": entities, "digits": digits,
    "aligned_html": aligned_html, "faq": faq, "cedict": cedict, "poems": poems, "instructions": instructions,
    "judged": judged, "arithmetic": arithmetic,
    "debian_sections": lambda given: _debian.sections(given.records),
    "debian_summaries": lambda given: _debian.summaries(given.records),
    "debian_questions": lambda given: _debian.questions(given.records),
    "debian_preferences": lambda given: _debian.preferences(given.records),
    "json_format": lambda given: _debian.json_tasks(given.records, given.rows, given.seed),
}  # fmt: skip
