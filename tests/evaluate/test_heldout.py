"""The held-out report: every figure recomputed by other means."""

import gzip
import math
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mojiang.core.report import Report
from mojiang.evaluate._held_out import select_documents
from mojiang.evaluate.heldout import Baselines, HeldOut

SMALL = {"sample_tokens": 12, "samples": 2, "precision": "float32"}


@pytest.fixture(scope="module")
def report(world: Any) -> Report:
    recipe = HeldOut(model=world.model.ref, data=world.data.ref, **SMALL)
    return Report.load(recipe.execute(world.store, device="cpu").path)


def test_equals_transformers_on_documents_that_fit_the_context(world: Any) -> None:
    """On documents within one window there is nothing but the plain sum of log-probabilities."""
    model = transformers.AutoModelForCausalLM.from_pretrained(world.model.path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(world.model.path)
    recipe = HeldOut(model=world.model.ref, data=world.data.ref, max_bytes=200, **SMALL)
    artifact = recipe.execute(world.store, device="cpu")
    nats = size = 0.0
    for document in select_documents(world.data.path, "test", 200).documents:
        ids = [tokenizer.eos_token_id, *tokenizer(document.text)["input_ids"], tokenizer.eos_token_id]
        assert len(ids) <= 129
        with torch.no_grad():
            log_p = model(torch.tensor([ids[:-1]])).logits[0].double().log_softmax(-1)
        nats -= sum(float(log_p[i, token]) for i, token in enumerate(ids[1:]))
        size += len(document.data)
    assert artifact.metrics["bytes"] == size
    assert artifact.metrics["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)


def test_every_method_is_scored_on_the_same_bytes(world: Any, report: Report) -> None:
    documents = select_documents(world.data.path, "test", 10**9).documents
    size = sum(len(d.data) for d in documents)
    assert report.scalars["bytes"] == size
    by_gzip = 8 * sum(len(gzip.compress(d.data, 9, mtime=0)) for d in documents) / size
    assert report.scalars["gzip_bits_per_byte"] == pytest.approx(by_gzip)
    table = report.table("The same bytes by every method")
    assert [row[2] for row in table.rows] == sorted(row[2] for row in table.rows)
    assert len(table.rows) == 5


def test_slices_add_up_to_the_whole(report: Report) -> None:
    for title in ("By language", "By format"):
        rows = report.table(title).rows
        assert sum(row[2] for row in rows) == report.scalars["bytes"]
        mean = sum(row[2] * row[3] for row in rows) / sum(row[2] for row in rows)
        assert mean == pytest.approx(report.scalars["bits_per_byte"])
        assert len(rows) == 2


def test_the_interval_surrounds_the_value_and_the_verdict_follows_it(report: Report) -> None:
    s = report.scalars
    assert s["bits_per_byte_low"] < s["bits_per_byte"] < s["bits_per_byte_high"]
    best = min(s[f"{name}_bits_per_byte"] for name in ("gzip", "xz", "zstd"))
    assert ("fewer" in report.verdict) == (s["bits_per_byte"] < best)
    assert any(f.level == "warning" and "fewer bits" in f.text for f in report.findings) == (
        s["bits_per_byte"] >= min(best, s["ngram_bits_per_byte"])
    )


def test_a_trained_model_beats_what_it_was_before_training(world: Any, report: Report) -> None:
    # 700 tokens of about two bytes each, all equally likely, cost close to five bits per byte.
    assert report.scalars["bits_per_byte"] < 0.9 * np.log2(700) / report.scalars["bytes_per_token"]


def test_samples_continue_real_openings(world: Any, report: Report) -> None:
    texts = [d.text for d in select_documents(world.data.path, "test", 10**9).documents]
    assert len(report.samples) == 2
    assert all(any(text.startswith(sample.prompt) for text in texts) for sample in report.samples)


def test_the_same_twice_and_the_ngram_can_be_left_out(world: Any, report: Report) -> None:
    recipe = HeldOut(model=world.model.ref, data=world.data.ref, **SMALL, baselines=Baselines(ngram_order=0))
    again = Report.load(recipe.execute(world.store, device="cpu").path)
    assert again.scalars["bits_per_byte"] == report.scalars["bits_per_byte"]
    assert "ngram_bits_per_byte" not in again.scalars


def test_one_document_has_no_interval(world: Any) -> None:
    recipe = HeldOut(model=world.model.ref, data=world.data.ref, max_bytes=4, **SMALL)
    artifact = recipe.execute(world.store, device="cpu")
    assert "bits_per_byte_low" not in artifact.metrics
    assert any("Only 1 documents" in f.text for f in Report.load(artifact.path).findings)
