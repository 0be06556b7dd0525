"""The one dial: from minutes, machine and corpus to depth, width, batch and steps.

The choice minimises a predicted loss. Its form is that of Hoffmann et al. 2022 (parameters and tokens each to a power)
with repeated tokens counting less (Muennighoff et al. 2023); speed comes from steps timed on this machine.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mojiang.core.errors import Corrupted
from mojiang.core.files import atomic_write
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.tokenizer._pack import Rows
from mojiang.train._objective import CausalLM
from mojiang.train._optim import build_optimizers
from mojiang.train._settings import Optim

MIN_BYTES = 50_000
"""Less text than this teaches no model to beat gzip, whatever the time."""

# Hidden size and layers. Wide rather than deep: matrix units starve on narrow products.
LADDER = (
    (128, 3), (192, 3), (256, 4), (320, 4), (384, 5), (448, 6), (512, 7), (640, 9), (768, 12), (1024, 16), (1536, 20),
)  # fmt: skip
HEAD_DIM = 64
MAX_EPOCHS = 24
MAX_PARAMETERS_PER_TOKEN = 4  # of different text; beyond it a model learns the text by heart (not in the law below)

PARAMETER_TERM = (1.9, 0.33)  # excess loss of a finite model, (N / 1e6) to the minus power
TOKEN_TERM = (3.1, 0.40)  # excess loss of finite data, (D / 1e6) to the minus power
REPEAT_DECAY = 15.0  # epochs after which a repeated token is worth 1/e of a new one (Muennighoff et al.)


@dataclass(frozen=True)
class Shape:
    """Depth and width of a model."""

    hidden_size: int
    num_layers: int

    @property
    def num_heads(self) -> int:
        """Even, so that two cores share them; about two thirds of the hidden size, as attention is memory-bound."""
        return 2 * max(1, round(self.hidden_size / 192))

    def config(self, vocab_size: int, context: int, eos: int, pad: int) -> DecoderConfig:
        """The decoder of this shape; the vocabulary is padded to a multiple of 64 for the matrix units."""
        return DecoderConfig(
            vocab_size=-(-vocab_size // 64) * 64, hidden_size=self.hidden_size, num_hidden_layers=self.num_layers,
            num_attention_heads=self.num_heads, num_key_value_heads=self.num_heads, head_dim=HEAD_DIM,
            intermediate_size=3 * self.hidden_size, max_position_embeddings=context, eos_token_id=eos,
            bos_token_id=eos, pad_token_id=pad,
        )  # fmt: skip


@dataclass(frozen=True)
class Plan:
    """What was chosen for this machine, written to disk before the first step so that a resumed run keeps to it."""

    shape: Shape
    num_threads: int
    validation_tokens: int
    """About how many tokens of validation documents are measured each time."""

    def save(self, path: Path) -> None:
        """Write the plan, whole or not at all."""
        atomic_write(path, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """The plan written before."""
        try:
            values: dict[str, Any] = json.loads(path.read_text())
            return cls(**{**values, "shape": Shape(**values["shape"])})
        except (ValueError, TypeError, KeyError) as error:
            raise Corrupted(f"{path} cannot be read: {error}", hint="delete its folder and start again") from error


def predicted_loss(parameters: float, tokens: float, unique_tokens: float) -> float:
    """Excess nats per token, up to a constant, of a model of `parameters` (without embeddings) after `tokens`."""
    repeats = max(0.0, tokens / unique_tokens - 1)
    worth = min(tokens, unique_tokens) + unique_tokens * REPEAT_DECAY * (1 - math.exp(-repeats / REPEAT_DECAY))
    (a, alpha), (b, beta) = PARAMETER_TERM, TOKEN_TERM
    return float(a * (parameters / 1e6) ** -alpha + b * (worth / 1e6) ** -beta)


def choose_shape(unique_tokens: int, tokens_in_time: Callable[[Shape], float]) -> Shape:
    """The shape on the ladder whose predicted loss is lowest for the tokens it can see in the time there is."""

    def loss(shape: Shape) -> float:
        tokens = min(tokens_in_time(shape), MAX_EPOCHS * unique_tokens)
        return predicted_loss(block_parameters(shape), tokens, unique_tokens)

    shapes = [Shape(*rung) for rung in LADDER]
    fitting = [shape for shape in shapes if block_parameters(shape) <= MAX_PARAMETERS_PER_TOKEN * unique_tokens]
    return min(fitting or shapes[:1], key=loss)


def shape_for_corpus(unique_tokens: int) -> Shape:
    """The shape when steps are given: from the corpus alone, so that the same command gives the same model anywhere."""
    return choose_shape(unique_tokens, lambda _: 2.0 * unique_tokens)


def block_parameters(shape: Shape) -> int:
    """Parameters without the embeddings."""
    config = shape.config(64, 64, 0, 0)
    return config.num_parameters - 64 * shape.hidden_size


def time_step(config: DecoderConfig, rows: int, context: int, dtype: torch.dtype, device: str) -> float:
    """Seconds of an uncompiled training step (one micro-batch, with optimizer), the faster of two."""
    model = Decoder(config).init_weights(seed=0).to(device)
    model.compute_dtype = dtype
    optimizers = build_optimizers(model, Optim(optimizer="muon", learning_rate=1e-9), dtype)
    spans = np.stack([np.arange(rows), np.zeros(rows, int), np.full(rows, context)], axis=1)
    tokens = np.arange(rows * context).reshape(rows, context) % config.vocab_size
    batch = Rows(tokens, tokens, np.tile(np.arange(context), (rows, 1)), spans)
    objective, seconds = CausalLM(), []
    for _ in range(3):
        started = time.perf_counter()
        objective.losses(model, batch)["loss"].backward()  # type: ignore[no-untyped-call]
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - started)
    return min(seconds[1:])


def fastest_threads(most: int, config: DecoderConfig, rows: int, context: int, dtype: torch.dtype) -> int:
    """All cores, or one: where other programs hold a core, two threads that wait for each other lose to one alone."""
    seconds: dict[int, float] = {}
    for threads in {most, 1}:
        torch.set_num_threads(threads)
        seconds[threads] = time_step(config, rows, context, dtype, "cpu")
    return min(seconds, key=lambda threads: seconds[threads])


def probe_speed(vocab_size: int, rows: int, context: int, dtype: torch.dtype, device: str) -> Callable[[Shape], float]:
    """Times two shapes here; returns seconds per token for any shape, interpolated.

    A step costs memory traffic, proportional to layers times hidden size, and products, proportional to parameters (the
    head's included): two unknowns, two measurements.
    """
    probes = [Shape(128, 3), Shape(384, 3)]
    times = [
        time_step(s.config(vocab_size, context, 0, 0), rows, context, dtype, device) / rows / context for s in probes
    ]
    costs = np.array([_costs(s, vocab_size) for s in probes])
    traffic, products = np.linalg.solve(costs, times)
    if traffic < 0 or products < 0:  # noise; one proportional term is the honest fallback
        traffic, products = 0.0, max(t / c for t, c in zip(times, costs[:, 1], strict=True))
    return lambda shape: float(np.dot(_costs(shape, vocab_size), (traffic, products)))


def _costs(shape: Shape, vocab_size: int) -> tuple[float, float]:
    return shape.num_layers * shape.hidden_size, block_parameters(shape) + vocab_size * shape.hidden_size
