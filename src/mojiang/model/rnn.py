"""Recurrent text classifiers: LSTM or GRU, in one direction or both, over word vectors.

A text's scores depend on nothing but the text: not on the padding, and not on what is packed beside it.

Tensor names carry their shape:
    B rows · T positions · N texts · L positions of the longest text · E embedding size · D features
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Dropout, Embedding, Linear
from mojiang.model._sequences import (
    CELLS,
    POOLINGS,
    Cell,
    Pooling,
    Recurrence,
    drop_pooled,
    init_parameter,
    pool,
    repack,
    spans_of,
    unpack,
)  # fmt: skip
from mojiang.model.network import Head, HFConfig, Network


@dataclass(frozen=True)
class RNNConfig(HFConfig):
    """The shape of a recurrent classifier.

    `pooling` is what a text is summarised by: `last` (the last state, and the first of the way back), `max` or `mean`.
    `hidden_size` is the state's size in one direction.
    """

    MODEL_TYPE: ClassVar[str] = "rnn"
    CLASSES: ClassVar[dict[str, str]] = {"sequence_classification": "MojiangRNN"}

    vocab_size: int
    embedding_size: int = 300
    hidden_size: int = 256
    num_layers: int = 1
    cell: Cell = "lstm"
    bidirectional: bool = True
    pooling: Pooling = "max"
    dropout: float = 0.3
    head: Head = field(default="sequence_classification", kw_only=True)

    def check(self) -> None:
        """Raise `BadInput` for an unknown cell or pooling."""
        if self.cell not in CELLS:
            raise BadInput(f"cell is {self.cell!r}", hint=f"known are {', '.join(CELLS)}")
        if self.pooling not in POOLINGS:
            raise BadInput(f"pooling is {self.pooling!r}", hint=f"known are {', '.join(POOLINGS)}")

    @property
    def feature_size(self) -> int:
        """Features of a position: the states of all directions."""
        return self.hidden_size * (2 if self.bidirectional else 1)


class RNN(Network):
    """A text classifier.

    >>> model = RNN(RNNConfig(vocab_size=50, embedding_size=8, hidden_size=4)).init_weights(seed=0)
    >>> hidden_BTD = model(torch.zeros(2, 9, dtype=torch.long))
    >>> tuple(hidden_BTD.shape), tuple(model.scores(hidden_BTD).shape)
    ((2, 9, 8), (2, 2))
    """

    config: RNNConfig

    def __init__(self, config: RNNConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.embedding_size)
        self.recurrence = Recurrence(
            config.cell, config.embedding_size, config.hidden_size, config.num_layers, config.bidirectional
        )
        self.embedding_dropout, self.dropout = Dropout(config.dropout), Dropout(config.dropout)
        self.classifier = Linear(config.feature_size, config.num_labels, bias=True)

    @classmethod
    def from_hf(
        cls, config: dict[str, Any], head: Head = "sequence_classification", num_labels: int | None = None
    ) -> Self:
        """The network of a `config.json`, with arbitrary weights."""
        return cls(RNNConfig.from_hf(config, head, num_labels))

    def blocks(self) -> list[nn.Module]:
        """None: a recurrence is one fused kernel already, which a compiler would only take apart."""
        return []

    def forward(
        self,
        tokens_BT: Tensor,
        positions_BT: Tensor | None = None,
        mask: Tensor | None = None,
        segments_BT: Tensor | None = None,
    ) -> Tensor:
        """States at each token, (B, T, D), 0 outside the texts.

        `mask` is boolean, one run of True per row, or spans (N, 3) of (row, start, stop); None: rows are full.
        Positions and segments, which other networks read, change nothing here: the order of the tokens says enough.
        """
        spans_N3 = spans_of(mask, tokens_BT)
        x_BTE = self.embedding_dropout(self.embedding(tokens_BT, self.compute_dtype))
        x_NLE, valid_NL = unpack(x_BTE, spans_N3)
        return repack(self.recurrence(x_NLE, valid_NL), valid_NL, spans_N3, tokens_BT)

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Scores of the classes, (N, labels), in fp32: one text per non-empty span, or per row without spans."""
        spans_N3 = spans_of(mask, hidden_BTD)
        texts_NLD, valid_NL = unpack(hidden_BTD.float(), spans_N3)
        summary_ND = drop_pooled(self.dropout, self._summary(texts_NLD, valid_NL), hidden_BTD, spans_N3)
        scores: Tensor = self.classifier(summary_ND)
        return scores

    def _summary(self, texts_NLD: Tensor, valid_NL: Tensor) -> Tensor:
        if self.config.pooling != "last":
            return pool(texts_NLD, valid_NL, self.config.pooling)
        last_N = (valid_NL.sum(1) - 1).clamp(min=0)
        last_ND = texts_NLD[torch.arange(len(last_N), device=last_N.device), last_N]
        size = self.config.hidden_size
        return torch.cat([last_ND[:, :size], texts_NLD[:, 0, size:]], dim=1)

    def head_names(self) -> set[str]:
        """The classifier's."""
        return {name for name in self.state_dict() if name.startswith("classifier.")}

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As all networks without attention begin."""
        init_parameter(name, parameter, generator, self.config.cell)
