"""The data card: what a dataset is, where it comes from, and what in it someone should look at."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mojiang.core.files import atomic_write
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe

if TYPE_CHECKING:
    from mojiang.core.run import Run
    from mojiang.trust._data_facts import DataFacts


class DataCard(Recipe):
    """Audit a dataset of documents or examples; write the card as Markdown and as one self-contained HTML page.

    Counted over everything: documents, bytes, characters, languages, formats, sources, licences, lengths, labels, exact
    copies, hidden characters and phrases that speak to models. Found out on a uniformly random sample, with intervals:
    personal data, what the rules of data.filter would drop, the language that texts are in, quality, topics. From the
    store: every step with what it kept and dropped, the sources, their licences and checksums. Of labelled examples
    also hints at poisoning: an estimate of wrong labels, and rare words that decide a label against the rest of their
    text. Personal data is redacted in everything the card shows.

    When not to use: as proof that data is clean, lawful or fair; it says what was looked for and what was found.
    Source: Gebru et al. 2021 (Datasheets for Datasets); Pushkarna et al. 2022 (Data Cards); Northcutt et al. 2021
    (confident learning); Wilson 1927 (intervals of shares).
    Example:
        >>> DataCard(data="corpus", sample=5_000).topics
        10
    """

    recipe: ClassVar[str] = "trust.data_card"
    version: ClassVar[int] = 1
    makes: ClassVar[Literal["report"]] = "report"

    data: DatasetRef
    """Documents or examples."""
    sample: int = Field(20_000, ge=1)
    """Documents to look at closely, chosen by hashes of their ids; fewer when they are long (64 MiB of text)."""
    topics: int = Field(10, ge=0, le=24)
    """Topics to look for; 0 for none. Needs scipy (extra `nlp`)."""
    near: float | None = Field(None, ge=0.3, le=1)
    """Also look for near copies, of at least this similarity (shared shingles of all shingles); documents only."""
    poisoning: bool = True
    """Look for wrong labels and for triggers in labelled examples; it takes a classifier in five folds."""
    quality: ModelRef | None = None
    """A classifier of data.quality whose scores the card shows."""
    segmenter: ModelRef | None = None
    """A segmenter of text.segment for the words of Chinese topics; without one, pairs of characters."""
    shown: int = Field(5, ge=0, le=50)
    """Documents whose beginning is shown, not selected."""
    intended_use: str = ""
    """What the data is for, in your words."""
    contact: str = ""
    """Whom to ask or tell."""

    def run(self, run: Run) -> Metrics:
        """Go through the data; write card.md, card.html, the pictures and report.json."""
        from mojiang.trust._data_facts import scalars_of
        from mojiang.trust._data_report import report_of
        from mojiang.trust._data_sections import front_matter, write
        from mojiang.trust._document import Picture, to_markdown
        from mojiang.trust._html import to_html

        facts = self._gather(run)
        document = write(facts, intended_use=self.intended_use, contact=self.contact, shown=self.shown)
        for picture in (block for section in document.sections for block in section.blocks):
            if isinstance(picture, Picture):
                atomic_write(run.out / f"{picture.name}.png", picture.light)
        atomic_write(run.out / "card.md", front_matter(facts) + to_markdown(document))
        atomic_write(run.out / "card.html", to_html(document))
        report_of(facts, document).save(run.out)
        return {name: int(value) if value == int(value) else value for name, value in scalars_of(facts).items()}

    def _gather(self, run: Run) -> DataFacts:
        from mojiang.trust._ancestry import ancestry
        from mojiang.trust._data_facts import DataFacts, near_of
        from mojiang.trust._poison import label_hints, odd_words_in_place
        from mojiang.trust._survey import form_of, survey
        from mojiang.trust._topics import TOPIC_DOCUMENTS, find_topics

        if self.topics:
            from mojiang.text._matrix import csr_matrix

            csr_matrix((1, 1))  # before an hour of work: is scipy there?
        dataset, given = run.input("data"), dict[str, Path]()
        if form_of(dataset) != "documents" and (self.near is not None or self.quality is not None):
            run.warn("near and quality are for documents: they change nothing here")
        for field in ("quality", "segmenter"):
            if found := run.inputs(field):
                given[field] = found[0].path
        counted = survey(run, dataset, self.sample, TOPIC_DOCUMENTS if self.topics else 0, given)
        facts = DataFacts(dataset, counted, ancestry(run.store, dataset))
        with_terms = counted.sample[:TOPIC_DOCUMENTS]
        if self.topics and (found_topics := find_topics(with_terms, self.topics)) is not None:
            facts.topics, facts.topic_documents = found_topics, with_terms
        run.check_stop()
        facts.odd = odd_words_in_place(counted.sample)
        if counted.form == "labelled" and self.poisoning:
            facts.labels, facts.why_no_labels = label_hints(counted.sample)
        if self.near is not None and counted.form == "documents":
            facts.near = near_of(run, dataset.path, counted.copies, self.near)
        return facts
