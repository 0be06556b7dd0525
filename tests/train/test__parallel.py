"""Two ranks compute what one does, for every objective and optimizer: whole models, slices, parts of layers."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from mojiang.core.errors import BadUsage
from mojiang.train._parallel import World

sys.path.insert(0, str(Path(__file__).parent))
import ranks_walk

KINDS = ("Replicas", "Slices", "Parts")


def on_ranks(ranks: int, words: list[str], folder: Path) -> None:
    """Run a script once per rank, with torchrun's environment but without the seconds torchrun takes to start."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    everyone = {"WORLD_SIZE": ranks, "LOCAL_WORLD_SIZE": ranks, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    processes = []
    for rank in range(ranks):
        own = {**everyone, "RANK": rank, "LOCAL_RANK": rank, "OMP_NUM_THREADS": 1}
        environment = {**os.environ, **{name: str(value) for name, value in own.items()}}
        with open(folder / f"rank-{rank}.log", "w") as log:
            processes.append(subprocess.Popen([sys.executable, *words], env=environment, stderr=log, stdout=log))
    try:
        codes = [process.wait(timeout=240) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert codes == [0] * ranks, "\n".join((folder / f"rank-{n}.log").read_text()[-3000:] for n in range(ranks))


@pytest.fixture(scope="module")
def walked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("walk")
    on_ranks(2, [ranks_walk.__file__, str(folder / "found.pt")], folder)
    return dict(torch.load(folder / "found.pt", weights_only=False))


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in ranks_walk.cases(kind)])
def test_loss_and_gradient_are_those_of_one_rank(walked: dict[str, Any], kind: str, name: str) -> None:
    (loss, gradient), (shared_loss, shared_gradient) = walked[f"{kind}/{name}"]
    assert gradient.norm() > 1e-3
    assert shared_loss == pytest.approx(loss, rel=1e-5)
    assert (shared_gradient - gradient).norm() <= 1e-5 * gradient.norm()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind in KINDS for name in ranks_walk.variants(kind)])
def test_three_steps_give_the_weights_of_one_rank(walked: dict[str, Any], kind: str, name: str) -> None:
    (losses, weights), (shared_losses, shared_weights) = walked[f"{kind}/{name}"]
    assert losses[2] < losses[0] - 0.01  # it learns, so there is something to compare
    # Eight bits round differences of 1e-7 to one of two neighbours; rmsprop divides by gradients that are nearly zero.
    tolerance = 3e-5 if name in ("adamw8bit", "rmsprop") else 1e-6
    if kind == "Parts":  # sums inside a layer are taken in two halves, which half precision rounds by themselves
        tolerance = {"rmsprop": 1e-3, "bf16": 1e-2, "fp16": 1e-2}.get(name, 1e-5)
    assert shared_losses == pytest.approx(losses, rel=tolerance)
    assert (shared_weights - weights).norm() <= tolerance * weights.norm()


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("Slices", "grpo", "writes text with all of them; use --parallel ddp"),
        ("Slices", "pretrain, replaced_token", "calls parts of its model by themselves; use --parallel ddp"),
        ("Parts", "grpo", "does not cut a model that writes text while it is trained; use --parallel ddp or fsdp"),
        ("Parts", "pretrain, mixture of experts", "not qwen3_moe; use --parallel ddp or fsdp"),
        ("Parts", "adamw8bit", "do not hold whole ones; use --parallel ddp"),
        ("Parts", "lamb", "use --parallel ddp or fsdp"),
        ("Parts", "lora", "does not cut a model with an adapter"),
        ("Parts", "dora", "does not cut a model with an adapter"),
        ("Parts", "qlora", "does not cut a model with an adapter"),
    ],
)
def test_what_cannot_be_done_is_refused_before_training(
    walked: dict[str, Any], kind: str, name: str, said: str
) -> None:
    assert name in ranks_walk.REFUSED[kind]
    assert said in walked[f"{kind}/{name}"]


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["Replicas", "Slices"])
def test_gathered_rows_are_in_the_order_of_the_batch(walked: dict[str, Any], kind: str) -> None:
    gathered, gradient, own = walked[f"{kind}/gathered"]
    assert gathered.tolist() == [[10.0 * row, row] for row in range(7)]
    assert own == [0, 2, 4, 6]
    assert gradient.tolist() == [[row, row] for row in own]  # of one's own rows, whatever the others do with theirs


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_released_model_is_an_ordinary_one(walked: dict[str, Any]) -> None:
    before, after, logits, ordinary = walked["released"]
    assert ordinary
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert logits.isfinite().all()
    tied = (after["model.embed_tokens.weight"], after["lm_head.weight"])
    assert tied[0].data_ptr() == tied[1].data_ptr()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_slices_on_a_gpu_give_the_gradient_of_one_process(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from mojiang.train._ranks import Slices

    environment = {"RANK": 0, "WORLD_SIZE": 1, "LOCAL_RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": 29555}
    for name, value in environment.items():
        monkeypatch.setenv(name, str(value))
    model, objective, batch = ranks_walk.CASES["causal_lm"](tmp_path)
    case = (model.to("cuda"), objective, batch)
    loss, gradient = ranks_walk.gradient(case, World(), tmp_path)
    sliced_loss, sliced_gradient = ranks_walk.gradient(case, Slices("cuda"), tmp_path)
    assert sliced_loss == pytest.approx(loss, rel=1e-5)
    assert (sliced_gradient - gradient.cpu()).norm() <= 1e-5 * gradient.norm().cpu()


def test_rows_are_dealt_out_and_rounds_are_as_many_on_every_rank() -> None:
    class Third(World):
        rank, size = 2, 3

        def most(self, value: int) -> int:
            return 4

    assert list(Third().share(10)) == [2, 5, 8]
    assert Third().rounds([[0, 1], [2]]) == [([0, 1], True), ([2], True), ([0, 1], False), ([0, 1], False)]
    with pytest.raises(BadUsage, match="a batch of 2 rows cannot be shared by 3 ranks"):
        Third().share(2)
