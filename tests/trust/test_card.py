"""The card of a model that was really trained, evaluated and quantised: it says what the store says."""

from typing import Any

import pytest
import yaml
from selectolax.lexbor import LexborHTMLParser

from mojiang.compress.quantize import Quantize
from mojiang.core.artifact import Artifact
from mojiang.evaluate.completion import Completion
from mojiang.evaluate.heldout import HeldOut
from mojiang.trust.card import Card


@pytest.fixture(scope="module")
def evidence(world: Any) -> dict[str, Artifact]:
    common = {"model": "base", "data": "corpus"}
    recipes = {
        "heldout": HeldOut(**common, samples=2, sample_tokens=8, precision="float32"),
        "completion": Completion(**common, problems=3, max_tokens=8),
        "int8": Quantize(**common, parity_bytes=2000, prompts=2, tokens=4, precision="float32"),
    }
    return {name: recipe.execute(world.store, name=name, device="cpu") for name, recipe in recipes.items()}


@pytest.fixture(scope="module")
def card(world: Any, evidence: dict[str, Artifact]) -> Artifact:
    recipe = Card(model="int8", reports=("heldout", "completion"), contact="墨匠团队", intended_use="Testing.")
    return recipe.execute(world.store, name="card")


def test_every_number_is_the_stores(world: Any, card: Artifact, evidence: dict[str, Artifact]) -> None:
    text = (card.path / "card.md").read_text()
    metrics = evidence["heldout"].metrics
    for name in ("bits_per_byte", "bits_per_byte_low", "xz_bits_per_byte"):
        assert f"{metrics[name]:.3f}" in text
    assert "118,912" in text  # parameters, scales not counted
    for artifact in (world.data, world.model, evidence["int8"]):
        assert artifact.fingerprint[:12] in text
    assert "PSF-2.0" in text
    assert "墨匠团队" in text
    assert f"{evidence['int8'].metrics['size_ratio']:.0%} of the size" in text


def test_parameters_are_counted_as_the_model_counts_them(world: Any) -> None:
    from mojiang.model.load import load_model
    from mojiang.trust._facts import gather

    facts = gather(world.store, world.model, [])
    assert facts.num_parameters == load_model(world.model.path).config.num_parameters


def test_html_and_markdown_say_the_same(card: Artifact) -> None:
    markdown = (card.path / "card.md").read_text()
    tree = LexborHTMLParser((card.path / "card.html").read_text())
    titles = [line[3:] for line in markdown.splitlines() if line.startswith("## ")]
    assert [node.text() for node in tree.css("h2")] == titles
    assert {"Training data", "Training", "Evaluation", "Compression", "Samples", "Limitations"} <= set(titles)
    assert len(tree.css("table")) == markdown.count("\n| --") - 1  # the figures at the top
    assert len(tree.css("picture")) == 2
    for name in ("data.png", "training-1.png"):
        assert (card.path / name).read_bytes().startswith(b"\x89PNG")


def test_the_front_matter_is_yaml_that_hugging_face_reads(card: Artifact) -> None:
    _, header, _ = (card.path / "card.md").read_text().split("---\n", 2)
    values = yaml.safe_load(header)
    assert values["library_name"] == "transformers"
    assert values["language"] == ["zh"]


def test_samples_are_shown_not_obeyed(card: Artifact, evidence: dict[str, Artifact]) -> None:
    from mojiang.core.report import Report

    shown = [node.text() for node in LexborHTMLParser((card.path / "card.html").read_text()).css("pre")]
    for sample in Report.load(evidence["heldout"].path).samples:
        assert any(sample.prompt.strip() in text for text in shown)


def test_what_is_not_known_is_said(world: Any, evidence: dict[str, Artifact]) -> None:
    text = (Card(model="int8", reports=("heldout",)).execute(world.store, name="c").path / "card.md").read_text()
    assert "have not been evaluated" in text
    assert "may be invented" in text


def test_without_reports_the_nearest_ones_are_found(world: Any, evidence: dict[str, Artifact]) -> None:
    artifact = Card(model="int8").execute(world.store, name="auto")
    text = (artifact.path / "card.md").read_text()
    assert artifact.metrics["reports"] >= 2
    assert "on the model it was made from" in text
