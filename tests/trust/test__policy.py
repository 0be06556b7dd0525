"""The policy file: shipped ones parse, wrong ones name the mistake."""

from pathlib import Path

import pytest

from mojiang.core.errors import BadUsage, NotFound
from mojiang.trust._policy import POLICIES, Policy, load_policy, parse_policy


@pytest.mark.parametrize("path", sorted(POLICIES.glob("*.yaml")), ids=lambda path: path.stem)
def test_shipped_policies_parse_and_are_named_after_their_file(path: Path) -> None:
    policy = load_policy(path.stem)
    assert policy.name == path.stem
    assert policy.rules
    assert load_policy(str(path)) == policy


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": "p", "requires": ["x"]}, ["requires", "require"]),
        ({"name": "p", "rules": [{"metric": "a", "of": "b", "les_than": 1}]}, ["rules[0]", "les_than", "less_than"]),
        ({"name": "p", "rules": [{"metric": "a", "of": "b"}]}, ["exactly one of"]),
        ({"name": "p", "rules": [{"metric": "a", "of": "b", "at_most": 1, "less_than": 2}]}, ["exactly one of"]),
        ({"name": "p", "rules": {"metric": "a"}}, ["not a list"]),
        ({"name": "p", "inherit_from_parent": [{"trough": "x"}]}, ["trough", "through"]),
        ({"name": "p", "max_age_days": -1}, ["max_age_days"]),
        ({}, ["name"]),
    ],
)
def test_a_wrong_policy_is_bad_usage_that_names_the_mistake(values: dict[str, object], words: list[str]) -> None:
    with pytest.raises(BadUsage) as caught:
        parse_policy(values, "policy mine.yaml")
    said = caught.value.message + caught.value.hint
    assert "mine.yaml" in said
    assert all(word in said for word in words), said


def test_a_policy_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="defualt") as caught:
        load_policy("defualt")
    assert "'default'" in caught.value.hint
    (tmp_path / "p.yaml").write_text("- a list\n")
    with pytest.raises(BadUsage, match="not a mapping"):
        load_policy(str(tmp_path / "p.yaml"))


def test_evidence_is_what_rules_and_requirements_name() -> None:
    rules = [{"metric": "m", "of": "b.c", "at_least": 0}, {"metric": "n", "of": "a.b", "at_most": "m"}]
    policy = parse_policy({"name": "p", "require": ["a.b"], "rules": rules}, "p")
    assert isinstance(policy, Policy)
    assert policy.evidence == ("a.b", "b.c")
    assert policy.rules[1].limit == ("at_most", "m")
