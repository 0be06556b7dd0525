"""Two ranks walk through every objective and optimizer, with every way to be parallel: python ranks_walk.py OUT.

Started twice, with torchrun's environment. The first rank writes, for each, what one process alone computes and what
both together do; `test__parallel.py` compares.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).parent))
import test_invariance
import tiny_run

from mojiang.core.errors import BadUsage
from mojiang.model.bert import Bert, BertConfig
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.lora import LoraConfig, add_adapter
from mojiang.model.network import Network
from mojiang.model.nf4 import quantize_blocks
from mojiang.tokenizer._pack import PackedRows, Sequence, write_shards
from mojiang.train._loop import Training
from mojiang.train._parallel import World
from mojiang.train._pretraining import MaskedLM
from mojiang.train._ranks import Replicas, Slices
from mojiang.train._settings import Optim, Settings, Watch
from mojiang.train._tensor_parallel import Parts

MICRO = 60
"""So little that a batch has many micro-batches, and one rank more than the other."""
Case = tuple[Network, Any, Any]


def scattered(model: Network) -> Network:
    """With weights far from their initial values, so that all of them matter."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def packed(folder: Path, rows: int = 7) -> Any:
    rng = np.random.default_rng(3)
    made = [Sequence(rng.integers(0, 50, n), int(n)) for n in rng.integers(20, 48, 20)]
    return PackedRows(write_shards(made, folder, 50), 48).rows(range(rows))


def masked(folder: Path) -> Case:
    config = BertConfig(50, 32, 2, 4, 48, hidden_dropout_prob=0.2, max_position_embeddings=64, head="masked_lm")
    return scattered(Bert(config).init_weights(0)), MaskedLM(), packed(folder)


CASES = {**test_invariance.CASES, "masked": masked}


def settings(micro: int = MICRO, checkpointing: str = "none", precision: str = "fp32", **optim: Any) -> Settings:
    rates = {"learning_rate": 0.01, "embedding_learning_rate": 0.01, "weight_decay": 0.1, "clip": 0.5} | optim
    watch = Watch(validations=0)
    return Settings(5, 7, micro, Optim(**rates), watch, precision=precision, checkpointing=checkpointing)  # type: ignore[arg-type]


REFUSED = {
    "Slices": ("grpo", "pretrain, replaced_token"),
    "Parts": ("grpo", "pretrain, mixture of experts", "adamw8bit", "lamb", "lora", "dora", "qlora"),
}
"""What a way to be parallel does not do."""
CUT = ("causal_lm", "classify", "dpo", "masked")
"""Cases whose layers are cut: every kind of model and of loss; what comes after the layers is the same for all."""


def cases(kind: str) -> list[str]:
    """Names of what is compared."""
    return [name for name in (CUT if kind == "Parts" else CASES) if name not in REFUSED.get(kind, ())]


def variants(kind: str) -> list[str]:
    """Names of what is compared."""
    return [name for name in VARIANTS if name not in REFUSED.get(kind, ())]


def gradient(case: Case, world: World, folder: Path) -> tuple[float, torch.Tensor]:
    """Loss and gradient of a global batch, by the loop's own steps."""
    model, objective, batch = copy.deepcopy(case[0]), case[1], case[2]
    training = Training(model, objective, settings(), tiny_run.SilentRun(folder), world)  # type: ignore[arg-type]
    rows = world.share(len(batch))
    own = objective.prepare(training.model, batch.take(rows), 0, world)
    terms = training._accumulate(own, rows, world.total(objective.counts(own)))
    world.sum_gradients(training.model)
    found = world.whole([p.grad for p in training.model.parameters() if p.grad is not None])
    return sum(objective.weights[name] * value for name, value in terms.items()), flat(found)


def flat(tensors: Any) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors])


def walk_objectives(world: World, folder: Path) -> Iterator[tuple[str, Any]]:
    for name in cases(type(world).__name__):
        case = CASES[name](folder / f"{name}-{world.rank}")
        yield name, (gradient(case, World(), folder), gradient(case, world, folder))


VARIANTS: dict[str, tuple[dict[str, Any], str]] = {
    **{name: ({"optimizer": name}, "") for name in ("muon", "adamw", "adamw8bit", "sgd", "rmsprop", "lamb")},
    "average": ({"average": 0.9}, ""),
    "full": ({"checkpointing": "full"}, ""),
    "selective": ({"checkpointing": "selective"}, ""),
    "bf16": ({"precision": "bf16", "learning_rate": 0.001}, ""),
    "fp16": ({"precision": "fp16", "learning_rate": 0.001}, ""),
    "lora": ({}, "lora"),
    "dora": ({}, "dora"),
    "qlora": ({}, "nf4"),
}
"""Settings, and an adapter."""


def variant(name: str, world: World, folder: Path) -> Training:
    values, adapter = VARIANTS[name]
    model = scattered(Decoder(DecoderConfig(64, 64, 2, 4, 2, 128, 16)).init_weights(0))
    if adapter == "nf4":
        quantize_blocks(model)
    if adapter:
        add_adapter(model, LoraConfig(4, use_dora=adapter == "dora"), 0)
    run: Any = tiny_run.SilentRun(folder)
    return Training(model, tiny_run.CausalLM(), settings(**values), run, world)


def walk_optimizers(world: World, folder: Path) -> Iterator[tuple[str, Any]]:
    batch = packed(folder / f"rows-{world.rank}")
    for name in variants(type(world).__name__):
        found = []
        for place in (World(), world):
            training = variant(name, place, folder)
            losses = [training.advance(batch).loss for _ in range(3)]
            averaged = training.average.state_dict()["weights"] if training.average else {}
            weights = place.whole([training.model.state_dict(), averaged])
            found.append(
                (losses, flat(tensor for state in weights for tensor in state.values() if tensor.is_floating_point()))
            )
        yield name, tuple(found)


def refusals(world: World, folder: Path) -> Iterator[tuple[str, Any]]:
    """What is said before anything is trained."""
    for name in REFUSED.get(type(world).__name__, ()):
        try:
            if name in CASES:
                gradient(CASES[name](folder / f"refused-{name}-{world.rank}"), world, folder)
            else:
                variant(name, world, folder)
        except BadUsage as error:
            yield name, f"{error.message}; {error.hint}"


def main(out: Path) -> None:
    folder = out.parent
    found: dict[str, Any] = {}
    for kind in (Parts, Replicas, Slices):
        world = kind("cpu")
        for walk in (walk_objectives, walk_optimizers, refusals):
            for name, result in walk(world, folder):
                found[f"{kind.__name__}/{name}"] = result
        if kind is Parts:
            continue
        rows = world.share(7)
        values = torch.tensor([[10.0 * row, row] for row in rows], requires_grad=True)
        gathered = world.gather(values)
        (gathered.sum(1) * torch.arange(7)).sum().backward()
        found[f"{kind.__name__}/gathered"] = (gathered.detach(), values.grad, list(rows))
    model = variant("lora", world, folder).model
    before = world.whole(model.state_dict())
    world.release(model)
    after = model.state_dict()
    tokens = torch.arange(12)[None]
    if world.is_first:
        found["released"] = (before, after, model.logits(model(tokens)).detach(), type(model) is Decoder)
        torch.save(found, out)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
