"""Ranks of a pipeline compute what one process does: python pipeline_walk.py FOLDER.

Started once per rank, with torchrun's environment. The first rank writes, for each case, what one process alone
computes and what all do together; `test__pipeline.py` compares. Two ranks leave checkpoints that others continue from.
"""

from __future__ import annotations

import copy
import shutil
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

sys.path.insert(0, str(Path(__file__).parent))
import ranks_walk
import test_invariance
import tiny_run

from mojiang.core.errors import BadUsage
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.lora import LoraConfig, add_adapter
from mojiang.tokenizer._pack import PackedRows, Sequence, write_shards
from mojiang.train._batches import Shuffled
from mojiang.train._forecast import optimizer_bytes
from mojiang.train._loop import Training, fit
from mojiang.train._objective import CausalLM
from mojiang.train._parallel import World
from mojiang.train._pipeline import Pipeline
from mojiang.train._ranks import Replicas
from mojiang.train._settings import Optim, Settings, Watch

LAYERS, CONTEXT, ROWS = 5, 48, 6


def decoder(layers: int = LAYERS, **config: Any) -> Decoder:
    made = DecoderConfig(50, 32, layers, 4, 2, 48, 8, **config)
    return ranks_walk.scattered(Decoder(made).init_weights(0))  # type: ignore[return-value]


def packed(folder: Path, answers_only: bool = False) -> PackedRows:
    """Rows of several documents; `answers_only`: what each begins with is not trained on."""
    rng = np.random.default_rng(3)
    made = []
    for length in rng.integers(10, 40, 20):
        trained = np.arange(length) >= length // 2 if answers_only else None
        made.append(Sequence(rng.integers(0, 50, length), int(length), trained))
    return PackedRows(write_shards(made, folder, 50), CONTEXT)


