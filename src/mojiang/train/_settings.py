"""The settings every training recipe shares, in four groups; and what they come to on one machine.

A recipe has its own defaults for a group: `optim: Optim = Optim(learning_rate=5e-5)`. A user gives any of them by its
last name (`--learning-rate 1e-4`), see `mojiang.core.config.grouped`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from pydantic import Field, model_validator

from mojiang.core.config import Config

OptimizerName = Literal["muon", "adamw", "adamw8bit", "sgd", "rmsprop", "lamb"]
ScheduleName = Literal["wsd", "cosine", "linear", "constant", "step", "onecycle", "plateau"]


class Length(Config):
    """How long to train: exactly one of the three."""

    epochs: float | None = Field(None, gt=0, le=10_000)
    """Passes over the data."""
    steps: int | None = Field(None, ge=1)
    """Optimizer steps."""
    minutes: float | None = Field(None, gt=0, le=60 * 24 * 30)
    """Wall-clock minutes for the whole step, compiling included; the number of steps is found by timing a few."""

    @classmethod
    def over(cls, default: Config, given: Mapping[str, Any]) -> dict[str, Any]:
        """Naming one length puts it in the place of the recipe's own."""
        return dict(given) if any(value is not None for value in given.values()) else default.model_dump()

    @model_validator(mode="after")
    def _one_length(self) -> Length:
        if sum(value is not None for value in (self.epochs, self.steps, self.minutes)) != 1:
            raise ValueError("give exactly one of epochs, steps and minutes")
        return self


class Optim(Config):
    """How a gradient becomes a step."""

    optimizer: OptimizerName = "adamw"
    """muon: Muon for the matrices inside the blocks with AdamW for the rest; adamw8bit keeps its state in 8 bits."""
    learning_rate: float = Field(3e-4, gt=0)
    """Peak rate; with muon that of the matrices (about 0.02 from scratch, 0.004 when fine-tuning)."""
    embedding_learning_rate: float | None = Field(None, gt=0)
    """Peak rate of embeddings, norms and biases; left out: the same as the matrices', with muon 0.06 times it."""
    weight_decay: float = Field(0.0, ge=0)
    """Decoupled, on the matrices."""
    momentum: float = Field(0.9, ge=0, lt=1)
    """Of sgd and rmsprop; the first beta of adamw and lamb."""
    beta2: float = Field(0.95, gt=0, lt=1)
    """The second beta of adamw and lamb, and rmsprop's smoothing."""
    schedule: ScheduleName = "wsd"
    """wsd: warm up, hold, fall; plateau lowers the rate when validation stops improving."""
    warmup_steps: int = Field(20, ge=0)
    """Steps until the peak rate; at most a tenth of all."""
    decay_share: float = Field(0.7, gt=0, le=1)
    """Share of the steps, at the end, over which wsd falls to zero; with step, the share between two halvings."""
    clip: float = Field(1.0, ge=0)
    """Longest gradient over all parameters; 0 for no clipping."""
    average: float = Field(0.0, ge=0, lt=1)
    """Decay of an exponential moving average of the weights, which is then what is validated and saved; 0 for none."""


def rate_from_scratch(values: Any, rate: float) -> Any:
    """A recipe's plain settings with this learning rate, where a network from scratch is asked for and no rate given.

    >>> rate_from_scratch({"architecture": "lstm"}, 1e-3)
    {'architecture': 'lstm', 'learning_rate': 0.001}
    """
    if not isinstance(values, Mapping) or not values.get("architecture"):
        return values
    optim = values.get("optim") or {}
    given = isinstance(optim, Optim) or "learning_rate" in {*values, *optim}
    return values if given else {**values, "learning_rate": rate}


def check_one_start(model: str | None, tokenizer: str | None, architecture: str | None) -> None:
    """Raise `ValueError` unless a network is fine-tuned, or trained from scratch on a tokenizer's ids."""
    if (model is None) == (tokenizer is None) or (architecture is None) == (model is None):
        raise ValueError("give either a model to fine-tune, or a tokenizer and an architecture to train from scratch")


