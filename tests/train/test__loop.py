from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from mojiang.core.errors import Interrupted, RunFailed
from mojiang.train import _loop
from mojiang.train._batches import Shuffled
from mojiang.train._loop import Training, fit

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run


def start(scratch: Path, out: Path) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen([sys.executable, tiny_run.__file__, str(scratch), str(out)], env=environment)


def weights(training: Training) -> dict[str, torch.Tensor]:
    return {name: tensor.clone() for name, tensor in training.model.state_dict().items()}


@pytest.mark.slow
def test_a_run_killed_again_and_again_ends_with_the_weights_of_an_undisturbed_one(tmp_path: Path) -> None:
    quiet = tmp_path / "quiet"
    quiet.mkdir()
    assert start(quiet, tmp_path / "quiet.pt").wait() == 0
    stormy, out = tmp_path / "stormy", tmp_path / "stormy.pt"
    stormy.mkdir()
    moments, checkpoints = random.Random(time.time_ns()), stormy / "checkpoints"
    kills = 0
    for _ in range(4):
        process = start(stormy, out)
        before = {path.name for path in checkpoints.glob("step-*.json")}
        while process.poll() is None and {path.name for path in checkpoints.glob("step-*.json")} == before:
            time.sleep(0.002)
        time.sleep(moments.uniform(0, 0.15))
        if process.poll() is None:
            process.send_signal(signal.SIGKILL)
            kills += 1
        process.wait()
    assert kills >= 2
    assert start(stormy, out).wait() == 0
    expected, found = torch.load(tmp_path / "quiet.pt"), torch.load(out)
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_stopping_saves_and_continuing_is_bit_equal(tmp_path: Path) -> None:
    settings = replace(tiny_run.SETTINGS, num_steps=30)
    whole, _ = tiny_run.train(tmp_path / "whole", settings)

    class Stopping(tiny_run.SilentRun):
        @property
        def stopping(self) -> bool:  # type: ignore[override]
            return len(list(self.scratch.glob("checkpoints/*.json"))) == 0 and training.step == 11

        def check_stop(self) -> None:
            raise Interrupted("stopped")

    folder = tmp_path / "halves"
    rows = tiny_run.rows(folder)
    training = tiny_run.begin(folder, settings, Stopping(folder))
    with pytest.raises(Interrupted):
        fit(training, Shuffled(rows, settings.batch_rows, 7))
    assert training.step == 11
    continued, result = tiny_run.train(folder, settings)
    assert result.steps == 30
    assert continued.tokens == whole.tokens
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(continued).values(), strict=True))


def test_a_checkpoint_of_other_settings_is_not_continued(tmp_path: Path) -> None:
    tiny_run.train(tmp_path, replace(tiny_run.SETTINGS, num_steps=5))
    assert not tiny_run.begin(tmp_path, replace(tiny_run.SETTINGS, batch_rows=2)).resume()
    assert tiny_run.begin(tmp_path, replace(tiny_run.SETTINGS, num_steps=5)).resume()


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
def test_counting_is_learnt_to_near_certainty(tmp_path: Path, optimizer: str) -> None:
    """The first token of a sequence is given and every other follows from it: the optimum is a loss of zero."""
    rate = 0.02 if optimizer == "muon" else 0.003
    optim = {"optimizer": optimizer, "learning_rate": rate, "embedding_learning_rate": 0.01}
    settings = replace(tiny_run.SETTINGS, num_steps=200, optim=tiny_run.OPTIM.model_copy(update=optim))
    _, result = tiny_run.train(tmp_path, settings)
    assert result.loss < 0.1  # chance is ln 64 = 4.16
    assert result.validation["bits_per_byte"] < 0.2


def test_a_loss_that_is_not_finite_stops_with_evidence(tmp_path: Path) -> None:
    training = tiny_run.begin(tmp_path)
    with torch.no_grad():
        training.model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(RunFailed, match="step 0: the loss is nan") as caught:
        training.advance(tiny_run.rows(tmp_path).rows([0]))
    assert "learning rate" in caught.value.hint


@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")  # torch imports its own deprecated parts
def test_without_a_compiler_training_goes_on_with_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import torch._inductor.config as inductor

    monkeypatch.setattr(inductor.cpp, "cxx", ("no-such-compiler",))
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(inductor, "force_disable_caches", True)
    torch._dynamo.reset()
    warnings: list[str] = []
    run = tiny_run.SilentRun(tmp_path)
    run.warn = warnings.append  # type: ignore[method-assign]
    rows = tiny_run.rows(tmp_path)
    training = tiny_run.begin(tmp_path, run=run)
    training.compile(rows.rows([0, 1]))
    assert not training.compiled
    assert "C++ compiler" in warnings[0]
    assert training.advance(rows.rows([0, 1])).loss > 0
    torch._dynamo.reset()


def test_the_last_validation_is_at_the_last_step() -> None:
    assert _loop._validation_steps(10, 3) == {3, 6, 10}
    assert _loop._validation_steps(1, 4) == {1}
    assert _loop._validation_steps(5, 0) == set()


def test_best_weights_are_kept_when_the_last_validation_finds_them(tmp_path: Path) -> None:
    watch = tiny_run.SETTINGS.watch.model_copy(update={"keep_best": True})
    training, result = tiny_run.train(tmp_path, replace(tiny_run.SETTINGS, num_steps=30, watch=watch))
    assert result.best_step == 30  # it still learns
    assert training.measure() == result.validation