MIXTURE = {"model_type": "qwen3_moe", "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
CASES: dict[str, tuple[dict[str, Any], bool, int]] = {
    "qwen3, tied, 6 micro-batches": ({}, False, CONTEXT),
    "qwen3, tied, 2 micro-batches": ({}, False, 3 * CONTEXT),
    "qwen3, tied, 1 micro-batch": ({}, False, ROWS * CONTEXT),
    "llama, answers only": ({"model_type": "llama", "tie_word_embeddings": False}, True, 2 * CONTEXT),
    "qwen2, untied": ({"model_type": "qwen2", "tie_word_embeddings": False}, False, CONTEXT),
    "qwen3_moe, answers only": (MIXTURE, True, CONTEXT),
}
"""Architecture, whether only answers are trained on, and the budget of a micro-batch."""


def begin(
    name: str, world: World, folder: Path, settings: Settings | None = None, scratch: Path | None = None
) -> tuple[Training, PackedRows]:
    config, answers_only, micro = CASES[name]
    rows = packed(folder / f"{name}-{world.rank}-{world.size}", answers_only)
    run: Any = tiny_run.SilentRun(scratch or folder)
    settings = settings or ranks_walk.settings(micro)
    return Training(decoder(**config), CausalLM(rows, bits=not answers_only), settings, run, world), rows


def gradients(name: str, world: World, folder: Path) -> dict[str, Any]:
    """Loss, gradient by name, and the figures of the validation split."""
    training, rows = begin(name, world, folder)
    figures = training.measure()
    batch = rows.rows(range(ROWS))
    own = world.share(len(batch))
    peak = watched(world)
    terms = training._accumulate(batch.take(own), own, world.total(training.objective.counts(batch)))
    world.sum_gradients(training.model)
    norm = world.gradient_norm(training.model, 1e9)
    found = {name: p.grad for name, p in training.model.named_parameters() if p.grad is not None}
    return {"terms": terms, "norm": norm, "figures": figures, "gradient": world.whole(found), "peak": peak[1]}


def watched(world: World) -> list[int]:
    """Micro-batches that have gone forward and not yet backward: now, and the most there were."""
    counts, walk = [0, 0], type(world).walk

    def counting(model: Any, micros: Any, forward: Any) -> None:
        def counted(rows: Any, share: bool) -> Any:
            counts[0] += 1
            counts[1] = max(counts)
            total = forward(rows, share)

            def done(gradient: torch.Tensor) -> None:
                counts[0] -= 1

            total.register_hook(done)
            return total

        walk(world, model, micros, counted)

    world.walk = counting  # type: ignore[method-assign]
    return counts


VARIANTS: dict[str, dict[str, Any]] = {
    **{name: {"optimizer": name} for name in ("muon", "adamw", "adamw8bit", "sgd", "rmsprop", "lamb")},
    "average": {"average": 0.9},
    "full": {"checkpointing": "full"},
    "bf16": {"precision": "bf16", "learning_rate": 0.001},
    "fp16": {"precision": "fp16", "learning_rate": 0.001},
}


def steps(name: str, world: World, folder: Path) -> Any:
    """Losses and weights after three steps, and the names of what a checkpoint holds."""
    training, rows = begin("qwen3, tied, 6 micro-batches", world, folder, ranks_walk.settings(**VARIANTS[name]))
    losses = [training.advance(rows.rows(range(ROWS))).loss for _ in range(3)]
    state = world.whole(training.state())
    held = state["average"]["weights"] if training.average else state["model"]
    numbers = [sorted(one["state"]) for one in state["optimizers"]]
    groups = [[group["params"] for group in one["param_groups"]] for one in state["optimizers"]]
    return losses, dict(held), (sorted(state["model"]), numbers, groups)


def held(world: World, folder: Path) -> tuple[int, int, int]:
    """Bytes of the weights, of the optimizers' state that is foreseen, and of what there is after a step."""
    training, rows = begin("qwen2, untied", world, folder)
    foreseen = sum(map(optimizer_bytes, training.optimizers))
    training.advance(rows.rows(range(ROWS)))
    states = [state for optimizer in training.optimizers for state in optimizer.state.values()]
    there = sum(t.nbytes for state in states for t in state.values() if isinstance(t, torch.Tensor) and t.dim())
    return sum(p.untyped_storage().nbytes() for p in world.outline(training.model).parameters()), foreseen, there


OPTIM = Optim(
    optimizer="muon", learning_rate=0.01, embedding_learning_rate=0.003, average=0.9, schedule="constant",
    warmup_steps=0,
)  # fmt: skip
CONTINUED = Settings(8, 4, 2 * CONTEXT, OPTIM, Watch(validations=2, keep_best=True))


class Recorded(Shuffled):
    """Says which rows each step takes."""

    def numbers(self, step: int) -> list[int]:
        taken = super().numbers(step)
        self.taken = [*getattr(self, "taken", []), taken]
        return taken


def train(world: World, folder: Path, scratch: Path, num_steps: int) -> dict[str, Any]:
    """Train from the newest checkpoint there to `num_steps`."""
    settings = replace(CONTINUED, num_steps=num_steps)
    training, rows = begin("qwen3, tied, 6 micro-batches", world, folder, settings, scratch)
    resumed = training.resume()
    source = Recorded(rows, settings.batch_rows, 7)
    result = fit(training, source)
    weights = world.whole(training.model.state_dict())
    return {"resumed": resumed, "taken": source.taken, "loss": result.loss, "figures": result.validation,
            "weights": weights}  # fmt: skip


def continued(world: World, folder: Path) -> Iterator[tuple[str, Any]]:
    """Two ranks write checkpoints at step 4; every world takes a copy to step 8."""
    first = folder / "first"
    if world.size == 2:
        yield "to step 4", train(world, folder, first, 4)
        dist.barrier()
    for number, place in enumerate((world, Replicas("cpu"))):
        mine = folder / f"continued-{world.size}-{number}"
        if world.is_first:
            shutil.copytree(first, mine)
        dist.barrier()
        yield f"continued, {type(place).__name__}", train(place, folder, mine, 8)


def refused(world: World, folder: Path) -> Iterator[tuple[str, str]]:
    causal = test_invariance.causal_lm(folder / f"rows-{world.rank}")
    adapted = decoder()
    add_adapter(adapted, LoraConfig(4), 0)
    cases = {
        "grpo": test_invariance.CASES["grpo"](folder / f"grpo-{world.rank}"),
        "dpo": test_invariance.CASES["dpo"](folder / f"dpo-{world.rank}"),
        "balance": test_invariance.CASES["pretrain, mixture of experts"](folder / f"balance-{world.rank}"),
        "encoder": (ranks_walk.masked(folder / f"masked-{world.rank}")[0], *causal[1:]),
        "head": (test_invariance.CASES["classify"](folder / f"classify-{world.rank}")[0], *causal[1:]),
        "adapter": (adapted, *causal[1:]),
        "layers": (decoder(1), *causal[1:]),
    }
    for name, case in cases.items():
        run: Any = tiny_run.SilentRun(folder)
        try:
            Training(copy.deepcopy(case[0]), case[1], ranks_walk.settings(), run, world)
        except BadUsage as error:
            yield name, f"{error.message}; {error.hint}"


def main(folder: Path) -> None:
    found: dict[str, Any] = {}
    size = int(Pipeline("cpu").size)
    first = Pipeline("cpu").is_first
    for name in CASES:
        world = Pipeline("cpu")
        alone = gradients(name, World(), folder) if first else None
        together = gradients(name, world, folder)
        peaks: list[Any] = [None] * size
        dist.all_gather_object(peaks, together["peak"])
        found[name] = alone, {**together, "peaks": peaks}
    for name in VARIANTS if size == 2 else ("muon", "adamw"):
        found[name] = steps(name, World(), folder) if first else None, steps(name, Pipeline("cpu"), folder)
    sizes: list[Any] = [None] * size
    dist.all_gather_object(sizes, held(Pipeline("cpu"), folder))
    found["held"] = held(World(), folder) if first else None, sizes
    found |= dict(continued(Pipeline("cpu"), folder))
    found["refused"] = dict(refused(Pipeline("cpu"), folder))
    world = Pipeline("cpu")
    training, _ = begin("qwen2, untied", world, folder)
    world.release(training.model)
    if world.is_first:
        tokens = torch.arange(12)[None]
        logits = [
            model.logits(model(tokens)).detach() for model in (training.model, decoder(**CASES["qwen2, untied"][0]))
        ]
        found["released"] = type(training.model) is Decoder, training.model.state_dict(), logits
        torch.save(found, folder / f"found-{size}.pt")


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]))