class AdapterSettings(Config):
    """A low-rank adapter in the place of training all weights."""

    rank: int = Field(0, ge=0, le=4096)
    """Rank of the update; 0 trains all weights."""
    alpha: float = Field(32.0, gt=0)
    """The update is scaled by alpha / rank (rslora: alpha / √rank)."""
    targets: tuple[str, ...] = ()
    """Last names of the projections that get an adapter, such as q_proj; none given: all inside the blocks."""
    rslora: bool = False
    """Rank-stabilised scaling."""
    dora: bool = False
    """Weight-decomposed adapters: a trained magnitude per output."""
    dropout: float = Field(0.0, ge=0, lt=1)
    """Of the adapters' inputs."""
    base: Literal["auto", "fp32", "nf4"] = "auto"
    """How the frozen weights are held: auto in the dtype of the products, nf4 in 4 bits (QLoRA)."""


class Compute(Config):
    """How the work is done; changes speed, memory and rounding, not what is trained."""

    precision: Literal["auto", "fp32", "bf16", "fp16", "fp8"] = "auto"
    """Of activations and products; masters stay fp32. fp8: products inside the blocks, else bf16. auto: bf16 where the
    hardware multiplies it, and fp8 where that was measured to be faster."""
    compile: Literal["auto", "on", "off"] = "auto"
    """torch.compile; auto: when the run is long enough to earn the compile time back."""
    micro: int | None = Field(None, ge=1)
    """Tokens (images: rows) in memory at once; left out: as many as fit. Does not change the result."""
    parallel: Literal["ddp", "fsdp", "tensor", "pipeline"] = "ddp"
    """With several ranks: the whole model on each, a slice of each weight (fsdp), a part of each layer (tensor), or
    some of the layers (pipeline)."""
    checkpointing: Literal["none", "selective", "full"] = "none"
    """Activation checkpointing: recompute everything but matrix products (selective) or all of a block (full)."""


class Watch(Config):
    """What is looked at on the way."""

    validations: int = Field(4, ge=0, le=1000)
    """Times the validation split is measured, evenly spaced."""
    patience: int = Field(0, ge=0)
    """Stop after so many validations without a better one; 0 for never."""
    keep_best: bool = False
    """Save the weights of the best validation instead of the last; with patience always."""
    sentinel: bool = True
    """Stop when the loss leaves its course (NaN, a lasting spike) and keep the evidence."""

    def when(self, there: bool) -> Watch:
        """The same, but without validations where there is no validation split."""
        return self if there else self.model_copy(update={"validations": 0, "patience": 0, "keep_best": False})

    @property
    def restores_best(self) -> bool:
        """Whether the best weights are what is saved."""
        return self.keep_best or self.patience > 0


@dataclass(frozen=True)
class Settings:
    """What decides the weights besides model, data and seed; saved before the first step and kept on resume."""

    num_steps: int
    batch_rows: int
    micro: int
    """Budget of a micro-batch, in the unit of the batch's own `micro`."""
    optim: Optim
    watch: Watch
    precision: str = "fp32"
    compile: bool = False
    checkpointing: str = "none"
    num_threads: int = 1
    context: int = 0
    """Longest sequence, for the FLOPs of attention."""
    row_cost: int = 0
    """What a row costs on average, in the unit of `micro`; 0 when it is `context`."""
    peak_flops: float = 0.0
    """FLOP/s of the fastest matrix product measured here; 0 leaves MFU out."""

    @property
    def at_once(self) -> int:
        """Budget of a micro-batch where nothing is trained: no more than training takes, in memory and in shape."""
        batch = self.batch_rows * (self.row_cost or self.context)
        return min(self.micro, batch) if batch else self.micro

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "optim": self.optim.model_dump(), "watch": self.watch.model_dump()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Settings:
        """The settings that `to_dict` wrote."""
        optim, watch = Optim.model_validate(values["optim"]), Watch.model_validate(values["watch"])
        return cls(**{**values, "optim": optim, "watch": watch})
