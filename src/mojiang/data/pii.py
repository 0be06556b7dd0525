"""Personal data in documents: find it, then tag it, take it out, or put consistent stand-ins in its place."""

from __future__ import annotations

import hashlib
import hmac
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Literal

import pyarrow as pa
from pydantic import Field, field_validator, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._accounting import Accounting, Changes, Drop
from mojiang.data._documents import SCHEMA, ShardWriter
from mojiang.data._mapping import Mapped, map_documents
from mojiang.data._names import LANGUAGES, NameKind, need_models
from mojiang.data._pii import KINDS, PiiKind, find_all, find_pii
from mojiang.data._pseudonyms import pseudonym, read_key

if TYPE_CHECKING:
    from mojiang.core.run import Run

Action = Literal["tag", "redact", "pseudonym", "keep"]

SPANS_SCHEMA: Final = pa.schema(
    [
        pa.field("document", pa.string(), nullable=False),  # its id
        pa.field("kind", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),  # characters of the text as it is written here
        pa.field("end", pa.int64(), nullable=False),
    ]
)
_UNREAD: Final = "documents in other languages, in which names were not looked for"
_DONE: Final = {"tag": "tagged", "redact": "redacted", "pseudonym": "given a stand-in"}


class Pii(Recipe):
    """Find e-mail and IP addresses, telephone numbers, cards, accounts, identity numbers, plates and passports.

    Kinds: email; phone (international, North American, Chinese mobile and landline, and whatever follows "Tel:"); ip
    (public IPv4 and IPv6); card (Luhn and issuer); bank_card (Chinese debit cards); iban (mod 97); resident_id (the
    Chinese identity card, mod 11-2); uscc (Chinese companies, mod 31); plate (Chinese); passport; address (Chinese, to
    the house or room). A kind without check digits needs a word beside it; what is reserved for examples (example.com,
    555-01xx, 192.0.2.1) is nobody's. Names of people and places are found by models, when asked for.

    Stand-ins are consistent: one value has one stand-in in every document made with the same key, in its own format,
    and never that of somebody else. The key is read from the environment and stored nowhere.

    When not to use: as the only measure where the law asks for anonymity: names, places and what can be inferred stay.
    Source: ISO/IEC 7812 (Luhn), ISO 13616 (IBAN), GB 11643, GB 32100, RFC 2104 (HMAC), RFC 2606, RFC 5737.
    Example:
        >>> Pii(data="clean", action="redact", actions={"ip": "tag"})
        Pii(data='clean', ...)
    """

    recipe: ClassVar[str] = "data.pii"
    version: ClassVar[int] = 2
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus."""
    kinds: tuple[PiiKind, ...] = KINDS
    """What to look for by rules."""
    names: tuple[NameKind, ...] = ()
    """person and place: also look for names of these, with models (Presidio and spaCy for English, LAC for Chinese);
    needs `pip install 'mojiang[names]'`."""
    action: Literal["tag", "redact", "pseudonym"] = "redact"
    """tag: leave the text, write down where it is. redact: put `[EMAIL]` in its place. pseudonym: put a stand-in."""
    actions: dict[PiiKind, Action] = Field(default_factory=dict)
    """Another action for some kinds, as `ip=tag,phone=pseudonym`; keep: leave it and say nothing."""
    mark: str = "[{kind}]"
    """What redact writes; {kind} is the kind in capitals."""
    key_variable: str = Field("MOJIANG_PII_KEY", pattern=r"^[A-Za-z_]\w*$")
    """Environment variable that holds the secret key of the stand-ins."""
    max_found: int | None = Field(None, ge=0)
    """Drop documents that hold more than this; a directory of people is no text."""
    code: bool = True
    """Look at source code too."""

    @field_validator("actions", mode="before")
    @classmethod
    def _from_words(cls, value: Any) -> Any:
        """`ip=tag,phone=pseudonym`, as a command line gives it."""
        if not isinstance(value, str):
            return value
        pairs = [word.partition("=") for word in value.split(",") if word]
        return {kind.strip(): action.strip() for kind, _, action in pairs}

    @field_validator("mark")
    @classmethod
    def _is_a_mark(cls, value: str) -> str:
        if value.replace("{kind}", "").count("{") or find_pii(value.replace("{kind}", "EMAIL")):
            raise ValueError("a mark is text with {kind} in it, or without")
        return value

    @model_validator(mode="after")
    def _says_something(self) -> Pii:
        if not self.kinds and not self.names:
            raise ValueError("there is no kind to look for")
        if models := [kind for kind in self.kinds if kind not in KINDS]:
            raise ValueError(f"{models[0]} is found by a model: ask for it with --names {models[0]}")
        if unused := [kind for kind in self.actions if kind not in (*self.kinds, *self.names)]:
            raise ValueError(f"there is an action for {unused[0]}, which is not looked for")
        return self

    def chosen(self) -> dict[PiiKind, Action]:
        """The action for each kind that something is done about."""
        every: dict[PiiKind, Action] = {
            kind: self.actions.get(kind, self.action) for kind in (*self.kinds, *self.names)
        }
        return {kind: action for kind, action in every.items() if action != "keep"}

    def identity(self) -> dict[str, Any]:
        """Which key made the stand-ins, as a code of the key that does not give it away; nothing without stand-ins."""
        if "pseudonym" not in self.chosen().values():
            return {}
        return {"key": hmac.new(read_key(self.key_variable), b"mojiang data.pii", hashlib.sha256).hexdigest()}

    def run(self, run: Run) -> Metrics:
        """Treat every document; writes documents, pii-*.parquet (where, of which kind), drops and the report."""
        chosen = self.chosen()
        key = read_key(self.key_variable) if "pseudonym" in chosen.values() else b""
        settings = Settings(chosen, self.mark, key, self.max_found, self.code)
        if self.names:
            need_models()  # before the workers start: one clear error
        with (
            Accounting(run.out, "data.pii") as books,
            ShardWriter(run.out, "pii", SPANS_SCHEMA, size_column=None) as spans,
        ):
            map_documents(run, partial(pii_batch, settings), run.input("data").path, books, spans, judges=False)
            books.refuse_nothing("raise --max-found")
            found = {kind: sum(books.changes[_name(kind, done)] for done in _DONE.values()) for kind in chosen}
            table = Table(title="found", columns=["kind", "action", "count"])
            table.rows.extend([kind, chosen[kind], found[kind]] for kind in chosen)
            if unread := books.changes[_UNREAD]:
                books.find("warning", f"{_UNREAD}: {unread:,}; there are models for {' and '.join(LANGUAGES)}")
            metrics = books.finish(tables=[table])
        return {**metrics, "found": sum(found.values()), **{f"found_{kind}": count for kind, count in found.items()}}


@dataclass(frozen=True)
class Settings:
    """What a worker needs. The key is not shown where settings are."""

    actions: Mapping[PiiKind, Action]
    mark: str = "[{kind}]"
    key: bytes = field(default=b"", repr=False)
    max_found: int | None = None
    code: bool = True

    @property
    def wants_names(self) -> bool:
        """Whether a model is needed."""
        return not set(KINDS).issuperset(self.actions)


def pii_batch(settings: Settings, batch: pa.RecordBatch) -> Mapped:
    """Treat the documents of a batch."""
    changes, kept = Changes(), []
    drops: list[Drop] = []
    spans: list[dict[str, Any]] = []
    size = 0
    for row in batch.to_pylist():
        size += row["bytes"]
        if row["format"] == "code" and not settings.code:
            kept.append(row)
            continue
        changes.document = row["path"]
        text, places, found = treat(row["text"], settings, changes, row["language"])
        changes[_UNREAD] += settings.wants_names and row["language"] not in LANGUAGES
        if settings.max_found is not None and sum(found.values()) > settings.max_found:
            detail = ", ".join(f"{count} {kind}" for kind, count in found.most_common())
            drops.append(Drop(row["id"], row["path"], "personal-data", detail, row["bytes"]))
            continue
        changes["documents with personal data"] += bool(found)
        spans += [{"document": row["id"], **place} for place in places]
        kept.append({**row, "text": text, "bytes": len(text.encode())})
    return Mapped(batch.num_rows, size, pa.RecordBatch.from_pylist(kept, schema=SCHEMA), drops, changes, spans)


def treat(
    text: str, settings: Settings, changes: Changes, language: str = ""
) -> tuple[str, list[dict[str, Any]], Counter[str]]:
    """The text after treatment, where in it something was done, and how much of each kind there was.

    >>> treat("me@home.org!", Settings({"email": "redact"}), Changes())[0]
    '[EMAIL]!'
    """
    parts: list[str] = []
    places: list[dict[str, Any]] = []
    counts: Counter[str] = Counter()
    done = length = 0
    for start, end, kind in find_all(text, language, settings.actions):
        action, value = settings.actions[kind], text[start:end]
        new = value
        if action == "redact":
            new = settings.mark.replace("{kind}", kind.upper())
        elif action == "pseudonym":
            new = pseudonym(kind, value, settings.key)
        parts += [text[done:start], new]
        length += start - done + len(new)
        done = end
        places.append({"kind": kind, "action": action, "start": length - len(new), "end": length})
        counts[kind] += 1
        changes.note(_name(kind, _DONE[action]), shape_of(value), shape_of(value) if action == "tag" else new)
    return "".join([*parts, text[done:]]), places, counts


def _name(kind: str, done: str) -> str:
    return f"{kind} {done}"


def shape_of(value: str) -> str:
    """What a report may show of personal data: digits as 9, letters as a, the rest as it is.

    >>> shape_of("me@home.org"), shape_of("+86 138-1234-5678")
    ('aa@aaaa.aaa', '+99 999-9999-9999')
    """
    return "".join("9" if c.isdigit() else "a" if c.isalpha() else c for c in value)
