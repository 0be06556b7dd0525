"""TextCNN (Kim 2014): convolutions over word vectors, the largest value of each feature, a linear classifier.

Each token has its window, centred on it and reaching over the ends of the text, where there are zeros. A text's scores
therefore depend on nothing but the text: not on the padding, and not on what is packed beside it.

Tensor names carry their shape:
    B rows · T positions · N texts · L positions of the longest text · E embedding size · D features
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Dropout, Embedding, Linear
from mojiang.model._sequences import drop_pooled, init_parameter, pool, repack, spans_of, unpack
from mojiang.model.network import Head, HFConfig, Network


@dataclass(frozen=True)
class TextCNNConfig(HFConfig):
    """The shape of a TextCNN; the defaults are Kim's."""

    MODEL_TYPE: ClassVar[str] = "textcnn"
    CLASSES: ClassVar[dict[str, str]] = {"sequence_classification": "MojiangTextCNN"}

    vocab_size: int
    embedding_size: int = 300
    filter_sizes: tuple[int, ...] = (3, 4, 5)
    num_filters: int = 100
    dropout: float = 0.5
    head: Head = field(default="sequence_classification", kw_only=True)

    def check(self) -> None:
        """Raise `BadInput` for windows without a token."""
        if not self.filter_sizes or min(self.filter_sizes) < 1:
            raise BadInput(f"filter_sizes is {self.filter_sizes}", hint="give window lengths in tokens, at least 1")


class Conv1d(nn.Conv1d):
    """One window per position, with zeros beyond the ends; the fp32 master weight is cast to the input's dtype."""

    def forward(self, x_NEL: Tensor) -> Tensor:
        """(N, inputs, L) → (N, outputs, L)."""
        assert self.bias is not None
        width = self.kernel_size[0]
        padded = F.pad(x_NEL, ((width - 1) // 2, width // 2))
        return F.conv1d(padded, self.weight.to(x_NEL.dtype), self.bias.to(x_NEL.dtype))


class TextCNN(Network):
    """A text classifier.

    >>> model = TextCNN(TextCNNConfig(vocab_size=50, embedding_size=8, num_filters=4)).init_weights(seed=0)
    >>> hidden_BTD = model(torch.zeros(2, 9, dtype=torch.long))
    >>> tuple(hidden_BTD.shape), tuple(model.scores(hidden_BTD).shape)
    ((2, 9, 12), (2, 2))
    """

    config: TextCNNConfig

    def __init__(self, config: TextCNNConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.embedding_size)
        self.convolutions = nn.ModuleList(
            Conv1d(config.embedding_size, config.num_filters, width) for width in config.filter_sizes
        )
        self.dropout = Dropout(config.dropout)
        self.classifier = Linear(config.num_filters * len(config.filter_sizes), config.num_labels, bias=True)

    @classmethod
    def from_hf(
        cls, config: dict[str, Any], head: Head = "sequence_classification", num_labels: int | None = None
    ) -> Self:
        """The network of a `config.json`, with arbitrary weights."""
        # JSON has lists where a frozen config has tuples
        sizes = {"filter_sizes": tuple(config["filter_sizes"])} if "filter_sizes" in config else {}
        return cls(TextCNNConfig.from_hf({**config, **sizes}, head, num_labels))

    def blocks(self) -> list[nn.Module]:
        """The convolutions, which stand beside each other."""
        return list(self.convolutions)

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:
        """Features of each token's windows, (B, T, D), 0 outside the texts.

        `mask` is boolean, one run of True per row, or spans (N, 3) of (row, start, stop); None: rows are full.
        Positions and segments, which other networks read, change nothing here: the order of the tokens says enough.
        """
        spans_N3 = spans_of(mask, tokens_BT)
        tokens_NL, valid_NL = unpack(tokens_BT, spans_N3)
        x_NLE = self.embedding(tokens_NL, self.compute_dtype) * valid_NL[..., None]
        features = [F.relu(convolution(x_NLE.mT)) for convolution in self.convolutions]
        return repack(torch.cat(features, dim=1).mT, valid_NL, spans_N3, tokens_BT)

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the classes, (N, labels), in fp32: one text per non-empty span, or per row without spans."""
        spans_N3 = spans_of(mask, hidden_BTD)
        largest_ND = pool(*unpack(hidden_BTD, spans_N3), "max").float()
        scores: Tensor = self.classifier(drop_pooled(self.dropout, largest_ND, hidden_BTD, spans_N3))
        return scores

    def head_names(self) -> set[str]:
        """The classifier's."""
        return {name for name in self.state_dict() if name.startswith("classifier.")}

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As all networks without attention begin."""
        init_parameter(name, parameter, generator)
