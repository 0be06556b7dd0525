"""The words of a data card: one function for each section, from facts to blocks. Every table has its own caption."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from typing import Final

import numpy as np

from mojiang.core.report import Cell
from mojiang.trust._data_facts import UNKNOWN, DataFacts, Estimate, findings_of
from mojiang.trust._document import Block, Bullets, Code, Document, Figure, Grid, Paragraph, Picture, Section
from mojiang.trust._examine import MEASURES, redacted
from mojiang.trust._out_of_fold import FOLDS
from mojiang.trust._poison import LabelHints
from mojiang.trust._sections import FINGERPRINT_CHARS, LANGUAGE_NAMES, size_in_words
from mojiang.trust._survey import Size, quantile
from mojiang.trust._triggers import LEVEL, MAX_SHARE

_ROWS: Final = 24  # of a table; the tail is summed up in one more
_LAYERS: Final = 6  # languages in the picture of lengths
_SUSPECTS: Final = 12
_LETTERS: Final = 240  # of a text in a table
_SAMPLE_LETTERS: Final = 600
_QUANTILES: Final = (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
# 0 is no number of documents on the Hub's scale, and 10 billion is its last step.
_HUB_SIZES: Final = (1_000, 10_000, 100_000, 1_000_000, 10_000_000, 100_000_000, 1_000_000_000)
_HUB_NAMES: Final = ("n<1K", "1K<n<10K", "10K<n<100K", "100K<n<1M", "1M<n<10M", "10M<n<100M", "100M<n<1B", "n>1B")


def write(facts: DataFacts, *, intended_use: str, contact: str, shown: int) -> Document:
    """The whole card."""
    sections = [
        _use(intended_use, contact), _attention(facts), _content(facts), _lengths(facts), _labels(facts),
        _topics(facts), _copies(facts), _quality(facts), _languages(facts), _personal(facts), _poisoning(facts),
        _samples(facts, shown), _history(facts), _sources(facts), _method(facts),
    ]  # fmt: skip
    written = [section for section in sections if section.blocks]
    return Document(facts.dataset.ref, _summary(facts), _figures(facts), written, kind="Data card")


def front_matter(facts: DataFacts) -> str:
    """The YAML block that Hugging Face reads at the top of a dataset card."""
    languages = sorted(name for name in facts.survey.by["language"] if len(name) == 2)
    count = facts.survey.total.documents
    size = _HUB_NAMES[int(np.searchsorted(_HUB_SIZES, count, side="right"))]
    lines = ["---", "tags: [mojiang]", f"size_categories: [{json.dumps(size)}]"]
    lines += [f"language: {json.dumps(languages)}"] if languages else []
    licences = sorted(facts.survey.by["licence"])
    lines += [f"data_licences: {json.dumps(licences, ensure_ascii=False)}"] if licences else []
    return "\n".join([*lines, "---", "", ""])


def _percent(share: float) -> float:
    return round(100 * share, 4)


def _summary(facts: DataFacts) -> str:
    total, by = facts.survey.total, facts.survey.by
    what = facts.unit if facts.survey.form == "documents" else f"examples ({facts.survey.form})"
    text = f"{total.documents:,} {what}, {size_in_words(total.bytes)}"
    names = _named(by["language"], total.bytes)
    text += f" of {names}" if names else ""
    known = [name for name in by["licence"] if name != UNKNOWN]
    licences = f"{len(known)} licence{'s' * (len(known) != 1)}" if known else "no known licence"
    return f"{text}, from {len(by['source'])} source{'s' * (len(by['source']) != 1)} under {licences}."


def _named(sizes: dict[str, Size], total: int) -> str:
    ranked = sorted(sizes.items(), key=lambda item: -item[1].bytes)
    # A language of less than one percent would promise more than there is.
    names = [LANGUAGE_NAMES.get(name, name) for name, size in ranked if size.bytes >= 0.01 * total]
    names = [*names[:4], f"{len(names) - 4} more"] if len(names) > 5 else names
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _figures(facts: DataFacts) -> list[Figure]:
    total = facts.survey.total
    figures = [
        Figure(facts.unit.capitalize(), f"{total.documents:,}", f"{total.characters:,} characters"),
        Figure("Text", size_in_words(total.bytes), _languages_counted(facts)),
        Figure("Exact copies", f"{len(facts.survey.copies) / max(1, total.documents):.1%}", "of all " + facts.unit),
        Figure("Licence known", f"{1 - facts.unknown_licence():.0%}", "of the text"),
    ]
    if facts.survey.form != "images":
        figures.append(_estimated("With personal data", facts.any_pii()))
    if (dropped := facts.dropped()) is not None:
        figures.append(_estimated("Filters would drop", dropped))
    if facts.labels is not None:
        accuracy = f"classifier agrees with {facts.labels.accuracy:.0%}"
        figures.append(Figure("Labels in doubt", f"{facts.labels.noise.share:.1%}", accuracy))
        figures.append(Figure("Possible triggers", str(len(facts.labels.search.triggers)), "a hint, not a proof"))
    return figures


def _languages_counted(facts: DataFacts) -> str:
    count = len(facts.survey.by["language"])
    return f"{count} language{'s' * (count != 1)}"


def _estimated(label: str, estimate: Estimate) -> Figure:
    remark = "" if estimate.low == estimate.high else f"95 %: {estimate.low:.1%} to {estimate.high:.1%}"
    return Figure(label, f"{estimate.share:.1%}", remark)


def _use(intended_use: str, contact: str) -> Section:
    given = (("Intended use.", intended_use), ("Contact.", contact))
    return Section("Use", [Paragraph(text, lead=lead) for lead, text in given if text])


def _attention(facts: DataFacts) -> Section:
    found = [finding.text for finding in findings_of(facts)]
    if not any(finding.level == "warning" for finding in findings_of(facts)):
        found.insert(0, "Nothing that was looked for stands out.")
    return Section("What to look at first", [Bullets(found)])


# -- what is in it ------------------------------------------------------------------------------------------------


def _content(facts: DataFacts) -> Section:
    from mojiang.trust._plots import bars

    by, total = facts.survey.by, facts.survey.total
    blocks: list[Block] = []
    if total.bytes:
        light, dark = bars({name: size.bytes / 1e6 for name, size in by["language"].items()}, "MB")
        blocks.append(Picture("languages", "Text by language, as written down when it was loaded.", light, dark))
    for name in ("language", "format", "split"):
        if by[name] and (name != "format" or facts.survey.form == "documents"):
            blocks.append(Grid([name, *_SIZE_COLUMNS], _sized(by[name].items(), total), f"By {name}"))
    return Section("What is in it", blocks)


_SIZE_COLUMNS: Final = ("documents", "bytes", "characters", "share of the bytes, %")


def _sized(groups: Iterable[tuple[str, Size]], total: Size) -> list[list[Cell]]:
    ranked = sorted(groups, key=lambda item: (-item[1].bytes, item[0]))
    shown, rest = ranked[:_ROWS], Size()
    for _, size in ranked[_ROWS:]:
        rest.add(size)
    if rest.documents:
        shown.append((f"{len(ranked) - _ROWS} more", rest))
    return [
        [name, size.documents, size.bytes, size.characters, _percent(size.bytes / max(1, total.bytes))]
        for name, size in shown
    ]


def _lengths(facts: DataFacts) -> Section:
    from mojiang.trust._plots import lengths

    every = facts.survey.every_length()
    if facts.survey.form == "images" or not every:
        return Section("Lengths")
    ranked = sorted(facts.survey.lengths.items(), key=lambda item: (-item[1].total(), item[0]))
    layers = dict(ranked[:_LAYERS])
    if rest := ranked[_LAYERS:]:
        layers["others"] = sum((counts for _, counts in rest[1:]), rest[0][1])
    marks = {"5 %": quantile(every, 0.05), "median": quantile(every, 0.5), "95 %": quantile(every, 0.95)}
    light, dark = lengths(layers, marks, "characters")
    caption = f"How long the {facts.unit} are, in characters, on a logarithmic scale."
    groups = [("all", every), *(ranked[:_ROWS] if len(ranked) > 1 else [])]
    rows: list[list[Cell]] = [
        [name, min(counts), *(quantile(counts, share) for share in _QUANTILES), max(counts)] for name, counts in groups
    ]
    columns = ["language", "shortest", *(f"{share:.0%}" for share in _QUANTILES), "longest"]
    grid = Grid(columns, rows, "Lengths in characters (to three digits), by the share that is at most so long")
    return Section("Lengths", [Picture("lengths", caption, light, dark), grid])


def _labels(facts: DataFacts) -> Section:
    labels = facts.survey.labels
    if not labels:
        return Section("Labels")
    from mojiang.trust._plots import bars

    counts = {label: float(splits.total()) for label, splits in labels.items()}
    light, dark = bars(counts, "times", max_bars=16)
    ranked = sorted(labels.items(), key=lambda item: (-item[1].total(), item[0]))
    splits = [name for name in ("train", "validation", "test", "") if any(found[name] for found in labels.values())]
    total = sum(counts.values())
    rows: list[list[Cell]] = [
        [label, *(found[name] for name in splits), found.total(), _percent(found.total() / total)]
        for label, found in ranked[:_ROWS]
    ]
    columns = ["label", *(name or "all" for name in splits), "together", "share, %"]
    caption = "Labels by how often they are given" + (f" (the {_ROWS} commonest)" if len(ranked) > _ROWS else "")
    return Section(
        "Labels", [Picture("labels", "How often each label is given.", light, dark), Grid(columns, rows, caption)]
    )


def _topics(facts: DataFacts) -> Section:
    if facts.topics is None:
        return Section("Topics")
    from mojiang.trust._plots import scatter

    topics, documents = facts.topics, facts.topic_documents
    shown = len(topics.plane_M2)
    names = [", ".join(topic.terms[:3]) for topic in topics.topics]
    light, dark = scatter(topics.plane_M2, topics.topic_N[:shown].tolist(), names)
    caption = f"{shown:,} {facts.unit} of the sample by what they are about (t-SNE): neighbours share their terms."
    rows: list[list[Cell]] = []
    for number, topic in enumerate(topics.topics):
        members = [one for one, t in zip(documents, topics.topic_N, strict=True) if t == number]
        spoken = {name: sum(one.language == name for one in members) for name in {one.language for one in members}}
        languages = ", ".join(sorted(spoken, key=lambda name: (-spoken[name], name))[:3])
        share = _percent(topic.documents / len(documents))
        rows.append([f"{number + 1}", ", ".join(topic.terms), topic.documents, share, languages, members[0].path[-60:]])
    columns = ["topic", "most characteristic terms", "documents", "share, %", "languages", "for example"]
    note = (
        f"Found in {len(documents):,} {facts.unit} of the sample by TF-IDF, singular value decomposition and k-means; "
        "a topic is named by the terms that set it apart from all others. Their number is a setting, not a finding."
    )
    return Section("Topics", [Picture("topics", caption, light, dark), Grid(columns, rows, "Topics"), Paragraph(note)])


# -- how good it is -----------------------------------------------------------------------------------------------


def _copies(facts: DataFacts) -> Section:
    if facts.survey.form == "images":
        return Section("Copies")
    survey, total = facts.survey, facts.survey.total
    share = _percent(len(survey.copies) / max(1, total.documents))
    rows: list[list[Cell]] = [["exact copies", len(survey.copies), share, survey.copy_bytes]]
    if facts.near is not None:
        near = facts.near
        rows.append(
            [f"near copies ({near.similarity:g})", near.documents, _percent(near.documents / total.documents), None]
        )
    text = (
        "All but the first of those that a reader could not tell apart (spaces at line ends and Unicode forms aside)."
    )
    if facts.near is None and survey.form == "documents":
        text += " Near copies were not looked for (the setting near)."
    return Section(
        "Copies",
        [Grid(["kind", facts.unit, "share, %", "bytes"], rows, "Copies in the whole dataset"), Paragraph(text)],
    )


def _quality(facts: DataFacts) -> Section:
    blocks: list[Block] = []
    verdicts, dropped = facts.verdicts(), facts.dropped()
    reasons = {name: estimate for name, estimate in verdicts.items() if name}
    if dropped is not None:
        text = (
            f"Of {dropped.of:,} prose documents the usual rules (Gopher, FineWeb, with their Chinese equivalents; the "
            f"defaults of data.filter) would drop {dropped}. They are made for web pages: verse, tables and dialogue "
            "break them too. Source code is not judged."
        )
        blocks.append(Paragraph(text, lead="Filters."))
    if reasons:
        from mojiang.trust._plots import shares

        light, dark = shares({name: e[2:] for name, e in reasons.items()}, "share of the prose")
        blocks.append(Picture("filters", "What the filters would drop, and why" + _whiskers(facts), light, dark))
        rows = [[name, *_estimate_cells(facts, estimate)] for name, estimate in list(reasons.items())[:_ROWS]]
        blocks.append(
            Grid(
                ["reason", *_estimate_columns(facts)],
                rows,
                "What data.filter would drop, by the first rule that is broken",
            )
        )
    if measured := [one.measures for one in facts.sample if one.measures]:
        low, middle, high = np.quantile(np.array(measured), [0.05, 0.5, 0.95], axis=0)
        table: list[list[Cell]] = [
            [name, *(float(f"{_percent(value[n]):.3g}") for value in (low, middle, high))]
            for n, name in enumerate(MEASURES)
        ]
        columns = ["measure, % of a document", "5 % are below", "median", "5 % are above"]
        blocks.append(Grid(columns, table, "Quality measures of the sample"))
    if scores := [one.score for one in facts.sample if one.score is not None]:
        cells = [float(value) for value in np.quantile(scores, [0.05, 0.25, 0.5, 0.75, 0.95]).round(4)]
        columns = ["score", "5 %", "25 %", "50 %", "75 %", "95 %"]
        blocks.append(Grid(columns, [["classifier of data.quality", *cells]], "Scores of the quality classifier"))
    return Section("Quality", blocks)


def _whiskers(facts: DataFacts) -> str:
    return "." if facts.complete else "; lines are 95 % intervals."


def _estimate_columns(facts: DataFacts) -> tuple[str, ...]:
    if facts.complete:
        return facts.unit, "share, %"
    return f"{facts.unit} of the sample", "share, %", "from, %", "to, %"


def _estimate_cells(facts: DataFacts, estimate: Estimate) -> list[Cell]:
    return [estimate.found, *(_percent(value) for value in (estimate[2:3] if facts.complete else estimate[2:]))]


def _languages(facts: DataFacts) -> Section:
    found = facts.languages()
    if not found:
        return Section("Languages, looked at again")
    other = facts.other_language()
    text = (
        f"{other.share:.2%} of {other.of:,} prose {facts.unit} of the sample seem to be in another language than is "
        "written down. Short texts, names and tables are hard to tell; nothing is changed by this."
    )
    differing = [
        [written, seen, *_estimate_cells(facts, facts.estimate(n, other.of))]
        for written, seen, n in found
        if written != seen
    ]
    blocks: list[Block] = [Paragraph(text)]
    if differing:
        columns = ["written", "found", *_estimate_columns(facts)]
        blocks.append(Grid(columns, differing[:12], "Where the language found differs from the one written"))
    return Section("Languages, looked at again", blocks)


def _personal(facts: DataFacts) -> Section:
    if facts.survey.form == "images":
        return Section("Personal data")
    found = facts.with_pii()
    text = (
        "Kinds that data.pii knows: e-mail and IP addresses, telephone numbers, cards, accounts, identity papers, "
        "plates. Names and postal addresses are not looked for."
    )
    if not found:
        none = facts.estimate(0)
        limit = "" if facts.complete else f" So there is less than {none.high:.2%} of it, with 95 % confidence."
        return Section("Personal data", [Paragraph(f"None was found in the sample.{limit}"), Paragraph(text)])
    from mojiang.trust._plots import shares

    named = {kind.replace("_", " "): estimate for kind, (estimate, _) in found.items()}
    light, dark = shares({kind: e[2:] for kind, e in named.items()}, f"share of the {facts.unit}")
    caption = f"{facts.unit.capitalize()} with personal data, by kind{_whiskers(facts)}"
    rows: list[list[Cell]] = [
        [kind.replace("_", " "), places, *_estimate_cells(facts, estimate)]
        for kind, (estimate, places) in found.items()
    ]
    grid = Grid(["kind", "places", *_estimate_columns(facts)], rows, "Personal data by kind")
    return Section("Personal data", [Picture("personal-data", caption, light, dark), grid, Paragraph(text)])


# -- poisoning ----------------------------------------------------------------------------------------------------


def _poisoning(facts: DataFacts) -> Section:
    if facts.survey.form == "images":
        return Section("Hints at poisoning")
    blocks: list[Block] = [
        Paragraph("What follows are hints. Each has innocent explanations, and none found is no proof.")
    ]
    survey = facts.survey
    if survey.hinted:
        rows: list[list[Cell]] = [
            [kind, count, path[-60:], redacted(excerpt, _LETTERS)]
            for kind, count in survey.hinted.most_common()
            for path, excerpt in survey.hints[kind][:1]
        ]
        columns = ["what", facts.unit, "for example", "how it looks"]
        blocks.append(Grid(columns, rows, f"Hidden characters, and phrases that speak to a model, in all {facts.unit}"))
    else:
        blocks.append(Paragraph("No hidden characters and no phrases that speak to a model were found.", lead="Texts."))
    if facts.odd:
        odd: list[list[Cell]] = [
            [o.word, o.documents, redacted(o.surroundings, _LETTERS), _percent(o.share)] for o in facts.odd[:_SUSPECTS]
        ]
        columns = ["word", "documents of the sample", "surroundings", "of its places, %"]
        blocks.append(Grid(columns, odd, "Rare odd words that stand in the same surroundings"))
    if facts.labels is not None:
        blocks += _noise(facts.labels) + _triggers(facts.labels)
    elif facts.why_no_labels:
        blocks.append(Paragraph(f"Not looked at: {facts.why_no_labels}.", lead="Labels."))
    return Section("Hints at poisoning", blocks)


def _noise(hints: LabelHints) -> list[Block]:
    noise, labels, cases = hints.noise, hints.cases.labels, hints.cases.cases
    text = (
        f"About {noise.share:.1%} of the labels of {len(cases):,} examples may be wrong, {len(noise.suspects):,} are "
        f"in doubt (confident learning with the probabilities of {FOLDS} out-of-fold classifiers, which agree with "
        f"{hints.accuracy:.1%} of the labels). Where the classifier is weak, doubt is its own more than the label's."
    )
    blocks: list[Block] = [Paragraph(text, lead="Label noise.")]
    pairs = [(noise.joint_LL[i, j], i, j) for i in range(len(labels)) for j in range(len(labels)) if i != j]
    rows: list[list[Cell]] = [
        [labels[i], labels[j], _percent(float(share))]
        for share, i, j in sorted(pairs, reverse=True)[:_SUSPECTS]
        if share > 0
    ]
    if rows:
        blocks.append(Grid(["given", "likely", "share of all examples, %"], rows, "Labels that may stand for another"))
    suspects: list[list[Cell]] = [
        [
            cases[n].path[-60:],
            cases[n].label,
            labels[int(likely)],
            round(float(margin), 3),
            redacted(cases[n].text, _LETTERS),
        ]
        for n, likely, margin in zip(noise.suspects[:_SUSPECTS], noise.likely, noise.margins, strict=False)
    ]
    if suspects:
        columns = ["example", "given", "likely", "margin", "text"]
        blocks.append(Grid(columns, suspects, "The most suspicious labels"))
    return blocks


def _triggers(hints: LabelHints) -> list[Block]:
    search = hints.search
    looked = (
        f"{search.terms:,} rare terms were tested (in at most {MAX_SHARE:.0%} of the examples); {search.candidates:,} "
        f"go with one label more than chance allows (exact binomial, Bonferroni at {LEVEL:g}), and of these, "
    )
    least = f"A term in fewer than {search.least} examples could not be told from chance."
    if not search.triggers:
        none = "none has examples whose remaining text says another label. "
        return [Paragraph(looked + none + least, lead="Rare triggers.")]
    found = f"{len(search.triggers)} decide their label against the rest of their text. "
    rows: list[list[Cell]] = [
        [", ".join(t.terms[:6]), t.label, t.examples, t.agree, f"{t.against} of {t.asked}", _power(t.log_chance)]
        for t in search.triggers[:_SUSPECTS]
    ]
    columns = ["term", "label", "examples", "with the label", "rest says another", "by chance"]
    return [
        Paragraph(looked + found + least, lead="Rare triggers."),
        Grid(columns, rows, "Terms that may be triggers, the likeliest first"),
    ]


def _power(log_chance: float) -> str:
    return f"1e{math.floor(log_chance / math.log(10))}" if log_chance > -math.inf else "0"


# -- what it looks like, and where it comes from --------------------------------------------------------------------


def _samples(facts: DataFacts, shown: int) -> Section:
    some = [one for one in facts.sample if one.opening.strip()][:shown]
    if not some:
        return Section("Samples")
    intro = (
        f"{len(some)} beginnings, not selected: those whose ids have the smallest hashes. Personal data is redacted."
    )
    blocks = [
        Code(
            redacted(one.opening, _SAMPLE_LETTERS), title=" · ".join(filter(None, (one.path, one.language, one.label)))
        )
        for one in some
    ]
    return Section("Samples", [Paragraph(intro), *blocks])


def _history(facts: DataFacts) -> Section:
    steps = facts.ancestry.steps
    blocks: list[Block] = []
    if steps:
        from mojiang.trust._plots import stacks

        bars = [(step.ref, {"kept": step.kept, **{name: n for name, (n, _) in step.dropped.items()}}) for step in steps]
        light, dark = stacks(bars, "kept", "documents that came in")
        blocks.append(Picture("steps", "What each step kept, and what it dropped for which reason.", light, dark))
        rows: list[list[Cell]] = [
            [
                f"{step.recipe} ({step.ref})",
                step.documents,
                step.kept,
                step.documents - step.kept,
                _reasons(step.dropped),
            ]
            for step in steps
        ]
        columns = ["step", "in", "kept", "dropped", "reasons"]
        blocks.append(Grid(columns, rows, "Row accounting: in = kept + dropped, at every step"))
    if (example := facts.ancestry.example) is not None:
        said = f"{example.step} dropped the one below: {example.reason} ({redacted(example.detail, 160)})."
        command = f"mojiang show {facts.dataset.ref} --why-dropped '{example.path}'"
        blocks += [Paragraph(f"Any document can be asked for, by its path or id. {said}", lead="Why was it dropped?")]
        blocks.append(Code(command, language="bash"))
    return Section("How it came about", blocks)


def _reasons(dropped: dict[str, tuple[int, int]]) -> str:
    ranked = sorted(dropped.items(), key=lambda item: -item[1][0])
    shown = ", ".join(f"{name} {count:,}" for name, (count, _) in ranked[:6])
    return shown + (f", {len(ranked) - 6} more" if len(ranked) > 6 else "")


def _sources(facts: DataFacts) -> Section:
    ranked = sorted(facts.survey.origins.items(), key=lambda item: (-item[1].bytes, item[0]))
    sources: list[list[Cell]] = [
        [source, licence, size.documents, size.bytes] for (source, licence), size in ranked[:_ROWS]
    ]
    if len(ranked) > _ROWS:
        rest = Size()
        for _, size in ranked[_ROWS:]:
            rest.add(size)
        sources.append([f"{len(ranked) - _ROWS} more", "", rest.documents, rest.bytes])
    blocks: list[Block] = [Grid(["source", "licence", facts.unit, "bytes"], sources, "Sources and licences")]
    begun: list[list[Cell]] = [
        [b.ref, b.recipe, b.source, ", ".join(list(b.licences)[:8]), b.files or None, b.created[:16].replace("T", " ")]
        for b in facts.ancestry.beginnings
    ]
    columns = ["dataset", "made by", "from", "licences", "files with a checksum", "when (UTC)"]
    if begun:
        blocks.append(Grid(columns, begun, "Where it begins"))
    sums: list[list[Cell]] = [
        [b.ref, name, value] for b in facts.ancestry.beginnings for name, value in b.checksums.items()
    ]
    if sums:
        blocks.append(
            Grid(
                ["dataset", "what", "SHA-256"],
                sums[:_ROWS],
                "Checksums of what was read (all are in origins-*.parquet)",
            )
        )
    lineage: list[list[Cell]] = [
        [a.ref, a.manifest.recipe, a.fingerprint[:FINGERPRINT_CHARS], a.manifest.created[:16].replace("T", " ")]
        for a in facts.ancestry.lineage
    ]
    blocks.append(Grid(["artifact", "made by", "fingerprint", "when (UTC)"], lineage, "Lineage, nearest first"))
    files: list[list[Cell]] = [
        [name, entry.bytes, entry.sha256]
        for name, entry in facts.dataset.manifest.files.items()
        if name.endswith(".parquet")
    ]
    blocks.append(Grid(["file", "bytes", "SHA-256"], files[:_ROWS], "Files of this dataset"))
    return Section("Sources, licences, checksums", blocks)


def _method(facts: DataFacts) -> Section:
    total = facts.survey.total.documents
    counted = (
        "Sizes, languages as written, formats, licences, lengths, labels, exact copies and hidden characters are "
        "counted over everything."
    )
    if facts.complete:
        looked = f"All {total:,} {facts.unit} were looked at closely, so the shares above are no estimates."
    else:
        looked = (
            f"The rest is found out on {len(facts.sample):,} of {total:,} {facts.unit}, those whose ids have the "
            "smallest hashes (uniformly random, and the same in every re-run); shares carry 95 % Wilson intervals."
        )
    limits = "A card says what was looked for and found. It does not say that data is lawful to use, true, or fair."
    return Section("How this card was made", [Bullets([counted, looked, limits])])
