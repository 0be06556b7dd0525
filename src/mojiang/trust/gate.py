"""The gate: is there evidence, for exactly these weights, that the policy is met?

Nothing is believed that is not in the store. A report counts when its model input is this artifact *and* the digest of
the weights it measured is that of the weights stored now; the newest report of a recipe decides. Every reason to refuse
is listed, not only the first.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, ClassVar, Literal

from mojiang.core.artifact import Artifact
from mojiang.core.config import Config, digest
from mojiang.core.errors import GateRefused
from mojiang.core.recipe import Metrics, ModelRef, Recipe, ReportRef
from mojiang.core.report import Finding, Report, Table
from mojiang.core.run import Run
from mojiang.core.store import Store
from mojiang.trust._evidence import parent_model, reports_on, training_data
from mojiang.trust._policy import Policy, Rule, load_policy

_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "less_than": operator.lt, "at_most": operator.le, "greater_than": operator.gt, "at_least": operator.ge,
}  # fmt: skip


class Check(Config):
    """One thing the policy asks, whether it holds, and what was found."""

    asks: str
    passed: bool
    found: str


class GateVerdict(Config):
    """The outcome of a gate."""

    policy: str
    model: str
    checks: tuple[Check, ...]

    @property
    def passed(self) -> bool:
        """Whether every check passed."""
        return all(check.passed for check in self.checks)

    @property
    def reasons(self) -> list[str]:
        """Why the model is refused; empty when it passed."""
        return [f"{check.asks}: {check.found}" for check in self.checks if not check.passed]

    def require(self) -> GateVerdict:
        """Return the verdict, or raise `GateRefused` with every reason."""
        if not self.passed:
            listed = "".join(f"\n  - {reason}" for reason in self.reasons)
            raise GateRefused(
                f"policy {self.policy!r} refuses {self.model}:{listed}",
                hint=f"make the missing reports for {self.model}, or improve the model; then ask again",
            )
        return self


def check_gate(store: Store, artifact: Artifact, policy: Policy) -> GateVerdict:
    """Judge a model by all the evidence the store holds on it (and on its parent, where the policy lets it inherit)."""
    parent = parent_model(store, artifact)
    reports = reports_on(store, artifact) + (reports_on(store, parent) if parent else [])
    return judge(store, artifact, reports, policy)


def judge(store: Store, artifact: Artifact, reports: Sequence[Artifact], policy: Policy) -> GateVerdict:
    """Judge a model by these reports only. Damaged reports raise `Corrupted`."""
    checks: list[Check] = []
    direct = _evidence_for(store, artifact, reports)
    inherited, heritage = _inheritance(store, artifact, reports, policy)
    found: dict[str, Artifact | None] = {}
    for recipe in policy.evidence:
        report = direct.get(recipe) or inherited.get(recipe)
        found[recipe] = report
        checks.append(_exists(store, recipe, report, artifact, reports, policy))
    if heritage is not None and any(recipe not in direct and found[recipe] is not None for recipe in policy.evidence):
        checks.append(heritage)
    checks += [_holds(rule, report) for rule in policy.rules if (report := found[rule.of]) is not None]
    if policy.licences is not None:
        checks.append(_licences(store, artifact, policy.licences))
    return GateVerdict(policy=policy.name, model=artifact.ref, checks=tuple(checks))


def _evidence_for(store: Store, model: Artifact, reports: Sequence[Artifact]) -> dict[str, Artifact]:
    """The newest report of each recipe that measured exactly these weights, on what they were not trained on."""
    from mojiang.evaluate._loading import weights_digest

    weights, newest = weights_digest(model), {}
    # A split made for the occasion may hold training text in its test part; only the one that was trained with counts.
    own = {ancestor.fingerprint for ancestor in store.lineage(model) if ancestor.kind == "dataset"}
    for report in sorted(reports, key=lambda r: r.manifest.created):
        same = model.fingerprint in report.manifest.parents.get("model", [])
        data = set(report.manifest.parents.get("data", []))
        held_out = data <= own or not own
        if same and held_out and report.metrics.get("weights") == weights:
            newest[report.recipe] = report
    return newest


def _inheritance(
    store: Store, artifact: Artifact, reports: Sequence[Artifact], policy: Policy
) -> tuple[dict[str, Artifact], Check | None]:
    """The parent's evidence and the parity it hangs on, where the policy names the recipe that derived the model."""
    terms = next((i for i in policy.inherit_from_parent if i.through == artifact.recipe), None)
    parent = parent_model(store, artifact)
    if terms is None or parent is None:
        return {}, None
    after, before = (artifact.metrics.get(name) for name in (terms.metric, f"{terms.metric}_before"))
    asks = f"{terms.metric} at most {terms.max_relative_increase:.2%} above {parent.ref}'s"
    if not isinstance(after, int | float) or not isinstance(before, int | float) or not before > 0:
        return _evidence_for(store, parent, reports), Check(
            asks=asks, passed=False, found="its parity was not measured"
        )
    increase = after / before - 1
    passed = math.isfinite(increase) and increase <= terms.max_relative_increase
    return _evidence_for(store, parent, reports), Check(asks=asks, passed=passed, found=f"{before:.4f} → {after:.4f}")


