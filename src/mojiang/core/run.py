"""A Run: one execution of a recipe, and the context the recipe pulls its circumstances from."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from filelock import Timeout

from mojiang.core.artifact import NAME, Artifact, Manifest, software_versions
from mojiang.core.engine import Engine, LocalEngine
from mojiang.core.errors import BadUsage, Interrupted, MojiangError, RunFailed
from mojiang.core.events import Event, EventLog, Listener
from mojiang.core.files import atomic_write, explained_os_errors, remove_tree
from mojiang.core.recipe import Recipe
from mojiang.core.store import Store, now


@dataclass(frozen=True)
class Circumstance:
    """What a recipe's result does not depend on: where and how it runs."""

    device: str = "auto"
    engine: Engine = field(default_factory=LocalEngine)
    listeners: tuple[Listener, ...] = ()
    parent: str = ""
    """Run id of the pipeline this run is a step of."""
    profile: int = 0
    """Training steps to profile; 0 for none."""
    rehearsal: bool = False
    """Come as far as the first step of training, and say what training is going to take."""


@dataclass(frozen=True)
class Outcome:
    """What executing a recipe gave."""

    artifact: Artifact
    run: str
    reused: bool
    """True when the store already had it and nothing was run."""
    seconds: float


class Followed(Exception):
    """What was to be done by all ranks is done; raised in all but the first."""


class Run:
    """The context of one execution: inputs, paths, device, seed, engine, and a voice."""

    def __init__(
        self, id: str, recipe: Recipe, store: Store, inputs: dict[str, list[Artifact]], seed: int,
        circumstance: Circumstance, fingerprint: str, events: EventLog | None = None,
    ) -> None:  # fmt: skip
        self.id, self.recipe, self.store, self.seed = id, recipe, store, seed
        self.circumstance, self.engine = circumstance, circumstance.engine
        self._device, self.parent = circumstance.device, circumstance.parent
        self.scratch = store.workspace / "scratch" / fingerprint
        self.scratch.mkdir(exist_ok=True)
        # Ranks on several machines may have the same process id.
        self.out = store.workspace / "tmp" / (f"{id}-{os.getpid()}" + (f"-{rank()}" if rank() else ""))
        remove_tree(self.out)
        self.out.mkdir()
        path = Path(os.devnull) if rank() else store.events_path(id)  # only the first rank speaks
        self.events = events or EventLog(path, id, circumstance.listeners)
        self._inputs = inputs
        self._stop = threading.Event()

    @cached_property
    def device(self) -> str:
        """`cpu` or `cuda`; looked up when first asked for, since the answer takes importing torch."""
        return resolve_device(self._device)

    def input(self, field: str) -> Artifact:
        """The artifact given for a field of the recipe; its checksums have been compared."""
        artifacts = self._inputs.get(field, [])
        if len(artifacts) != 1:
            raise BadUsage(f"{self.recipe.recipe} has {len(artifacts)} inputs for {field!r} and needs one")
        return artifacts[0]

    def inputs(self, field: str) -> list[Artifact]:
        """The artifacts given for a field that takes several (or none)."""
        return self._inputs.get(field, [])

    def announce_ready(self) -> None:
        """Tell the other ranks of this attempt that what was prepared is in the scratch folder."""
        if rank() == 0:
            atomic_write(self.scratch / ready_name(), self.id)

    def log(self, text: str) -> None:
        """Say something worth reading later."""
        self.events.emit("log", level="info", text=text)

    def warn(self, text: str) -> None:
        """Say something the user should act on."""
        self.events.emit("log", level="warning", text=text)

    def metrics(self, step: int, **values: float) -> None:
        """A point on the run's curves."""
        self.events.emit("metrics", step=step, **values)

    def progress(self, done: float, total: float, unit: str = "", **shown: Any) -> None:
        """How far the run is; rate and time left are worked out by whoever shows it."""
        self.events.emit("progress", done=done, total=total, unit=unit, **shown)

    @property
    def stopping(self) -> bool:
        """Whether the user asked to stop; save what should be kept, then call `check_stop`."""
        return self._stop.is_set()

    def check_stop(self) -> None:
        """Raise `Interrupted` when the user asked to stop. Call it where the state is safe on disk."""
        if self.stopping:
            raise Interrupted(
                f"{self.recipe.recipe} stopped at your request", hint="the same command continues from here"
            )

    def request_stop(self) -> None:
        """Ask the run to stop at its next safe point."""
        self._stop.set()


