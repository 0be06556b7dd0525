"""Pre-training objectives: the losses of `transformers`, what can be learnt is learnt, runs are continued exactly."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from mojiang.core.errors import Interrupted
from mojiang.model._moe import load_balancing_loss
from mojiang.model.load import save_model
from mojiang.model.network import Network
from mojiang.tokenizer._pack import IGNORE, PackedRows, Sequence, write_shards
from mojiang.train._batches import padded
from mojiang.train._corruption import Fixed, source
from mojiang.train._families import new_model
from mojiang.train._loop import Training, fit
from mojiang.train._objective import Objective
from mojiang.train._plan import Shape
from mojiang.train._pretraining import (
    BalancedLM,
    MaskedLM,
    MaskedPairs,
    ReplacedToken,
    causal,
    objective,
    sample_tokens,
)
from mojiang.train._settings import Optim, Settings, Watch
from mojiang.train._supervised import set_dropout

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run
import toy_texts

PAD, CONTEXT = 0, 48


def network(name: str, family: str, spread: float = 0.1, width: int = 16) -> Any:
    """A model of two layers, with weights far from their initial values so that all of them matter."""
    words = toy_texts.tokenizer()
    model = new_model(family, name, Shape(width, 2), words.vocab_size, CONTEXT, words).init_weights(0)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * spread)
    return model.eval()


def batch_of(name: str, folder: Path, rows: int = 6) -> Any:
    noise = toy_texts.noise(name, context=CONTEXT)
    return noise.batch(noise.layout(toy_texts.shards(noise, folder)), list(range(rows)), 0, 0)


def total(judge: Objective, model: Network, batch: Any) -> tuple[float, dict[str, float]]:
    """The loss as the loop computes it, and its terms per count."""
    sums, counts = judge.losses(model, batch), judge.counts(batch)
    terms = {name: value.item() / counts[name] for name, value in sums.items()}
    return sum(judge.weights[name] * value for name, value in terms.items()), terms


def in_transformers(model: Network, name: str, folder: Path) -> Any:
    save_model(model, None, folder)
    theirs, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(report.values()), report
    return theirs.eval()


def one_by_one(batch: Any, *columns: Any) -> list[torch.Tensor]:
    """Columns (B, T) of packed rows with each text in a row of its own, padded by 0, and which positions are texts."""
    spans = [(row, first, stop) for row, first, stop in batch.spans_N3.tolist() if first < stop]
    apart = [padded([column[row, first:stop] for row, first, stop in spans], 0)[0] for column in columns]
    lengths = torch.tensor([stop - first for _, first, stop in spans])
    return [*apart, (torch.arange(apart[0].shape[1]) < lengths[:, None]).long()]


@pytest.mark.parametrize("family", ["bert", "roberta", "albert", "electra", "distilbert"])
def test_the_masked_loss_is_that_of_transformers(family: str, tmp_path: Path) -> None:
    """There every text of a packed row is a row of its own."""
    model, batch = network("masked", family), batch_of("masked", tmp_path / "tokens")
    assert batch.spans_N3[:, 1].any()  # a row holds several texts
    theirs = in_transformers(model, model.config.architecture, tmp_path / "model")
    tokens, shifted, there = one_by_one(batch, batch.tokens_BT, batch.targets_BT - IGNORE)
    labels = torch.where(there > 0, shifted + IGNORE, IGNORE)
    expected = theirs(torch.where(there > 0, tokens, PAD), attention_mask=there, labels=labels).loss.item()
    assert total(MaskedLM(), model, batch)[0] == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(("name", "family"), [("masked_nsp", "bert"), ("masked_sop", "albert")])
def test_the_loss_of_masked_pairs_is_that_of_transformers(name: str, family: str, tmp_path: Path) -> None:
    model, batch = network(name, family), batch_of(name, tmp_path / "tokens")
    set_dropout(model, 0.0)
    theirs = in_transformers(model, model.config.architecture, tmp_path / "model")
    tokens, spans = padded(batch["tokens"], PAD)
    there = (torch.arange(tokens.shape[1]) < spans[:, 2:]).long()
    pair = "next_sentence_label" if family == "bert" else "sentence_order_label"
    labels = {"labels": padded(batch["targets"], IGNORE)[0], pair: torch.from_numpy(batch["label"])}
    segments = padded(batch["segments"], 0)[0]
    expected = theirs(tokens, attention_mask=there, token_type_ids=segments, **labels).loss.item()
    assert set(batch["label"].tolist()) == {0, 1}
    assert total(MaskedPairs(PAD), model, batch)[0] == pytest.approx(expected, rel=1e-5)


def test_both_losses_of_electra_are_those_of_transformers(tmp_path: Path) -> None:
    model, batch = network("replaced_token", "electra"), batch_of("replaced_token", tmp_path / "tokens")
    generator = in_transformers(model.generator, "ElectraForMaskedLM", tmp_path / "generator")
    discriminator = in_transformers(model.discriminator, "ElectraForPreTraining", tmp_path / "model")
    read: list[np.ndarray[Any, Any]] = []
    model.discriminator.register_forward_pre_hook(lambda module, given: read.append(given[0].numpy()))
    loss, terms = total(ReplacedToken(toy_texts.tokenizer().vocab_size), model, batch)
    original = np.where(batch.targets_BT == IGNORE, batch.tokens_BT, batch.targets_BT)
    columns = (batch.tokens_BT, read[0], original, batch.targets_BT - IGNORE)
    tokens, inputs, whole, shifted, there = one_by_one(batch, *columns)
    labels = torch.where(there > 0, shifted + IGNORE, IGNORE)
    first = generator(tokens, attention_mask=there, labels=labels).loss.item()
    second = discriminator(inputs, attention_mask=there, labels=(inputs != whole).long()).loss.item()
    assert (inputs != whole).any()
    assert ((inputs != whole) <= (labels != IGNORE)).all()  # what was not masked is not replaced
    assert terms == pytest.approx({"generator": first, "replaced": second}, rel=1e-5)
    assert loss == pytest.approx(first + 50 * second, rel=1e-5)


@pytest.mark.parametrize(("name", "family"), [("span_corruption", "t5"), ("denoising", "bart")])
def test_the_loss_of_garbled_texts_is_that_of_transformers(name: str, family: str, tmp_path: Path) -> None:
    model, batch = network(name, family), batch_of(name, tmp_path / "tokens")
    theirs = in_transformers(model, model.config.architecture, tmp_path / "model")
    tokens, spans = padded(batch["tokens"], PAD)
    there = (torch.arange(tokens.shape[1]) < spans[:, 2:]).long()
    expected = theirs(input_ids=tokens, attention_mask=there, labels=padded(batch["targets"], IGNORE)[0]).loss.item()
    assert total(objective(toy_texts.noise(name)), model, batch)[0] == pytest.approx(expected, rel=1e-5)


def test_samples_follow_the_generators_distribution() -> None:
    """One number per position decides, so 20,000 positions of one hidden state show the distribution."""
    model = network("masked", "bert", spread=0.5)
    hidden_D = torch.randn(16, generator=torch.Generator().manual_seed(0))
    count, size = 20_000, 30
    draws = torch.from_numpy(np.random.default_rng(0).random(count))
    found = sample_tokens(model, hidden_D.expand(count, 16), draws, size)
    probabilities = model.logits(hidden_D)[:size].softmax(-1).detach().numpy()
    shares = np.bincount(found.numpy(), minlength=size) / count
    assert len(shares) == size
    assert np.abs(shares - probabilities).max() <= 4.5 * np.sqrt(probabilities.max() / count)
    edges = sample_tokens(model, hidden_D.expand(2, 16), torch.tensor([0.0, 1.0]), size)
    assert edges.tolist() == [0, size - 1]


def test_electra_is_trained_with_one_table_of_embeddings() -> None:
    model = network("replaced_token", "electra")
    tables = {id(part.trunk.embeddings.word_embeddings.weight) for part in (model.generator, model.discriminator)}
    assert tables == {id(model.head.weight)}
    assert len(model.blocks()) == 4
    model.compute_dtype = torch.bfloat16
    assert model.generator.compute_dtype is model.discriminator.compute_dtype is torch.bfloat16


@pytest.mark.parametrize("objective", ["masked", "masked_nsp", "masked_sop", "replaced_token"])
def test_figures_of_an_empty_validation_split_are_none(objective: str) -> None:
    judge = globals()["objective"](toy_texts.noise(objective))
    assert judge.validate(network("masked", "bert"), 100) == {}


def test_the_balance_of_experts_is_that_of_each_row(tmp_path: Path) -> None:
    model = network("causal", "qwen3_moe", width=64)
    judge: Any = causal(model, None)
    assert isinstance(judge, BalancedLM)
    assert judge.weights == {"next": 1.0, "balance": model.config.router_aux_loss_coef}
    sequences = [Sequence(np.arange(first, first + 20) % 30, 20) for first in range(6)]
    rows = PackedRows(write_shards(sequences, tmp_path, 39), 40)
    batch = rows.rows(range(len(rows)))
    assert rows.token_use < 1  # padding takes no part
    found = judge.losses(model, batch)["balance"].item()
    expected = 0.0
    for row in range(len(batch)):
        model.keep_router_logits()
        one, used = batch.take([row]), int(batch.spans_N3[batch.spans_N3[:, 0] == row, 2].max())
        super(BalancedLM, judge).losses(model, one)
        logits = [layer[:used] for layer in model.take_router_logits()]
        expected += load_balancing_loss(logits, model.config.num_experts_per_tok).item()
    assert found == pytest.approx(expected, rel=1e-5)
    assert judge.counts(batch) == {"next": batch.num_targets, "balance": len(batch)}


def begin(name: str, family: str, steps: int, folder: Path, run: Any = None) -> tuple[Training, Any]:
    noise = toy_texts.noise(name, rate=0.15 if name == "span_corruption" else 0.3)
    train, held_out = (
        noise.layout(toy_texts.shards(noise, folder / f"tokens-{seed}", toy_texts.halves(count, seed)))
        for seed, count in ((0, 120), (1, 20))
    )
    words = noise.tokenizer
    model = new_model(family, name, Shape(64, 1), words.vocab_size, toy_texts.CONTEXT, words).init_weights(0)
    set_dropout(model, 0.0)
    optim = Optim(optimizer="muon", learning_rate=0.05, embedding_learning_rate=0.01, decay_share=0.6, warmup_steps=5)
    settings = Settings(num_steps=steps, batch_rows=16, micro=512, optim=optim, watch=Watch(validations=1))
    judge = objective(noise, Fixed(noise, held_out, 16))
    training = Training(model, judge, settings, run or tiny_run.SilentRun(folder))
    return training, source(noise, train, 16, 7)


LEARNABLE = {
    "masked": ("bert", 90, {"validation_loss": 0.15, "validation_masked_accuracy": 0.97}),
    "masked_nsp": ("bert", 90, {"validation_masked_accuracy": 0.7, "validation_pair_accuracy": 0.75}),
    "masked_sop": ("bert", 80, {"validation_masked_accuracy": 0.7, "validation_pair_accuracy": 0.85}),
    "replaced_token": ("electra", 80, {"validation_replaced_accuracy": 0.95, "validation_replaced_f1": 0.75}),
    "span_corruption": ("t5", 70, {"validation_loss": 0.25}),
    "denoising": ("bart", 60, {"validation_loss": 0.12}),
}


@pytest.mark.parametrize("name", LEARNABLE)
def test_what_follows_from_the_rest_is_learnt(name: str, tmp_path: Path) -> None:
    """Chance is ln 24 = 3.2 nats, 1 in 24, or even odds."""
    family, steps, wanted = LEARNABLE[name]
    result = fit(*begin(name, family, steps, tmp_path))
    for figure, limit in wanted.items():
        value = result.validation[figure]
        assert value < limit if figure.endswith("loss") else value > limit, result.validation


@pytest.mark.parametrize(("name", "family"), [("masked", "bert"), ("replaced_token", "electra")])
def test_stopping_and_continuing_is_bit_equal(name: str, family: str, tmp_path: Path) -> None:
    whole, batches = begin(name, family, 6, tmp_path / "whole")
    fit(whole, batches)

    class Stopping(tiny_run.SilentRun):
        @property
        def stopping(self) -> bool:  # type: ignore[override]
            return training.step == 3

        def check_stop(self) -> None:
            raise Interrupted("stopped")

    folder = tmp_path / "halves"
    training, batches = begin(name, family, 6, folder, Stopping(folder))
    with pytest.raises(Interrupted):
        fit(training, batches)
    again, batches = begin(name, family, 6, tmp_path / "other", tiny_run.SilentRun(folder))
    with torch.no_grad():
        next(iter(again.model.parameters())).add_(1.0)
    assert again.resume()
    assert again.step == 3
    fit(again, batches)
    expected, found = whole.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(expected[key], found[key]) for key in expected)


def test_settings_of_a_batch_do_not_change_what_is_learnt(tmp_path: Path) -> None:
    """One row at a time, or all at once."""
    ends = []
    for micro in (1, 10_000):
        training, batches = begin("masked", "bert", 3, tmp_path / str(micro))
        training.settings = replace(training.settings, micro=micro)
        for step in range(3):
            training.advance(batches.batch(step))
        ends.append(training.loss)
    assert ends[0] == pytest.approx(ends[1], rel=1e-4)
