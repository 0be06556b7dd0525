"""A data card as a Report: every table of the page, and the numbers behind its pictures, for others to draw."""

from __future__ import annotations

from mojiang.core.report import Cell, Report, Sample, Table
from mojiang.trust._data_facts import DataFacts, findings_of, scalars_of
from mojiang.trust._document import Code, Document, Grid


def report_of(facts: DataFacts, document: Document) -> Report:
    """The report; a table has the title that stands above it on the page."""
    blocks = [block for section in document.sections for block in section.blocks]
    tables = [Table(title=b.caption, columns=b.columns, rows=b.rows) for b in blocks if isinstance(b, Grid)]
    samples = [Sample(title=b.title, prompt="", text=b.text) for b in blocks if isinstance(b, Code) and b.title]
    return Report(
        title=document.title, scalars=scalars_of(facts), tables=[*tables, *_pictures(facts)],
        findings=findings_of(facts), samples=samples, verdict=document.summary,
    )  # fmt: skip


def _pictures(facts: DataFacts) -> list[Table]:
    """Lengths by language, and where documents lie on the plane of topics."""
    lengths: list[list[Cell]] = [
        [language, length, count]
        for language, counts in sorted(facts.survey.lengths.items())
        for length, count in sorted(counts.items())
    ]
    tables = [Table(title="length histogram", columns=["language", "characters", "documents"], rows=lengths)]
    if facts.topics is not None:
        points: list[list[Cell]] = [
            [round(float(x), 3), round(float(y), 3), int(topic) + 1, one.language, one.path]
            for (x, y), topic, one in zip(
                facts.topics.plane_M2, facts.topics.topic_N, facts.topic_documents, strict=False
            )
        ]
        tables.append(Table(title="topic map", columns=["x", "y", "topic", "language", "document"], rows=points))
    return tables
