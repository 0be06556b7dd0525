"""card, gate and promote, as commands."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

import mojiang

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def model(quickstarted: dict[str, Any], tmp_path: Path, cli: Any) -> str:
    """A copy of the quickstart's workspace, so that each test may change it."""
    shutil.copytree(quickstarted["workspace"], tmp_path / "workspace")
    return "quickstart-int8@1"


def last(done: Any) -> dict[str, Any]:
    return dict(json.loads(done.stdout.splitlines()[-1]))


def policy(folder: Path, *rules: str) -> str:
    path = folder / "policy.yaml"
    path.write_text("name: mine\nrequire: [evaluate.heldout]\nrules:\n" + "".join(f"  - {rule}\n" for rule in rules))
    return str(path)


def test_promote_moves_the_alias_only_when_the_gate_passes(model: str, tmp_path: Path, cli: Any) -> None:
    strict = policy(tmp_path, "{metric: bits_per_byte, of: evaluate.heldout, less_than: 0.01}")
    refused = cli("promote", model, "release", "--policy", strict, "--json", check=False)
    assert refused.returncode == 3
    assert last(refused)["passed"] is False
    assert "refused" in refused.stderr
    store = mojiang.open(tmp_path / "workspace")
    assert store.find("quickstart-int8@release") is None
    lenient = policy(tmp_path, "{metric: bits_per_byte, of: evaluate.heldout, less_than: 100}")
    assert last(cli("promote", model, "release", "--policy", lenient, "--json"))["alias"] == "quickstart-int8@release"
    assert store.get("quickstart-int8@release").ref == model


def test_a_model_without_evidence_is_refused(model: str, tmp_path: Path, cli: Any) -> None:
    refused = cli("gate", "quickstart-base", "--json", check=False)
    assert refused.returncode == 3
    found = [check["found"] for check in last(refused)["checks"] if not check["passed"]]
    assert "there is none" in found


def test_a_misspelt_policy_is_bad_usage(model: str, tmp_path: Path, cli: Any) -> None:
    bad = policy(tmp_path, "{metric: bits_per_byte, of: evaluate.heldout, less_then: 100}")
    done = cli("gate", model, "--policy", bad, check=False)
    assert done.returncode == 2
    assert "less_than" in done.stderr


def test_the_card_follows_the_evidence(model: str, tmp_path: Path, cli: Any) -> None:
    first = last(cli("card", model, "--out", str(tmp_path / "card"), "--json"))
    assert (tmp_path / "card" / "card.html").is_file()
    assert last(cli("card", model, "--json"))["fingerprint"] == first["fingerprint"]
    cli("evaluate", "heldout", "--model", model, "--data", "quickstart-split", "--samples", "1")
    assert last(cli("card", model, "--json"))["fingerprint"] != first["fingerprint"]
