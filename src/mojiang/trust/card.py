"""The model card: what a model is and what is known about it, written from the store."""

from __future__ import annotations

from typing import ClassVar, Literal

from mojiang.core.files import atomic_write
from mojiang.core.recipe import Metrics, ModelRef, Recipe, ReportRef
from mojiang.core.report import Report
from mojiang.core.run import Run


class Card(Recipe):
    """Write a model card as Markdown and as one self-contained HTML page.

    Architecture, training data with sources and licences, training curves, evaluation with baselines and intervals,
    compression parity, samples, limitations, lineage and software versions all come from the store. What is not known
    is said to be not known.

    When not to use: as a substitute for evaluating a model; a card reports only what was measured.
    Source: Mitchell et al. 2019 (Model Cards for Model Reporting); Hugging Face model card metadata
    Example:
        >>> Card(model="chat", reports=("heldout",)).language
        'en'
    """

    recipe: ClassVar[str] = "trust.card"
    version: ClassVar[int] = 1
    makes: ClassVar[Literal["report"]] = "report"

    model: ModelRef
    """The model the card is about."""
    reports: tuple[ReportRef, ...] = ()
    """Reports to include; none given: the newest of each recipe on this model and the models it came from."""
    intended_use: str = ""
    """What the model is for, in your words; left empty, it follows from how it was trained."""
    contact: str = ""
    """Whom to ask or tell."""
    language: Literal["en"] = "en"
    """Language of the card's own words."""

    def run(self, run: Run) -> Metrics:
        """Gather the facts; write card.md, card.html, the pictures and report.json."""
        from mojiang.trust._document import Picture, to_markdown
        from mojiang.trust._facts import gather
        from mojiang.trust._html import to_html
        from mojiang.trust._sections import front_matter, write

        facts = gather(run.store, run.input("model"), run.inputs("reports"))
        document = write(facts, intended_use=self.intended_use, contact=self.contact)
        pictures = [b for section in document.sections for b in section.blocks if isinstance(b, Picture)]
        for picture in pictures:
            atomic_write(run.out / f"{picture.name}.png", picture.light)
        atomic_write(run.out / "card.md", front_matter(facts) + to_markdown(document))
        atomic_write(run.out / "card.html", to_html(document))
        Report(
            title=document.title,
            scalars={"reports": float(len(facts.evidence))},
            verdict=document.summary,
        ).save(run.out)
        return {"reports": len(facts.evidence), "sections": len(document.sections)}
