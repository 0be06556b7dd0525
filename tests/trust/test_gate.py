"""The gate on stores in which exactly one thing is wrong at a time."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Literal

import pytest

import mojiang
from mojiang.core.artifact import Artifact
from mojiang.core.errors import Corrupted, GateRefused
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.report import Report
from mojiang.core.run import Run
from mojiang.core.store import Store
from mojiang.data._documents import ShardWriter
from mojiang.evaluate._loading import weights_digest
from mojiang.trust import gate as gate_module
from mojiang.trust._policy import Policy, parse_policy
from mojiang.trust.gate import Gate, GateVerdict, check_gate


class Documents(Recipe):
    recipe: ClassVar[str] = "data.load"
    makes: ClassVar[Literal["dataset"]] = "dataset"
    licence: str = "PSF-2.0"

    def run(self, run: Run) -> Metrics:
        row = {"id": "0" * 32, "path": "a.py", "source": "here", "licence": self.licence, "language": "python"}
        with ShardWriter(run.out / "train") as writer:
            writer.add({**row, "format": "code", "bytes": 1, "text": "x"})
        return {}


class Train(Recipe):
    recipe: ClassVar[str] = "train.pretrain"
    makes: ClassVar[Literal["model"]] = "model"
    data: DatasetRef
    weights: str = "weights"

    def run(self, run: Run) -> Metrics:
        (run.out / "model.safetensors").write_text(self.weights)
        return {}


class Compress(Recipe):
    recipe: ClassVar[str] = "compress.quantize"
    makes: ClassVar[Literal["model"]] = "model"
    model: ModelRef
    after: float | None = 2.0

    def run(self, run: Run) -> Metrics:
        (run.out / "model.safetensors").write_text("int8")
        return {} if self.after is None else {"bits_per_byte": self.after, "bits_per_byte_before": 2.0}


class Measure(Recipe):
    recipe: ClassVar[str] = "evaluate.heldout"
    makes: ClassVar[Literal["report"]] = "report"
    model: ModelRef
    bits_per_byte: float = 2.0
    xz_bits_per_byte: float = 2.5
    weights: str = ""
    note: str = ""

    def run(self, run: Run) -> Metrics:
        Report(title="t").save(run.out)
        weights = self.weights or weights_digest(run.input("model"))
        return {"bits_per_byte": self.bits_per_byte, "xz_bits_per_byte": self.xz_bits_per_byte, "weights": weights}


@dataclass(frozen=True)
class Case:
    store: Store
    model: Artifact

    def verdict(self, model: Artifact | None = None, **changes: Any) -> GateVerdict:
        return check_gate(self.store, model or self.model, _policy(**changes))


def _policy(**changes: Any) -> Policy:
    rules = [{"metric": "bits_per_byte", "of": "evaluate.heldout", "less_than": "xz_bits_per_byte"}]
    return parse_policy({"name": "test", "require": ["evaluate.heldout"], "rules": rules, **changes}, "test")


@pytest.fixture
def case(tmp_path: Path) -> Case:
    store = mojiang.open(tmp_path / "w")
    Documents().execute(store, name="corpus")
    return Case(store, Train(data="corpus").execute(store, name="base"))


def test_passes_with_evidence_on_these_weights(case: Case) -> None:
    Measure(model="base").execute(case.store)
    verdict = case.verdict()
    assert verdict.passed
    assert verdict.reasons == []
    assert verdict.require() is verdict


def test_missing_evidence_is_refused(case: Case) -> None:
    (reason,) = case.verdict().reasons
    assert "evaluate.heldout" in reason
    assert "there is none" in reason


def test_a_failing_rule_is_refused_with_both_numbers(case: Case) -> None:
    Measure(model="base", bits_per_byte=2.75).execute(case.store)
    (reason,) = case.verdict().reasons
    assert "2.75 against 2.5" in reason


def test_limits_are_exact(case: Case) -> None:
    Measure(model="base", bits_per_byte=2.5).execute(case.store)
    for limit, passes in (("less_than", False), ("at_most", True), ("greater_than", False), ("at_least", True)):
        for bound in (2.5, "xz_bits_per_byte"):
            rules = [{"metric": "bits_per_byte", "of": "evaluate.heldout", limit: bound}]
            assert case.verdict(rules=rules).passed is passes


def test_a_metric_that_is_not_there_is_refused(case: Case) -> None:
    Measure(model="base").execute(case.store)
    for rule in ({"metric": "accuracy", "at_least": 0.5}, {"metric": "bits_per_byte", "at_most": "accuracy"}):
        (reason,) = case.verdict(rules=[{"of": "evaluate.heldout", **rule}]).reasons
        assert "no metric 'accuracy'" in reason


def test_evidence_on_other_weights_does_not_count(case: Case) -> None:
    other = Train(data="corpus", weights="others").execute(case.store, name="other")
    Measure(model="other").execute(case.store)
    assert not case.verdict().passed
    # The same recipe and inputs once made other weights: the fingerprint is equal, the digest is not.
    Measure(model="base", weights=weights_digest(other)).execute(case.store)
    (reason,) = case.verdict().reasons
    assert "measured other weights" in reason


def test_the_newest_report_decides(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    Measure(model="base", bits_per_byte=2.0).execute(case.store, name="r")
    later = Measure(model="base", bits_per_byte=3.0).execute(case.store, name="r")
    created = datetime.now(UTC) + timedelta(minutes=1)
    monkeypatch.setattr(gate_module, "_created", lambda report: created)
    object.__setattr__(later.manifest, "created", created.isoformat())
    reports = [later, *[a for a in case.store.artifacts("report") if a.ref != later.ref]]
    assert not gate_module.judge(case.store, case.model, reports, _policy()).passed


def test_stale_evidence_is_refused(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    Measure(model="base").execute(case.store)
    assert case.verdict(max_age_days=1).passed
    created = gate_module._created
    monkeypatch.setattr(gate_module, "_created", lambda report: created(report) - timedelta(days=2))
    (reason,) = case.verdict(max_age_days=1).reasons
    assert "2 days old" in reason


def test_every_reason_is_listed_and_the_exit_code_is_three(case: Case) -> None:
    Measure(model="base", bits_per_byte=3.0).execute(case.store)
    verdict = case.verdict(require=["evaluate.heldout", "evaluate.completion"], licences=["MIT"])
    with pytest.raises(GateRefused) as caught:
        verdict.require()
    assert caught.value.exit_code == 3
    assert caught.value.message.count("\n  - ") == 3
    for word in ("evaluate.completion", "3 against 2.5", "PSF-2.0 (from here)"):
        assert word in caught.value.message


def test_licences_of_the_training_documents(case: Case) -> None:
    Measure(model="base").execute(case.store)
    assert case.verdict(licences=["PSF-2.0", "MIT"]).passed
    assert not case.verdict(licences=[]).passed


class TestInheritance:
    TERMS = ({"through": "compress.quantize", "max_relative_increase": 0.005},)

    @pytest.mark.parametrize(("after", "passes"), [(2.0, True), (2.0099, True), (2.011, False), (None, False)])
    def test_only_with_parity_within_the_limit(self, case: Case, after: float | None, passes: bool) -> None:
        Measure(model="base").execute(case.store)
        small = Compress(model="base", after=after).execute(case.store, name="small")
        assert case.verdict(small, inherit_from_parent=list(self.TERMS)).passed is passes

    def test_only_where_the_policy_says_so(self, case: Case) -> None:
        Measure(model="base").execute(case.store)
        small = Compress(model="base").execute(case.store, name="small")
        assert not case.verdict(small).passed
        terms = [{"through": "compress.prune"}]
        assert not case.verdict(small, inherit_from_parent=terms).passed

    def test_direct_evidence_needs_no_parity(self, case: Case) -> None:
        small = Compress(model="base", after=3.0).execute(case.store, name="small")
        Measure(model="small").execute(case.store)
        assert case.verdict(small, inherit_from_parent=list(self.TERMS)).passed
        assert case.verdict(small).passed

    def test_worse_direct_evidence_is_not_hidden_by_the_parent(self, case: Case) -> None:
        Measure(model="base").execute(case.store)
        small = Compress(model="base").execute(case.store, name="small")
        Measure(model="small", bits_per_byte=2.6).execute(case.store)
        assert not case.verdict(small, inherit_from_parent=list(self.TERMS)).passed


def test_a_damaged_report_is_not_believed(case: Case) -> None:
    report = Measure(model="base").execute(case.store)
    (report.path / "report.json").write_text(json.dumps({"title": "better"}))
    with pytest.raises(Corrupted):
        check_gate(mojiang.open(case.store.workspace), case.model, _policy())


class TestRecipe:
    POLICY = "name: mine\nrequire: [evaluate.heldout]\n"

    def test_judges_by_the_reports_given(self, case: Case, tmp_path: Path) -> None:
        policy = tmp_path / "p.yaml"
        policy.write_text(self.POLICY)
        Measure(model="base").execute(case.store, name="held")
        with pytest.raises(GateRefused):
            Gate(model="base", policy=str(policy)).execute(case.store)
        artifact = Gate(model="base", reports=("held",), policy=str(policy)).execute(case.store)
        assert artifact.metrics["passed"] == 1
        assert Report.load(artifact.path).table("Checks").rows[0][1] == "held@1"

    def test_a_changed_policy_is_judged_anew(self, tmp_path: Path) -> None:
        policy = tmp_path / "p.yaml"
        fingerprints = set()
        for text in (self.POLICY, self.POLICY + "max_age_days: 3\n", "# a comment\n" + self.POLICY):
            policy.write_text(text)
            fingerprints.add(Gate(model="base", policy=str(policy)).fingerprint({}, 0))
        assert len(fingerprints) == 2