def _exists(
    store: Store, recipe: str, report: Artifact | None, model: Artifact, reports: Sequence[Artifact], policy: Policy
) -> Check:
    asks = f"a report of {recipe} on these weights"
    if report is None:
        others = [r.ref for r in reports if r.recipe == recipe]
        found = (
            f"{', '.join(others)} measured other weights, or another split of the data" if others else "there is none"
        )
        return Check(asks=asks, passed=False, found=found)
    store.verify(report)
    age = (datetime.now(UTC) - _created(report)).total_seconds() / 86400
    if policy.max_age_days is not None and age > policy.max_age_days:
        stale = f"{report.ref} is {age:.0f} days old; the policy allows {policy.max_age_days:g}"
        return Check(asks=asks, passed=False, found=stale)
    own = model.fingerprint in report.manifest.parents.get("model", [])
    return Check(asks=asks, passed=True, found=report.ref if own else f"{report.ref}, inherited from the parent")


def _created(report: Artifact) -> datetime:
    created = datetime.fromisoformat(report.manifest.created)
    return created if created.tzinfo else created.replace(tzinfo=UTC)


def _holds(rule: Rule, report: Artifact) -> Check:
    comparison, bound = rule.limit
    value = report.metrics.get(rule.metric)
    other = report.metrics.get(bound) if isinstance(bound, str) else bound
    for name, number in ((rule.metric, value), (bound, other)):
        if not isinstance(number, int | float):
            return Check(asks=str(rule), passed=False, found=f"{report.ref} has no metric {name!r}")
    # NaN compares false with everything, and so is refused.
    passed = _COMPARISONS[comparison](float(value), float(other))  # type: ignore[arg-type]
    return Check(asks=str(rule), passed=passed, found=f"{value:.6g} against {other:.6g} in {report.ref}")


def _licences(store: Store, artifact: Artifact, allowed: Sequence[str]) -> Check:
    asks = f"training documents only under {', '.join(allowed)}"
    shares = training_data(store, artifact)
    if not shares:
        return Check(asks=asks, passed=False, found="its training data is not in this store")
    wrong = {share.licence: share.source for share in shares if share.licence not in allowed}
    if wrong:
        return Check(asks=asks, passed=False, found="; ".join(f"{k} (from {v})" for k, v in sorted(wrong.items())))
    return Check(asks=asks, passed=True, found=", ".join(sorted({share.licence for share in shares})))


class Gate(Recipe):
    """Refuse a model unless the reports given show, for exactly its weights, that a policy is met.

    A refusal ends with exit code 3 and lists every reason: evidence that is missing, stale, about other weights, or
    that fails a rule. `mojiang gate REF` finds the reports in the store by itself; in a pipeline they are named here.

    When not to use: as the only safeguard; a gate is as good as its policy and the reports it asks for.
    Source: Mitchell et al. 2019 and Raji et al. 2020 (evidence before deployment); Breck et al. 2017 (ML test score)
    Example:
        >>> Gate(model="chat", reports=("heldout", "completion")).policy
        'default'
    """

    recipe: ClassVar[str] = "trust.gate"
    version: ClassVar[int] = 1
    makes: ClassVar[Literal["report"]] = "report"

    model: ModelRef
    """The model to judge."""
    reports: tuple[ReportRef, ...] = ()
    """The evidence; reports on the parent count only where the policy lets the model inherit."""
    policy: str = "default"
    """Name of a shipped policy, or path of a YAML file."""

    def identity(self) -> dict[str, Any]:
        """The policy's content; and the day, when the policy limits the age of evidence."""
        policy = load_policy(self.policy)
        aging = {"day": datetime.now(UTC).date().isoformat()} if policy.max_age_days is not None else {}
        return {"policy": digest(policy.model_dump(mode="json")), **aging}

    def run(self, run: Run) -> Metrics:
        """Judge; write the passed checks as report.json, or raise `GateRefused`."""
        policy, model = load_policy(self.policy), run.input("model")
        verdict = judge(run.store, model, run.inputs("reports"), policy).require()
        Report(
            title=f"Gate: policy {policy.name}",
            scalars={"passed": 1.0, "checks": float(len(verdict.checks))},
            tables=[
                Table(title="Checks", columns=["asked", "found"], rows=[[c.asks, c.found] for c in verdict.checks])
            ],
            findings=[Finding(level="info", text=policy.description)] if policy.description else [],
            verdict=f"{model.ref} passes policy {policy.name!r}",
        ).save(run.out)
        return {"passed": 1, "checks": len(verdict.checks), "policy": policy.name}
