"""What every network is, whatever its architecture: a config in Hugging Face's words, and blocks.

Training compiles, checkpoints and shards a network block by block; loading and saving need nothing but its config and
its parameter names, which are those of Hugging Face's checkpoint files.
"""

from __future__ import annotations

from dataclasses import MISSING, dataclass, field, fields
from typing import Any, ClassVar, Literal, Self, get_args

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput

Head = Literal[
    "causal_lm", "masked_lm", "pretraining", "seq2seq_lm", "sequence_classification", "token_classification",
    "question_answering", "image_classification", "embedding",
]  # fmt: skip
"""What a network computes from its hidden states; `embedding` is the hidden states themselves."""
HEADS: tuple[Head, ...] = get_args(Head)


@dataclass(frozen=True)
class HFConfig:
    """Part of every architecture's config: fields named as in `config.json`, and what was there besides.

    A subclass adds its fields with Hugging Face's defaults, names its `MODEL_TYPE`, and refuses in `check` what it does
    not compute: weights that load and then give other numbers are the worst of errors.
    """

    MODEL_TYPE: ClassVar[str] = ""
    CLASSES: ClassVar[dict[str, str]] = {}
    """Head → name of the class in `architectures`."""

    head: Head = field(default="embedding", kw_only=True)
    num_labels: int = field(default=2, kw_only=True)
    id2label: dict[int, str] | None = field(default=None, kw_only=True)
    extra: dict[str, Any] = field(default_factory=dict, kw_only=True, compare=False)
    """Keys of `config.json` that change nothing computed here; written back as they were."""

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "embedding", num_labels: int | None = None) -> Self:
        """Read the keys this architecture knows.

        Raises:
            BadInput: a needed key is missing, or the config asks for something this architecture does not compute.
        """
        known = {f.name: f for f in fields(cls) if f.name not in ("head", "num_labels", "id2label", "extra")}
        ours = {*known, "num_labels", "id2label", "label2id", "architectures", "model_type", "dtype", "torch_dtype"}
        missing = [n for n, f in known.items() if n not in config and f.default is f.default_factory is MISSING]
        if missing:
            raise BadInput(f"config.json lacks {', '.join(missing)}", hint="they are needed to build the model")
        labels = {int(n): str(label) for n, label in (config.get("id2label") or {}).items()}
        if num_labels is None:
            num_labels = len(labels) or config.get("num_labels", 2)
        named = bool(labels) and "classification" in head and len(labels) == num_labels
        read = cls(
            **{name: config[name] for name in known if name in config},
            head=head,
            num_labels=num_labels,
            id2label=labels if named else None,
            extra={key: value for key, value in config.items() if key not in ours},
        )
        read.check()
        return read

    def check(self) -> None:
        """Raise `BadInput` for a setting this architecture does not compute."""

    def to_hf(self) -> dict[str, Any]:
        """The `config.json` that `transformers` and what follows it read."""
        own = {f.name: getattr(self, f.name) for f in fields(self) if f.name not in ("head", "num_labels", "extra")}
        labels = own.pop("id2label")
        if "classification" in self.head:
            labels = labels or {n: f"LABEL_{n}" for n in range(self.num_labels)}
            own["id2label"] = {str(n): label for n, label in labels.items()}
            own["label2id"] = {label: n for n, label in labels.items()}
        names = {"architectures": [self.architecture], "model_type": getattr(self, "model_type", self.MODEL_TYPE)}
        return {**self.extra, **own, **names, "dtype": "float32", "torch_dtype": "float32"}

    @property
    def architecture(self) -> str:
        """Name of the class in `architectures`."""
        return self.CLASSES[self.head]


class Network(nn.Module):
    """A model that Mojiang trains, saves and loads.

    Its weights are fp32 masters; `compute_dtype` is the dtype of activations, to which each layer casts its weights.
    Tied weights are one parameter under several names, the one that files keep first. There are no buffers but those
    that files hold: models are made without storage and then filled.
    """

    config: Any
    prefix: str = ""
    """Where the weights without a head live ("bert", "transformer"). Files of models without a head leave it out."""
    other_heads: tuple[str, ...] = ()
    """How names begin of heads that files may hold besides the one they name (official BERTs do)."""

    def __init__(self) -> None:
        super().__init__()
        self.compute_dtype = torch.float32

    def blocks(self) -> list[nn.Module]:
        """The repeated layers, in order: compiled, checkpointed and sharded one by one."""
        raise TypeError(f"{type(self).__name__} does not name its blocks")

    @torch.no_grad()
    def init_weights(self, seed: int) -> Self:
        """Initialise in place, the same on every device and thread count; returns the network."""
        generator = torch.Generator().manual_seed(seed)
        for name, parameter in self.named_parameters():
            self.init_parameter(name, parameter, generator)
        return self

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """Initialise one parameter: norms with 1, biases with 0, the rest from a normal distribution.

        Its deviation is the config's `initializer_range`, as in most architectures of Hugging Face.
        """
        if name.endswith("bias"):
            parameter.zero_()
        elif parameter.dim() < 2:
            parameter.fill_(1.0)
        else:
            std = getattr(self.config, "initializer_range", 0.02)
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * std)

    def head_names(self) -> set[str]:
        """Names that belong to the head: those a checkpoint with another head need not have. All outside `prefix`."""
        return {name for name in self.state_dict() if not name.startswith(f"{self.prefix}.")}

    def legacy_names(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """A checkpoint's tensors under today's names: where older files name, duplicate or add something."""
        return state

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    def head_input(self, hidden: Tensor) -> Tensor:
        """What the vocabulary projection `head` reads, from final hidden states (…, D)."""
        return hidden

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection of a language model."""
        raise TypeError(f"{type(self).__name__} with head {self.config.head!r} has no vocabulary projection")

    def logits(self, hidden: Tensor) -> Tensor:
        """Scores over the vocabulary for final hidden states (…, D) → (…, V)."""
        scores: Tensor = self.head(self.head_input(hidden))
        return scores

    def scores(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the labels, from final hidden states; what their shape is depends on the head."""
        raise TypeError(f"{type(self).__name__} with head {self.config.head!r} has no labels")

    def num_parameters(self) -> int:
        """Parameters, shared ones counted once."""
        return sum(parameter.numel() for parameter in self.parameters())
