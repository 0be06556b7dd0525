"""BiLSTM-CRF (Huang et al. 2015; Lample et al. 2016): a tagger that scores the labels of a whole sequence together.

Tensor names carry their shape:
    B rows · T positions · N sequences · L positions of the longest sequence · E embedding size · D features · C labels
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._crf import CRF, IGNORED, illegal_transitions
from mojiang.model._layers import Dropout, Embedding, Linear
from mojiang.model._sequences import Recurrence, init_parameter, repack, spans_of, unpack
from mojiang.model.network import Head, HFConfig, Network


@dataclass(frozen=True)
class BiLSTMCRFConfig(HFConfig):
    """The shape of a BiLSTM-CRF. `hidden_size` is the state's size in one direction.

    With a `scheme` (`bio`, `bioes` or `bmes`), sequences that `id2label` and the scheme make illegal are not decoded.
    """

    MODEL_TYPE: ClassVar[str] = "bilstm_crf"
    CLASSES: ClassVar[dict[str, str]] = {"token_classification": "MojiangBiLSTMCRF"}

    vocab_size: int
    embedding_size: int = 100
    hidden_size: int = 128
    num_layers: int = 1
    dropout: float = 0.5
    scheme: str | None = None
    head: Head = field(default="token_classification", kw_only=True)

    def check(self) -> None:
        """Raise `BadInput` for a scheme that is unknown or does not fit the labels."""
        if self.scheme is not None:
            self.illegal()

    def illegal(self) -> tuple[Tensor, Tensor, Tensor] | None:
        """What the scheme forbids, as `illegal_transitions` gives it; None without a scheme."""
        if self.scheme is None:
            return None
        if self.id2label is None:
            raise BadInput(f"scheme is {self.scheme!r}, but the labels have no names", hint="give id2label")
        return illegal_transitions([self.id2label[n] for n in range(self.num_labels)], self.scheme)


class BiLSTMCRF(Network):
    """A sequence tagger.

    >>> config = BiLSTMCRFConfig(vocab_size=50, embedding_size=8, hidden_size=4, num_labels=3)
    >>> model = BiLSTMCRF(config).init_weights(seed=0).eval()
    >>> scores_BTC = model.scores(model(torch.zeros(2, 9, dtype=torch.long)))
    >>> tags_BT = model.decode(scores_BTC)
    >>> bool((model.log_likelihood(scores_BTC, tags_BT) < 0).all()), tuple(tags_BT.shape)
    (True, (2, 9))
    """

    config: BiLSTMCRFConfig

    def __init__(self, config: BiLSTMCRFConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = Embedding(config.vocab_size, config.embedding_size)
        self.recurrence = Recurrence("lstm", config.embedding_size, config.hidden_size, config.num_layers, True)
        self.embedding_dropout, self.dropout = Dropout(config.dropout), Dropout(config.dropout)
        self.classifier = Linear(2 * config.hidden_size, config.num_labels, bias=True)
        self.crf = CRF(config.num_labels)

    @classmethod
    def from_hf(
        cls, config: dict[str, Any], head: Head = "token_classification", num_labels: int | None = None
    ) -> Self:
        """The network of a `config.json`, with arbitrary weights."""
        return cls(BiLSTMCRFConfig.from_hf(config, head, num_labels))

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
        """States at each token, (B, T, D), 0 outside the sequences.

        `mask` is boolean, one run of True per row, or spans (N, 3) of (row, start, stop); None: rows are full.
        Positions and segments, which other networks read, change nothing here: the order of the tokens says enough.
        """
        spans_N3 = spans_of(mask, tokens_BT)
        x_BTE = self.embedding_dropout(self.embedding(tokens_BT, self.compute_dtype))
        x_NLE, valid_NL = unpack(x_BTE, spans_N3)
        hidden_BTD = repack(self.recurrence(x_NLE, valid_NL), valid_NL, spans_N3, tokens_BT)
        dropped_BTD: Tensor = self.dropout(hidden_BTD)
        return dropped_BTD

    def scores(self, hidden_BTD: Tensor, mask: Tensor | None = None) -> Tensor:
        """Each position's own scores of the labels, (B, T, C), in fp32: what the CRF adds its transitions to."""
        scores_BTC: Tensor = self.classifier(hidden_BTD.float())
        return scores_BTC

    def log_likelihood(self, scores_BTC: Tensor, tags_BT: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probability of the tags of each sequence, (N,): one per span of `mask`, or per row.

        Positions whose tag is -100 are passed over.
        """
        spans_N3 = spans_of(mask, tags_BT)
        scores_NLC, valid_NL = unpack(scores_BTC, spans_N3)
        tags_NL, _ = unpack(tags_BT, spans_N3)
        return self.crf.log_likelihood(scores_NLC, tags_NL, valid_NL & (tags_NL != IGNORED))

    def decode(self, scores_BTC: Tensor, mask: Tensor | None = None) -> Tensor:
        """The best tags of each sequence, (B, T); -100 outside the sequences."""
        spans_N3 = spans_of(mask, scores_BTC)
        scores_NLC, valid_NL = unpack(scores_BTC, spans_N3)
        tags_NL = self.crf.decode(scores_NLC, valid_NL, self.config.illegal())
        return repack(tags_NL, valid_NL, spans_N3, scores_BTC, fill=IGNORED)

    def head_names(self) -> set[str]:
        """Those of the projection to the labels and of the transitions between them."""
        return {name for name in self.state_dict() if name.startswith(("classifier.", "crf."))}

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As all networks without attention begin; no transition is preferred."""
        if name.startswith("crf."):
            parameter.zero_()
        else:
            init_parameter(name, parameter, generator, "lstm")