def resolve_device(device: str) -> str:
    """`auto` is cuda where there is one; a device that is not there is an error."""
    if device == "cpu":
        return "cpu"
    if device not in ("auto", "cuda"):
        raise BadUsage(f"--device {device!r} is not known", hint="use auto, cpu or cuda")
    import torch

    if torch.cuda.is_available():
        if "LOCAL_RANK" in os.environ:
            torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))  # "cuda" is this rank's own from now on
        return "cuda"
    if device == "cuda":
        raise BadUsage("--device cuda, and PyTorch sees no CUDA device", hint="`mojiang doctor` says what is missing")
    return "cpu"


def resolve_inputs(recipe: Recipe, store: Store) -> dict[str, list[Artifact]]:
    """The recipe's REFs as artifacts, of the right kinds."""
    kinds = recipe.input_fields()
    return {name: [store.get(ref, kinds[name].kind) for ref in refs] for name, refs in recipe.input_refs().items()}


def execute(
    recipe: Recipe, store: Store, *, name: str = "", seed: int = 0, device: str = "auto",
    circumstance: Circumstance | None = None,
) -> Outcome:  # fmt: skip
    """Run a recipe, or find what it made before.

    The fingerprint decides: an artifact that has it is reused; an unfinished run that has it is continued; another
    process that is making it is waited for.
    """
    circumstance = circumstance or Circumstance(device=device)
    started = time.monotonic()
    name = name or recipe.recipe.rpartition(".")[2]
    if not re.match(NAME, name):
        raise BadUsage(f"{name!r} cannot be a name", hint="use letters, digits, '.', '-' and '_'")
    inputs = resolve_inputs(recipe, store)
    parents = {field: [artifact.fingerprint for artifact in artifacts] for field, artifacts in inputs.items()}
    fingerprint = recipe.fingerprint(parents, seed)
    if rank() > 0:
        return _follow(recipe, store, inputs, fingerprint, seed, circumstance)
    with _making(store, fingerprint, circumstance):
        existing = store.by_fingerprint(fingerprint)
        if existing is not None:
            store.verify(existing)
            return Outcome(existing, existing.manifest.run, True, time.monotonic() - started)
        for artifact in (artifact for group in inputs.values() for artifact in group):
            store.verify(artifact)
        pinned = {field: [a.fingerprint for a in artifacts] for field, artifacts in inputs.items() if artifacts}
        config = {
            **recipe.model_dump(mode="json"),
            **{f: _like(getattr(recipe, f), refs) for f, refs in pinned.items()},
        }
        id = store.start_run(fingerprint, recipe.recipe, name, config, seed, circumstance.parent)
        artifact = _make(Run(id, recipe, store, inputs, seed, circumstance, fingerprint), name, parents, fingerprint)
        return Outcome(artifact, id, False, time.monotonic() - started)


def rehearse(run: Run, recipe: Recipe) -> None:
    """Run a recipe within `run` for what it prepares, and commit nothing.

    It works in the scratch folder of the run that is rehearsed, which finds there what is ready.
    """
    inputs = resolve_inputs(recipe, run.store)
    parents = {field: [artifact.fingerprint for artifact in artifacts] for field, artifacts in inputs.items()}
    fingerprint = recipe.fingerprint(parents, run.seed)
    here = replace(run.circumstance, parent=run.id, rehearsal=True)
    with _making(run.store, fingerprint, here):
        id = f"{run.id}-rehearsal"
        rehearsal = Run(id, recipe, run.store, inputs, run.seed, here, fingerprint, run.events)
        rehearsal._stop = run._stop
        try:
            recipe.run(rehearsal)
        finally:
            remove_tree(rehearsal.out)
            if run.store.by_fingerprint(fingerprint):  # made before: nobody will look for the scratch
                remove_tree(rehearsal.scratch)


def rank() -> int:
    """This process's number among those that torchrun or Slurm started; 0 when it is alone."""
    return int(os.environ.get("RANK", 0))


def ready_name() -> str:
    """A file in the scratch folder that exists once the first rank of this attempt has prepared everything."""
    attempt = (
        os.environ.get(name, "") for name in ("TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT", "MASTER_PORT")
    )
    return "ready-" + "-".join(attempt)


