"""Recipes killed with SIGKILL again and again, beside undisturbed ones: python storm.py QUIET STORMY OUT.

QUIET and STORMY are workspaces with the same inputs. Every attempt is a process of its own, forked from this one, which
has imported everything and computed nothing: to start an interpreter for each would take minutes.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import signal
import sys
import time
import traceback
from pathlib import Path

import mojiang
from mojiang.core.recipe import Recipe
from mojiang.core.run import execute
from mojiang.train import _adapters, _bilm, _conversations, _families, _loop, _preferences, _rollouts  # noqa: F401
from mojiang.train._settings import AdapterSettings, Compute, Length, Watch
from mojiang.train.dpo import DPO
from mojiang.train.elmo import ELMo
from mojiang.train.grpo import GRPO
from mojiang.train.lora import Lora
from mojiang.train.pretrain import Pretrain
from mojiang.train.sft import SFT

KILLS = 3
SHARED = {"compute": Compute(precision="fp32", compile="off"), "watch": Watch(validations=2, keep_best=True)}


def recipes() -> dict[str, Recipe]:
    """Each of enough steps to be killed among them; what one makes is the model of the next."""
    return {
        "base": Pretrain(
            data="split", tokenizer="bpe", length=Length(steps=40), depth=2, width=64, context=128, batch_tokens=256,
            **SHARED,
        ),
        "chat": SFT(model="base", data="pairs", length=Length(steps=25), batch_tokens=256, replay="split", **SHARED),
        "adapted": Lora(
            model="chat", data="pairs", length=Length(steps=25), batch_tokens=256, adapter=AdapterSettings(rank=4),
            **SHARED,
        ),
        "preferred": DPO(model="chat", data="preferences", length=Length(steps=15), batch_size=4, **SHARED),
        "rewarded": GRPO(
            model="chat", data="prompts", reward="number", group=2, batch_size=2, max_tokens=8, validation_prompts=2,
            length=Length(steps=8), **SHARED,
        ),
        "vectors": ELMo(
            data="split", width=16, cells=24, max_words=500, batch_size=16, length=Length(steps=25),
            watch=SHARED["watch"], compute=Compute(precision="fp32", compile="off", micro=256),
        ),
    }  # fmt: skip


def start(workspace: Path, name: str) -> int:
    """A process that executes one recipe."""
    process = os.fork()
    if process:
        return process
    try:
        execute(recipes()[name], mojiang.open(workspace), name=name, seed=3, device="cpu")
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def finish(process: int) -> None:
    if os.waitpid(process, 0)[1]:
        raise SystemExit("an attempt failed")


def seals(workspace: Path) -> set[Path]:
    return set(workspace.glob("scratch/*/checkpoints/step-*.json"))


def storm(workspace: Path, name: str) -> int:
    """Kill some attempts after they wrote a checkpoint, then let one end; returns how many were killed."""
    kills = 0
    for _ in range(KILLS):
        before, process = seals(workspace), start(workspace, name)
        ended = (0, 0)
        while not (ended := os.waitpid(process, os.WNOHANG))[0] and seals(workspace) <= before:
            time.sleep(0.002)
        time.sleep(random.uniform(0, 0.1))
        if not ended[0]:
            os.kill(process, signal.SIGKILL)
            kills += os.WIFSIGNALED(os.waitpid(process, 0)[1])
    finish(start(workspace, name))
    return kills


def digest(workspace: Path, name: str) -> str:
    path = mojiang.open(workspace).get(name).path / "model.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


if __name__ == "__main__":
    random.seed(time.time_ns())
    _loop.CHECKPOINT_SECONDS, _loop.CHECKPOINT_SHARE = 0.02, 1.0
    quiet, stormy, found = Path(sys.argv[1]), Path(sys.argv[2]), {}
    for name in recipes():
        finish(start(quiet, name))
        found[name] = {"kills": storm(stormy, name), "quiet": digest(quiet, name), "stormy": digest(stormy, name)}
        print(name, found[name], flush=True)
    Path(sys.argv[3]).write_text(json.dumps(found))
