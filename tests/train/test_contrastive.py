from __future__ import annotations

import json
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import AutoModel

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.model._layers import set_dropout_keys
from mojiang.model.bert import Bert, BertConfig
from mojiang.model.load import load_model
from mojiang.model.network import Network
from mojiang.train._batches import Examples
from mojiang.train._contrastive import Contrast, embed, read_pooling, save_pooling
from mojiang.train._parallel import World
from mojiang.train.contrastive import Contrastive

Put = Callable[..., Artifact]
Build = Callable[[int], Network]
EVERYTHING = 10**6


def small(dropout: float = 0.2) -> Network:
    config = BertConfig(
        40, 16, 2, 2, 32, hidden_dropout_prob=dropout, max_position_embeddings=64, head="embedding",
        add_pooling_layer=False,
    )  # fmt: skip
    return Bert(config).init_weights(0).train()


def pairs(count: int = 7, keys: bool = True) -> Examples:
    draw = np.random.default_rng(0)
    sides = [[draw.integers(1, 40, n) for n in draw.integers(3, 30, count)] for _ in range(2)]
    columns = {"anchor": sides[0], "positive": sides[1]}
    columns["both"] = [np.zeros(len(a) + len(b)) for a, b in zip(*sides, strict=True)]
    if keys:
        columns["key"] = 1_000 + np.arange(count)  # type: ignore[assignment]
    return Examples(columns, "both")


def gradient(model: Network, objective: Contrast, batch: Examples, budget: int, world: World) -> tuple[float, Tensor]:
    model.zero_grad()
    batch = objective.prepare(model, batch, 0, world)
    total = 0.0
    for rows in batch.micro(budget):
        loss = objective.losses(model, batch.take(rows))["loss"]
        loss.backward()  # type: ignore[no-untyped-call]
        total += loss.item()
    return total, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


def at_once(model: Network, batch: Examples, symmetric: bool) -> tuple[float, Tensor]:
    """The loss as its formula says, of the whole batch with all activations kept, and with the same dropout."""
    model.zero_grad()
    sides = []
    for number, side in enumerate(("anchor", "positive")):
        if "key" in batch.columns:
            set_dropout_keys(model, torch.from_numpy(2 * batch["key"] + number))
        sides.append(F.normalize(embed(model, batch[side], "mean"), dim=-1))
    scores = sides[0] @ sides[1].T / 0.1
    loss = -scores.log_softmax(1).diag().sum()
    if symmetric:
        loss = (loss - scores.log_softmax(0).diag().sum()) / 2
    loss.backward()
    return loss.item(), torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("symmetric", [False, True])
def test_gradient_through_micro_batches_is_that_of_the_whole_batch(symmetric: bool) -> None:
    model, batch = small(), pairs()
    wanted, wanted_gradient = at_once(model, batch, symmetric)
    for micro, budget in ((1, 1), (1, EVERYTHING), (EVERYTHING, 1), (70, 130)):
        loss, found = gradient(model, Contrast("mean", 0.1, symmetric, micro), batch, budget, World())
        assert loss == pytest.approx(wanted, rel=1e-5)
        assert (found - wanted_gradient).norm() < 1e-5 * wanted_gradient.norm()
    without, other = at_once(small(0.0), batch, symmetric)
    assert abs(without - wanted) > 1e-3  # dropout did something


class Half(World):
    """One of two ranks, which knows the other's rows already."""

    size = 2

    def __init__(self, rank: int, others: list[Tensor]) -> None:
        self.rank, self.others = rank, others

    def gather(self, rows: Tensor) -> Tensor:
        other = self.others.pop(0)
        both = rows.new_empty(len(rows) + len(other), rows.shape[1])
        both[self.rank :: 2], both[1 - self.rank :: 2] = rows, other
        return both


def test_two_ranks_add_up_to_the_whole_batch() -> None:
    model, batch, objective = small(), pairs(), Contrast("mean", 0.1, True, EVERYTHING)
    wanted, wanted_gradient = gradient(model, objective, batch, EVERYTHING, World())
    halves = [batch.take(range(rank, 7, 2)) for rank in range(2)]
    with torch.no_grad():
        embedded = [objective._embed_all(model, half, EVERYTHING) for half in halves]
    parts = [
        gradient(model, objective, half, 60, Half(rank, list(embedded[1 - rank]))) for rank, half in enumerate(halves)
    ]
    assert sum(loss for loss, _ in parts) == pytest.approx(wanted, rel=1e-5)
    assert (parts[0][1] + parts[1][1] - wanted_gradient).norm() < 1e-5 * wanted_gradient.norm()