def _follow(
    recipe: Recipe, store: Store, inputs: dict[str, list[Artifact]], fingerprint: str, seed: int,
    circumstance: Circumstance,
) -> Outcome:  # fmt: skip
    """What every rank but the first does: compute with it, write nothing, and find the artifact it commits."""
    started = time.monotonic()
    ready = store.workspace / "scratch" / fingerprint / ready_name()
    while (existing := store.by_fingerprint(fingerprint)) is None and not ready.exists():
        time.sleep(0.05)
    if existing is None:
        silent = replace(circumstance, listeners=())
        run = Run(ready.read_text(), recipe, store, inputs, seed, silent, fingerprint)
        try:
            with stop_signals(run.request_stop), contextlib.suppress(Followed):
                recipe.run(run)
        finally:
            run.events.close()
            remove_tree(run.out)
        while (existing := store.by_fingerprint(fingerprint)) is None:
            time.sleep(0.05)
    return Outcome(existing, existing.manifest.run, True, time.monotonic() - started)


def _like(original: Any, refs: list[str]) -> Any:
    return refs[0] if isinstance(original, str) else refs


def _make(run: Run, name: str, parents: dict[str, list[str]], fingerprint: str) -> Artifact:
    """Run the recipe and commit what it wrote; on any failure say so in the store and keep the scratch."""
    recipe, store, started = run.recipe, run.store, time.monotonic()
    run.events.emit("status", status="running", recipe=recipe.recipe, name=name)
    try:
        with stop_signals(run.request_stop), explained_os_errors(f"running {recipe.recipe}"):
            metrics = recipe.run(run)
            manifest = Manifest(
                kind=recipe.makes, name=name, version=1, fingerprint=fingerprint,
                recipe=f"{recipe.recipe}@{recipe.version}", config=recipe.literals(), parents=parents, run=run.id,
                seed=run.seed if recipe.stochastic else None, created=now(),
                seconds=round(time.monotonic() - started, 3), metrics=metrics, files={}, software=software_versions(),
            )  # fmt: skip
            artifact = store.commit(run.out, manifest)
        remove_tree(run.scratch)
        store.end_run(run.id, "done")
        run.events.emit("status", status="done", ref=artifact.ref, seconds=manifest.seconds, metrics=metrics)
        if run.stopping and run.parent:  # asked too late for this step, in time for the pipeline
            raise KeyboardInterrupt
        return artifact
    except (KeyboardInterrupt, Interrupted) as error:
        if store.by_fingerprint(fingerprint) is None:
            _end(run, "interrupted", str(error) or "stopped by the user")
        raise error if isinstance(error, Interrupted) else Interrupted(
            f"{recipe.recipe} was stopped at once", hint="the same command continues from its last checkpoint"
        ) from error  # fmt: skip
    except MojiangError as error:
        _end(run, "failed", error.message)
        raise
    except Exception as error:
        _end(run, "failed", f"{type(error).__name__}: {error}")
        raise RunFailed(
            f"{recipe.recipe} failed: {type(error).__name__}: {error}",
            hint=f"`mojiang logs {run.id}` shows what it said; --debug shows the traceback",
        ) from error
    finally:
        remove_tree(run.out)
        with contextlib.suppress(OSError):
            run.events.close()


def _end(run: Run, status: str, error: str) -> None:
    """Say how the run ended. What it wrote goes first: on a full disk there is no room for words before that."""
    remove_tree(run.out)
    # Without room even then, the lock is free: the next command marks the run, and the error itself is what counts.
    with contextlib.suppress(OSError):
        run.events.emit("status", status=status, error=error)
        run.store.end_run(run.id, status, error)


@contextmanager
def _making(store: Store, fingerprint: str, circumstance: Circumstance) -> Iterator[None]:
    """Hold the lock on a fingerprint; say so when another process has it."""
    lock = store.lock(fingerprint)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        text = "another process is making exactly this; waiting for it"
        for listener in circumstance.listeners:
            listener(Event("log", circumstance.parent, {"level": "info", "text": text}))
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextmanager
def stop_signals(request_stop: Any) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks to stop; the second stops at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    asked = False

    def handle(signum: int, frame: Any) -> None:
        nonlocal asked
        if asked:
            raise KeyboardInterrupt
        asked = True
        request_stop()

    previous = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
