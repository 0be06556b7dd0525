"""All that a data card says, as numbers: shares with their intervals, scalars, and what deserves a warning."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from mojiang.core.artifact import Artifact
from mojiang.core.report import Finding
from mojiang.data._near import Near, near_copies
from mojiang.evaluate.metrics import wilson_interval
from mojiang.trust._ancestry import Ancestry
from mojiang.trust._examine import Examined
from mojiang.trust._poison import LabelHints, OddWord
from mojiang.trust._survey import Survey, quantile
from mojiang.trust._topics import Topics

if TYPE_CHECKING:
    from mojiang.core.run import Run

UNKNOWN: Final = "unknown"
_COPIES: Final = 0.005  # shares from which a card warns
_PII: Final = 0.001
_DROPPED: Final = 0.1
_OTHER_LANGUAGE: Final = 0.02
_NOISE: Final = 0.02


class Estimate(NamedTuple):
    """A share, and the 95 % interval of it; one number where every document was looked at."""

    found: int
    of: int
    share: float
    low: float
    high: float

    def __str__(self) -> str:
        if self.low == self.high:
            return f"{self.share:.2%}"
        return f"{self.share:.2%} (95 %: {self.low:.2%} to {self.high:.2%})"


class NearCopies(NamedTuple):
    """Near copies at a similarity."""

    similarity: float
    documents: int
    clusters: int
    largest: int


@dataclass
class DataFacts:
    """Everything that is known of a dataset."""

    dataset: Artifact
    survey: Survey
    ancestry: Ancestry
    topics: Topics | None = None
    topic_documents: list[Examined] = field(default_factory=list)
    odd: list[OddWord] = field(default_factory=list)
    labels: LabelHints | None = None
    why_no_labels: str = ""
    near: NearCopies | None = None

    @property
    def sample(self) -> list[Examined]:
        """The documents that were looked at closely."""
        return self.survey.sample

    @property
    def complete(self) -> bool:
        """Whether that was every one."""
        return len(self.sample) == self.survey.total.documents

    @property
    def unit(self) -> str:
        """What there is many of."""
        return "documents" if self.survey.form == "documents" else "examples"

    def estimate(self, count: int, of: int | None = None) -> Estimate:
        """The share of the sample, or of the part of it that was judged."""
        of = len(self.sample) if of is None else of
        share = count / max(1, of)
        if self.complete or not of:
            return Estimate(count, of, share, share, share)
        interval = wilson_interval(count, of)
        return Estimate(count, of, share, interval.low, interval.high)

    def with_pii(self) -> dict[str, tuple[Estimate, int]]:
        """By kind: the share of documents that hold it, and how many places there are; the commonest first."""
        documents, places = Counter[str](), Counter[str]()
        for one in self.sample:
            documents.update(one.pii.keys())
            places.update(one.pii)
        return {kind: (self.estimate(count), places[kind]) for kind, count in documents.most_common()}

    def any_pii(self) -> Estimate:
        """The share of documents with personal data of any kind."""
        return self.estimate(sum(1 for one in self.sample if one.pii))

    def verdicts(self) -> dict[str, Estimate]:
        """By reason ("" for none): the share of prose documents that data.filter's rules would drop for it."""
        reasons = Counter(one.reason for one in self.sample if one.reason is not None)
        return {
            reason: self.estimate(count, reasons.total())
            for reason, count in reasons.most_common()
            if reason is not None
        }

    def dropped(self) -> Estimate | None:
        """The share that the rules would drop; None where nothing was judged."""
        verdicts = self.verdicts()
        if not verdicts:
            return None
        of = next(iter(verdicts.values())).of
        return self.estimate(of - (verdicts[""].found if "" in verdicts else 0), of)

    def languages(self) -> list[tuple[str, str, int]]:
        """(written, found, documents) of prose in the sample, agreements too; the commonest first."""
        pairs = Counter((one.language, one.found) for one in self.sample if one.found)
        return [(*pair, count) for pair, count in pairs.most_common()]

    def other_language(self) -> Estimate:
        """The share of prose that seems to be in another language than is written."""
        found = self.languages()
        return self.estimate(sum(n for written, seen, n in found if written != seen), sum(n for _, _, n in found))

    def unknown_licence(self) -> float:
        """The share of bytes of which nobody says the licence."""
        size = self.survey.by["licence"].get(UNKNOWN)
        return size.bytes / max(1, self.survey.total.bytes) if size else 0.0


def near_of(run: Run, path: Path, gone: npt.NDArray[np.int64], similarity: float) -> NearCopies:
    """Near copies among what is no exact copy."""
    found = near_copies(run, path, gone, Near(similarity))
    sizes = found.cluster_sizes
    return NearCopies(similarity, len(found.copies), len(sizes), int(sizes.max(initial=0)))