@pytest.mark.parametrize("pooling", ["mean", "cls", "last"])
def test_pooling_reads_the_text_and_no_padding(pooling: Any) -> None:
    model, batch = small(0.0).eval(), pairs()
    with torch.no_grad():
        together = embed(model, batch["anchor"], pooling)
        for row, tokens in zip(together, batch["anchor"], strict=True):
            hidden_TD = model(torch.from_numpy(tokens)[None])[0]
            alone = {"mean": hidden_TD.mean(0), "cls": hidden_TD[0], "last": hidden_TD[-1]}[pooling]
            torch.testing.assert_close(row, alone, atol=1e-5, rtol=1e-4)


class Given(torch.nn.Module):
    """Embeds the text [n] as row n of a table."""

    def __init__(self, table: list[list[float]]) -> None:
        super().__init__()
        self.table, self.device, self.config = torch.tensor(table), torch.device("cpu"), None

    def forward(self, tokens_BT: Tensor, mask: Tensor) -> Tensor:
        return self.table[tokens_BT]


def test_ranks_count_ties_against_the_model_and_equal_texts_once() -> None:
    texts = Examples(
        {
            "anchor": [np.array([0]), np.array([1]), np.array([1])], "both": [np.zeros(2)] * 3,
            "positive": [np.array([0]), np.array([2]), np.array([2])],
        },
        "both",
    )  # fmt: skip
    objective = Contrast("mean", 0.1, True, EVERYTHING)
    figures = objective.measure(Given([[1.0, 0.0], [0.9, 0.4], [0.4, 0.9]]), texts, EVERYTHING)  # type: ignore[arg-type]
    assert figures == {"mrr": pytest.approx((1 + 0.5 + 0.5) / 3), "recall_at_1": pytest.approx(1 / 3)}
    same = objective.measure(Given([[1.0, 0.0]] * 3), texts, EVERYTHING)  # type: ignore[arg-type]
    assert same == {"mrr": 0.5, "recall_at_1": 0.0}


COLOURS = {"red": "rot", "blue": "blau", "green": "gruen", "white": "weiss", "black": "schwarz", "brown": "braun"}
THINGS = {"house": "haus", "mouse": "maus", "garden": "garten", "hand": "finger"}


def translations(count: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    chosen = [(draw.choice(list(COLOURS)), draw.choice(list(THINGS))) for _ in range(count)]
    return [{"source": f"{colour} {thing}", "target": f"{COLOURS[colour]} {THINGS[thing]}"} for colour, thing in chosen]


def test_pairs_find_each_other_and_the_folder_is_one_of_sentence_transformers(
    store: Store, dataset: Put, network: Put, bert: Build
) -> None:
    dataset("pairs", "pairs", train=translations(60, 0), validation=translations(15, 1))
    network("bert", [*COLOURS, *COLOURS.values(), *THINGS, *THINGS.values()], bert)
    recipe = Contrastive(
        model="bert", data="pairs", batch_size=16, steps=25, learning_rate=5e-3, context=16, precision="fp32"
    )
    made = execute(recipe, store, name="embedder").artifact
    assert made.metrics["validation_recall_at_1"] > 0.7 > made.metrics["validation_recall_at_1_before"] + 0.2  # type: ignore[operator]
    theirs, report = AutoModel.from_pretrained(made.path, output_loading_info=True)
    assert set(report["missing_keys"]) == {"pooler.dense.weight", "pooler.dense.bias"}  # which embeddings do not use
    assert not report["unexpected_keys"]
    tokens_1T = torch.tensor([[2, 9, 12, 3]])
    with torch.no_grad():
        wanted = theirs(tokens_1T).last_hidden_state.mean(1)
        torch.testing.assert_close(
            embed(load_model(made.path), [tokens_1T[0].numpy()], "mean"), wanted, atol=1e-4, rtol=0
        )
    modules = json.loads((made.path / "modules.json").read_text())
    assert [module["type"].rpartition(".")[2] for module in modules] == ["Transformer", "Pooling"]
    assert all((made.path / module["path"]).is_dir() for module in modules)
    assert read_pooling(made.path) == "mean"
    pooling = json.loads((made.path / "1_Pooling" / "config.json").read_text())
    assert pooling["word_embedding_dimension"] == made.metrics["embedding_size"] == 32


def test_pooling_is_written_and_read(tmp_path: Any) -> None:
    with pytest.raises(BadInput, match="does not say how to pool"):
        read_pooling(tmp_path)
    for pooling in ("mean", "cls", "last"):
        save_pooling(tmp_path, pooling, 8, 64)  # type: ignore[arg-type]
        assert read_pooling(tmp_path) == pooling
    settings = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({**settings, "pooling_mode_max_tokens": True}))
    with pytest.raises(BadInput, match="pooling_mode_max_tokens"):
        read_pooling(tmp_path)
