"""Where the time of a training step goes: some steps under torch.profiler, sorted out by kind of work.

What is counted is the time of an operator itself, without the operators it calls, so the shares of all kinds add up to
the steps' whole time. What no operator accounts for is Python: interpreting, and handing work to the device.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile, record_function

from mojiang.core.report import Finding, Report, Table
from mojiang.train._batches import Source

if TYPE_CHECKING:
    from mojiang.train._loop import Training

WARM_UP: Final = 3
"""Steps before the profile: the first ones fill caches and allocate."""
CPU, CUDA = DeviceType.CPU, DeviceType.CUDA
STEP, DATA = "mojiang::step", "mojiang::data"
PYTHON, IDLE = "Python", "device idle"
LARGEST = 15
"""Operators in the table."""
WORTH_A_WORD = 0.2
"""Share of the time from which on there is advice; the largest kind always has it."""

KINDS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("data", (DATA,)),
    ("optimizer", ("Optimizer.step", "Optimizer.zero_grad")),
    ("communication", ("nccl", "gloo", "c10d::", "record_param_comms")),
    ("attention", ("attention", "flash", "varlen")),
    ("matrix products", ("mm", "matmul", "linear", "conv", "gemm", "einsum", "lstm", "gru", "_rnn")),
    ("compiled kernels", ("triton", "graph_", "compiled", "inductor", "cpp_fused")),
    ("embeddings", ("embedding", "index_select", "index_add", "index_put", "gather", "scatter")),
    ("copies and casts", ("copy", "_to_copy", "contiguous", "cat", "clone", "fill_", "zero_", "memcpy", "memset")),
    ("loss", ("softmax", "nll_loss", "cross_entropy", "logsumexp")),
)
"""Kind → words in the name of an operator, or of one it is called by; the first kind that fits."""
INHERITED: Final = {"data", "optimizer", "attention", "communication"}
"""Kinds that an operator has from whoever calls it."""
OTHER = "norms, activations and sums"

ADVICE: Final = {
    "matrix products": "this is what training is made of; it gets faster by a lower precision where the hardware "
    "multiplies it (--precision bf16), or a smaller model, and hardly otherwise",
    "attention": "it grows with the square of a row's length: shorter rows (--context), or packed ones with shorter "
    "documents",
    "optimizer": "its cost per step is fixed: a larger batch makes fewer steps of the same data, and adamw costs less "
    "than muon",
    PYTHON: "operators are too small to keep the processor busy: more rows at once (--micro, --batch-size), or "
    "--compile on; profiling makes this share look larger than it is",
    IDLE: "the device waits for Python: more rows at once (--micro, --batch-size), or --compile on",
    "data": "batches are made between the steps: shorter texts or smaller images, fewer random changes to them",
    "communication": "ranks wait for each other: a larger batch per rank, or ddp instead of fsdp where the model fits",
    "copies and casts": "activations are moved or cast; --precision fp32 avoids casts, --compile on fuses them",
    "embeddings": "reading and above all adding up rows of a large vocabulary; a smaller vocabulary helps",
    "loss": "the softmax over the vocabulary; a smaller vocabulary, or fewer trained tokens",
    "compiled kernels": "the compiler has fused this work already; what is left is a smaller model or batch",
    OTHER: "many passes over the activations: --compile on fuses them",
}


@dataclass
class Cost:
    """Time by kind of work and by operator, in microseconds."""

    kinds: dict[str, float] = field(default_factory=dict)
    operators: dict[tuple[str, str], tuple[float, int]] = field(default_factory=dict)

    def add(self, kind: str, name: str, spent: float) -> None:
        """Count an operator."""
        self.kinds[kind] = self.kinds.get(kind, 0.0) + spent
        before, calls = self.operators.get((name, kind), (0.0, 0))
        self.operators[name, kind] = (before + spent, calls + 1)


@contextmanager
def profiled(training: Training, source: Source) -> Iterator[tuple[Source, Callable[[], None]]]:
    """The source, and what to call after each step; they do something only when the run is to be profiled."""
    num_steps = training.run.circumstance.profile
    if num_steps < 1 or not training.world.is_first:
        yield source, _nothing
        return
    watch = _Watch(training, source, num_steps)
    try:
        yield watch, watch.stepped
    finally:
        watch.finish()


def _nothing() -> None:
    """What a step costs that nobody profiles."""


class _Watch:
    """A source that marks where a step begins, and counts steps until the profile is full."""

    def __init__(self, training: Training, source: Source, num_steps: int) -> None:
        self.training, self.source, self.num_steps = training, source, num_steps
        self.seen, self.done = 0, False
        self.plain: list[float] = []
        self.profiler: profile | None = None
        self.range: Any = None

    @property
    def steps_per_epoch(self) -> float:
        return self.source.steps_per_epoch

    def batch(self, step: int) -> Any:
        """The batch of a step, which begins here."""
        if self.done:
            return self.source.batch(step)
        if self.seen == WARM_UP and self.profiler is None:
            activities = [ProfilerActivity.CPU]
            if self.training.run.device == "cuda":
                activities.append(ProfilerActivity.CUDA)
            self.profiler = profile(activities=activities)
            self.profiler.start()
        self.began = time.perf_counter()
        if self.profiler is None:
            return self.source.batch(step)
        self.range = record_function(STEP)
        self.range.__enter__()
        with record_function(DATA):
            return self.source.batch(step)

    def stepped(self) -> None:
        """A step is over."""
        if self.done:
            return
        if self.range is not None:
            self.range.__exit__(None, None, None)
            self.range = None
        else:
            self.plain.append(time.perf_counter() - self.began)
        self.seen += 1
        if self.seen == WARM_UP + self.num_steps:
            self.finish()

    def finish(self) -> None:
        """Write what was seen; say so when the training was too short to see anything."""
        if self.done:
            return
        self.done, run = True, self.training.run
        if self.profiler is None:
            run.warn(f"nothing was profiled: the first {WARM_UP} steps are not, and there were no more")
            return
        if self.range is not None:
            self.range.__exit__(None, None, None)
        self.profiler.stop()
        folder = run.store.events_path(run.id).parent / "profile"
        folder.mkdir(exist_ok=True)
        self.profiler.export_chrome_trace(str(folder / "trace.json"))
        events: Any = self.profiler.events()  # type: ignore[no-untyped-call]
        report = summarize(events or (), sorted(self.plain)[len(self.plain) // 2])
        report.save(folder)
        run.log(f"{as_text(report)}\ntimeline: {folder / 'trace.json'} (open it in ui.perfetto.dev)")


def kind_of(name: str) -> str:
    """The kind of work that an operator's name stands for.

    >>> kind_of("aten::addmm"), kind_of("aten::add"), kind_of("aten::_scaled_dot_product_flash_attention_for_cpu")
    ('matrix products', 'norms, activations and sums', 'attention')
    """
    lowered = name.lower()
    for kind, words in KINDS:
        if any(word.lower() in lowered for word in words):
            return kind
    return OTHER


def cost_of(events: Iterable[Any]) -> tuple[Cost, list[float]]:
    """Time of everything inside of steps, and each step's time, from a profiler's events, in microseconds."""
    cost, steps = Cost(), list[float]()
    for event in events:
        if event.name == STEP and event.device_type == CPU:
            steps.append(event.cpu_time_total)
        callers = [event]
        while callers[-1].cpu_parent is not None:
            callers.append(callers[-1].cpu_parent)
        if callers[-1].name != STEP or event.device_type != CPU:
            continue
        kind = PYTHON if event.name == STEP else kind_of(event.name)
        inherited = (found for caller in callers[1:] if (found := kind_of(caller.name)) in INHERITED)
        cost.add(next(inherited, kind), event.name, event.self_cpu_time_total)
    return cost, steps


def device_cost(events: Iterable[Any], seconds: float) -> Cost:
    """The same of kernels on a device; what is left of the steps' time the device was idle."""
    cost = Cost()
    for event in events:
        if event.device_type == CUDA and not event.is_user_annotation:
            cost.add(kind_of(event.name), event.name, event.self_device_time_total)
    cost.kinds[IDLE] = max(0.0, seconds * 1e6 - sum(cost.kinds.values()))
    return cost