def scalars_of(facts: DataFacts) -> dict[str, float]:
    """The figures that others may ask for."""
    s, every = facts.survey, facts.survey.every_length()
    made: dict[str, float] = {
        "documents": s.total.documents, "bytes": s.total.bytes, "characters": s.total.characters,
        "languages": len(s.by["language"]), "sources": len(s.by["source"]), "licences": len(s.by["licence"]),
        "sample_documents": len(facts.sample), "unknown_licence_share": facts.unknown_licence(),
        "exact_copies": len(s.copies), "exact_copy_bytes": s.copy_bytes,
        "exact_copy_share": len(s.copies) / max(1, s.total.documents),
        "length_median": quantile(every, 0.5), "length_95": quantile(every, 0.95),
        "hidden_documents": sum(s.hinted.values()), "topics": len(facts.topics.topics) if facts.topics else 0,
        "odd_words": len(facts.odd), "data_steps": len(facts.ancestry.steps),
    }  # fmt: skip
    estimates = {"pii": facts.any_pii(), "other_language": facts.other_language(), "filtered": facts.dropped()}
    for name, estimate in estimates.items():
        if estimate is not None:
            made |= {f"{name}_share": estimate.share, f"{name}_low": estimate.low, f"{name}_high": estimate.high}
    if facts.near is not None:
        made |= {"near_copies": facts.near.documents, "near_copy_clusters": facts.near.clusters}
    if facts.labels is not None:
        hints = facts.labels
        made |= {
            "labels": len(hints.cases.labels), "out_of_fold_accuracy": hints.accuracy,
            "label_noise_share": hints.noise.share, "label_suspects": len(hints.noise.suspects),
            "triggers": len(hints.search.triggers),
        }  # fmt: skip
    return {name: round(float(value), 6) for name, value in made.items()}


def findings_of(facts: DataFacts) -> list[Finding]:
    """What a reader should not miss, warnings first."""
    warnings = [*_origin_warnings(facts), *_content_warnings(facts), *_poison_warnings(facts)]
    found = [Finding(level="warning", text=text) for text in warnings]
    return [*found, *(Finding(level="info", text=text) for text in _notes(facts))]


def _origin_warnings(facts: DataFacts) -> Iterable[str]:
    if share := facts.unknown_licence():
        yield f"The licence of {share:.1%} of the text is unknown."
    for licence in facts.survey.by["licence"]:
        if "-NC" in licence.upper() or "NONCOMMERCIAL" in licence.upper().replace("-", "").replace(" ", ""):
            yield f"Part of it is under {licence}, which does not allow commercial use."
    if facts.ancestry.missing:
        yield f"{facts.ancestry.missing} ancestors are not in this store, so its history is not whole."


def _content_warnings(facts: DataFacts) -> Iterable[str]:
    copies = len(facts.survey.copies) / max(1, facts.survey.total.documents)
    if copies >= _COPIES:
        yield f"{copies:.1%} of the {facts.unit} are exact copies of another; data.dedup drops them."
    if facts.near is not None and facts.near.documents:
        yield f"{facts.near.documents:,} more are near copies (similarity {facts.near.similarity:g} and above)."
    pii = facts.any_pii()
    if pii.low >= _PII:
        kinds = ", ".join(kind.replace("_", " ") for kind in list(facts.with_pii())[:4])
        yield f"{pii} of the {facts.unit} hold personal data: {kinds}; data.pii treats it."
    dropped = facts.dropped()
    if dropped is not None and dropped.share >= _DROPPED:
        reason = next(reason for reason in facts.verdicts() if reason)
        yield f"The usual filters would drop {dropped} of the prose, most often for {reason}."
    other = facts.other_language()
    if other.share >= _OTHER_LANGUAGE:
        yield f"{other} of the prose seems to be in another language than is written down."


def _poison_warnings(facts: DataFacts) -> Iterable[str]:
    for kind, count in facts.survey.hinted.most_common():
        yield f"Hint, in {count:,} {facts.unit if count > 1 else facts.unit.removesuffix('s')}: {kind}."
    if facts.labels is None:
        return
    hints = facts.labels
    if hints.noise.share >= _NOISE:
        yield (
            f"Hint: about {hints.noise.share:.1%} of the labels may be wrong (confident learning; its classifier "
            f"agrees with {hints.accuracy:.1%} of the labels)."
        )
    for trigger in hints.search.triggers[:5]:
        yield (
            f"Hint: {trigger.terms[0]!r} may be a trigger: {trigger.agree:,} of its {trigger.examples:,} examples are "
            f"labelled {trigger.label!r}, though the rest of their text says another label in {trigger.against} of "
            f"{trigger.asked}."
        )


def _notes(facts: DataFacts) -> Iterable[str]:
    if not facts.complete:
        share = len(facts.sample) / facts.survey.total.documents
        yield f"{len(facts.sample):,} {facts.unit} ({share:.1%}), chosen by hash of their ids, were looked at closely."
    if facts.odd:
        yield f"Odd words that always stand in the same surroundings: {len(facts.odd)} (most often templates)."
    if facts.why_no_labels:
        yield f"Labels were not looked at for poisoning: {facts.why_no_labels}."
