"""The main job on a small real corpus, as a newcomer runs it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

import mojiang
from mojiang.core.report import Report
from mojiang.model.load import load_model

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Record = dict[str, Any]

DATA_STEPS = ("corpus", "clean", "normal", "unique", "split")


def test_the_record_says_where_everything_is(quickstarted: Record) -> None:
    record, workspace = quickstarted, Path(quickstarted["workspace"])
    assert record["kind"] == "model"
    assert record["artifact"] == "quickstart-int8@1"
    assert Path(record["path"]).is_dir()
    assert Path(record["card"]).read_text(encoding="utf-8").startswith("<!")
    assert 0 < record["metrics"]["bits_per_byte"] < 20
    assert record["endpoint"]["model"]
    store = mojiang.open(workspace)
    assert store.get("quickstart-int8@prod").fingerprint == record["fingerprint"]
    assert {run["status"] for run in store.runs()} == {"done"}
    assert not any((workspace / "tmp").iterdir())


def test_the_corpus_report_adds_up(quickstarted: Record, texts: Path) -> None:
    store = mojiang.open(quickstarted["workspace"])
    reports = [Report.load(store.get(f"quickstart-{step}").path) for step in DATA_STEPS]
    assert reports[0].scalars["documents_in"] == len(list(texts.iterdir()))
    for before, after in zip(reports, reports[1:], strict=False):
        assert after.scalars["documents_in"] == before.scalars["documents_kept"]
    for report in reports:
        assert report.scalars["documents_in"] == report.scalars["documents_kept"] + report.scalars["documents_dropped"]
    assert reports[3].scalars["documents_dropped"] == 2  # the two copies


def test_lineage_leads_to_the_source_files(quickstarted: Record, cli: Any) -> None:
    answer = cli("lineage", quickstarted["fingerprint"], "--workspace", quickstarted["workspace"], "--json").stdout
    lineage = json.loads(answer.splitlines()[-1])["lineage"]
    recipes = {artifact["recipe"].partition("@")[0] for artifact in lineage}
    assert {"compress.quantize", "train.sft", "train.pretrain", "tokenizer.bpe", "data.load"} <= recipes
    assert "textwrap.py" in answer or "files:" in answer
    assert any("licence" in line for artifact in lineage for line in artifact["sources"])


def test_transformers_loads_it_and_agrees(quickstarted: Record) -> None:
    transformers = pytest.importorskip("transformers")
    path = mojiang.open(quickstarted["workspace"]).get("quickstart-chat").path
    theirs = transformers.AutoModelForCausalLM.from_pretrained(path).eval()
    tokens = transformers.AutoTokenizer.from_pretrained(path)(
        "def f(x):\n    return 道可道", return_tensors="pt"
    ).input_ids
    ours = load_model(path)
    with torch.no_grad():
        difference = (ours.logits(ours(tokens)) - theirs(tokens).logits).abs().max()
    assert difference < 1e-4


def test_unchanged_everything_is_skipped(quickstarted: Record, quickstart: Any) -> None:
    record = quickstart()
    assert all(step["reused"] for step in record["steps"].values())
    assert record["fingerprint"] == quickstarted["fingerprint"]


def test_a_new_learning_rate_of_sft_runs_it_and_what_follows(quickstarted: Record, quickstart: Any) -> None:
    record = quickstart("chat.learning_rate=0.0011")
    done = {step for step, outcome in record["steps"].items() if not outcome["reused"]}
    assert done == {"chat", "int8", "heldout", "completion", "card", "gate"}
    assert record["artifact"] == "quickstart-int8@2"