def summarize(events: Iterable[Any], plain_seconds: float) -> Report:
    """Shares of each kind of work, the operators that take longest, and what could be done.

    Args:
        plain_seconds: of a step without the profiler, to say how much it slows down what it measures.
    """
    listed = list(events)
    cost, steps = cost_of(listed)
    seconds = sum(steps) / 1e6
    if any(event.device_type == CUDA for event in listed):
        cost = device_cost(listed, seconds)
    ranked = sorted(cost.kinds.items(), key=lambda item: -item[1])
    whole = max(sum(cost.kinds.values()), 1e-9)
    slow = sorted(cost.operators.items(), key=lambda item: -item[1][0])[:LARGEST]
    per_step = seconds / max(1, len(steps))
    kinds = [
        [kind, round(spent / 1e3 / max(1, len(steps)), 3), round(100 * spent / whole, 1)] for kind, spent in ranked
    ]
    operators = [
        [name, kind, calls, round(spent / 1e3 / max(1, len(steps)), 3), round(100 * spent / whole, 1)]
        for (name, kind), (spent, calls) in slow
    ]
    heavy = [kind for number, (kind, spent) in enumerate(ranked) if number == 0 or spent >= WORTH_A_WORD * whole]
    findings = [Finding(level="info", text=f"{kind}: {ADVICE[kind]}") for kind in heavy]
    if per_step > 1.2 * plain_seconds:
        text = (
            f"profiled steps took {per_step / plain_seconds:.1f} times as long as others; small operators suffer most"
        )
        findings.append(Finding(level="warning", text=text))
    scalars = {f"share_{kind.replace(' ', '_').replace(',', '')}": spent / whole for kind, spent in ranked}
    largest = ranked[0] if ranked else (PYTHON, 0.0)
    return Report(
        title="Where a training step's time goes",
        scalars={"steps": len(steps), "step_seconds": per_step, "step_seconds_unprofiled": plain_seconds, **scalars},
        tables=[
            Table(title="kinds of work", columns=["kind", "ms a step", "%"], rows=kinds),
            Table(title="operators", columns=["operator", "kind", "calls", "ms a step", "%"], rows=operators),
        ],
        findings=findings,
        verdict=f"{largest[0]} takes {100 * largest[1] / whole:.0f} % of a step of {1e3 * per_step:.1f} ms",
    )


def as_text(report: Report) -> str:
    """The first table, the verdict and the findings as lines."""
    lines = [f"profile of {report.scalars['steps']:.0f} steps: {report.verdict}"]
    lines += [f"  {kind:<28} {spent:>10.2f} ms {share:>6.1f} %" for kind, spent, share in report.tables[0].rows]
    return "\n".join([*lines, *(f"  {finding.level}: {finding.text}" for finding in report.findings)])
