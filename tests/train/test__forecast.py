"""What a training takes is foreseen: beside what PyTorch and the kernel then say it took."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run

from mojiang.core.errors import Unavailable
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.tokenizer._pack import Rows
from mojiang.train import _forecast
from mojiang.train._forecast import Forecast, Ledger, foresee, optimizer_bytes, refuse
from mojiang.train._loop import Training
from mojiang.train._objective import CausalLM
from mojiang.train._optim import build_optimizers
from mojiang.train._settings import Optim, OptimizerName, Settings, Watch

MB = 2**20


def test_the_ledger_counts_what_autograd_keeps_and_what_is_given_back() -> None:
    x = torch.ones(MB // 4, requires_grad=True)  # 1 MB, there before: not counted
    with Ledger() as ledger:
        loss = (x.exp() * x).sum()  # the exponential is kept for the backward pass, the product is not
        assert (ledger.live // MB, ledger.peak // MB) == (1, 2)
        loss.backward()  # type: ignore[no-untyped-call]
        del loss
    assert ledger.live // MB == 1  # the gradient
    assert x.grad is not None


def test_the_ledger_does_not_count_views_or_what_is_written_in_place() -> None:
    weight = torch.ones(1000)
    with Ledger() as ledger:
        weight.view(10, 100).t().add_(1)
    assert ledger.peak == 0


@pytest.mark.parametrize("name", ["adamw", "adamw8bit", "lamb", "muon", "sgd", "rmsprop"])
def test_the_state_of_an_optimizer_is_foreseen(name: OptimizerName) -> None:
    model = Decoder(DecoderConfig(2048, 64, 2, 4, 4, 128, 16)).init_weights(0)
    optimizers = build_optimizers(model, Optim(optimizer=name), torch.float32)
    foreseen = sum(map(optimizer_bytes, optimizers))
    model.logits(model(torch.arange(16)[None])).sum().backward()
    for optimizer in optimizers:
        optimizer.step()
    held = [t for o in optimizers for state in o.state.values() for t in torch.utils._pytree.tree_leaves(state)]
    taken = sum(t.numel() * t.element_size() for t in held if isinstance(t, torch.Tensor))
    assert foreseen == pytest.approx(taken, rel=0.1)


def training(tmp_path: Path, rows: int = 8, micro: int = 8192, **optim: Any) -> tuple[Training, Any]:
    model = Decoder(DecoderConfig(512, 256, 4, 4, 4, 768, 256)).init_weights(0)
    settings = Settings(3, rows, micro, Optim(**({"optimizer": "adamw"} | optim)), Watch(validations=0))
    run: Any = tiny_run.SilentRun(tmp_path)
    run.device = "cpu"
    made = Training(model, CausalLM(), settings, run)
    return made, full_rows(rows, 256)


def full_rows(rows: int, length: int) -> Any:
    tokens = np.arange(rows * length).reshape(rows, length) % 512
    spans = np.stack([np.arange(rows), np.zeros(rows, np.int64), np.full(rows, length)], 1)
    return Rows(tokens, tokens, np.tile(np.arange(length), (rows, 1)), spans)


@pytest.mark.parametrize("micro", [8192, 512])
def test_what_two_rows_foresee_is_what_all_of_them_take(micro: int, tmp_path: Path) -> None:
    made, batch = training(tmp_path, micro=micro)
    before = [p.detach().clone() for p in made.model.parameters()]
    forecast = foresee(made, batch)
    for weight, old in zip(made.model.parameters(), before, strict=True):
        assert torch.equal(weight, old)
        assert weight.grad is None
    made.advance(batch)  # the optimizer's state is there from now on
    with Ledger() as ledger:
        made._accumulate(batch, list(range(len(batch))), made.objective.counts(batch))
    assert forecast.gradients + forecast.activations == pytest.approx(ledger.peak, rel=0.1)


def test_what_cannot_fit_is_refused_with_its_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made, batch = training(tmp_path)
    monkeypatch.setattr(_forecast, "room", lambda device: 5 * made.model.num_parameters())
    said = r"training 7 M parameters takes .* GiB \(weights .*, and there are 0.0"
    with pytest.raises(Unavailable, match=said) as caught:
        foresee(made, batch)
    assert "nf4" in caught.value.hint
    fits = Forecast(1, 2, 3, 4, 5, 6, room=21)
    refuse(fits, made)
    with pytest.raises(Unavailable):
        refuse(Forecast(1, 2, 3, 4, 5, 6, room=20), made)


def test_micro_batches_that_do_not_fit_are_refused_though_the_state_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, batch = training(tmp_path, rows=64, micro=64 * 256)
    small = foresee(made, batch.take([0]))
    monkeypatch.setattr(_forecast, "room", lambda device: small.memory + 20 * MB)
    with pytest.raises(Unavailable, match="activations"):
        foresee(made, batch)


def test_a_container_has_the_room_that_it_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "read_text", lambda path: "1000000\n")
    assert _forecast.room("cpu") == 1_000_000
    monkeypatch.setattr(Path, "read_text", lambda path: "max\n")
    assert _forecast.room("cpu") == _forecast.psutil.virtual_memory().total
