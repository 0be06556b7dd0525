"""ELMo (Peters et al. 2018): two language models, one reading ahead and one back, whose layers are a word's vectors.

Words are read by their bytes, so that any word has a vector; the ones to predict are a vocabulary that both directions
share. Each direction is a stack of LSTMs with a recurrent projection (Sak et al. 2014), from the second layer on with
a residual connection. Neither direction ever sees the word that it predicts.

Tensor names carry their shape:
    B sentences · T places of the longest, both its ends among them · U distinct words · L bytes of the longest word
    P size of a direction's states · J layers, the words' own vectors first · V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Self

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Dropout, Linear
from mojiang.model._projected_lstm import ProjectedLSTM
from mojiang.model._sequences import init_parameter, mirrored
from mojiang.model._spelling import SpelledWords, sentence_ends, spell
from mojiang.model.network import Head, HFConfig, Network

SENTENCE_BEGIN, SENTENCE_END = 0, 1
"""The first two of the distinct words: the ends of a sentence, spelled as `sentence_ends` says."""


@dataclass(frozen=True)
class ELMoConfig(HFConfig):
    """The shape of an ELMo; the defaults are the paper's, the vocabulary excepted.

    `hidden_size` is the size of a direction's states and of the words' vectors, `cell_size` that of the LSTMs' memory
    before it is projected. `filters` are (width in bytes, number).
    """

    MODEL_TYPE: ClassVar[str] = "elmo"
    CLASSES: ClassVar[dict[str, str]] = {"pretraining": "MojiangELMoForPreTraining", "embedding": "MojiangELMo"}

    vocab_size: int
    hidden_size: int = 512
    cell_size: int = 4096
    num_layers: int = 2
    channels: int = 16
    filters: tuple[tuple[int, int], ...] = ((1, 32), (2, 32), (3, 64), (4, 128), (5, 256), (6, 512), (7, 1024))
    num_highways: int = 2
    dropout: float = 0.1
    head: Head = field(default="pretraining", kw_only=True)

    def __post_init__(self) -> None:
        object.__setattr__(self, "filters", tuple((int(width), int(count)) for width, count in self.filters))

    def check(self) -> None:
        """Raise `BadInput` for a shape that cannot be computed."""
        if not self.filters or min(min(pair) for pair in self.filters) < 1 or self.num_layers < 1:
            raise BadInput(
                f"filters are {self.filters}, layers {self.num_layers}",
                hint="filters are pairs of a width and a number, 1 or more; there is at least one layer",
            )
        if self.cell_size <= self.hidden_size:
            raise BadInput(
                f"cell_size is {self.cell_size}, hidden_size {self.hidden_size}",
                hint="the LSTMs' memory must be larger than what it is projected on",
            )


class ELMo(Network):
    """Two language models over words, and the vectors of words in their sentence that come of them.

    >>> model = ELMo(ELMoConfig(20, 8, 16, filters=((1, 4), (2, 4)))).init_weights(seed=0).eval()
    >>> [tuple(vectors.shape) for vectors in model.vectors([["a", "bank"], ["the", "river", "bank"]])]
    [(2, 3, 16), (3, 3, 16)]
    """

    config: ELMoConfig

    def __init__(self, config: ELMoConfig) -> None:
        super().__init__()
        self.config = config
        size, layers = config.hidden_size, range(config.num_layers)
        self.words = SpelledWords(config.channels, config.filters, config.num_highways, size)
        self.ahead = nn.ModuleList(ProjectedLSTM(size, config.cell_size, size) for _ in layers)
        self.back = nn.ModuleList(ProjectedLSTM(size, config.cell_size, size) for _ in layers)
        self.dropouts = nn.ModuleList(Dropout(config.dropout) for _ in range(config.num_layers + 1))
        if config.head == "pretraining":
            self.vocabulary = Linear(size, config.vocab_size, bias=True)

    @classmethod
    def from_hf(cls, config: dict[str, Any], head: Head = "pretraining", num_labels: int | None = None) -> Self:
        """The network of a `config.json`, with arbitrary weights."""
        return cls(ELMoConfig.from_hf(config, head, num_labels))

    def blocks(self) -> list[nn.Module]:
        """None: a recurrence is one fused kernel already, which a compiler would only take apart."""
        return []

    @property
    def head(self) -> nn.Linear:
        """The vocabulary projection, which both directions share."""
        if self.config.head != "pretraining":
            return super().head
        return self.vocabulary

    def forward(self, words_BT: Tensor, spellings_UL: Tensor, mask_BT: Tensor | None = None) -> list[Tensor]:
        """Every layer's vectors at each place, J + 1 times (B, T, 2P): what reads ahead, then what reads back.

        `words_BT` are rows of `spellings_UL`, the bytes of the distinct words; sentences come with their two ends.
        `mask_BT` is True for the places of a sentence, which begins at the first; None: rows are full. In the last
        layer, the first half at place t knows the words up to t and predicts t + 1, the second half knows those from t
        on and predicts t - 1.
        """
        valid_BT = torch.ones_like(words_BT, dtype=torch.bool) if mask_BT is None else mask_BT
        x_BTP = F.embedding(words_BT, self.words(spellings_UL))
        layers = [self.dropouts[0](torch.cat([x_BTP, x_BTP], dim=-1))]
        for number, (ahead, back) in enumerate(zip(self.ahead, self.back, strict=True)):
            before_BTP, after_BTP = layers[-1].chunk(2, dim=-1)
            states_back_BTP = mirrored(back(mirrored(after_BTP, valid_BT)), valid_BT)
            both = torch.cat([ahead(before_BTP), states_back_BTP], dim=-1)
            layers.append(self.dropouts[number + 1](both + layers[-1] if number else both))
        return layers

    @torch.no_grad()
    def vectors(self, sentences: Sequence[Sequence[str]], at_once: int = 64) -> list[Tensor]:
        """The vectors of each word in its sentence, (words, J + 1, 2P), on the CPU: for `ScalarMix`, or one of them.

        Sentences go through the network by length, `at_once` together; dropout is off.
        """
        found: list[Tensor] = [torch.empty(0)] * len(sentences)
        order = sorted(range(len(sentences)), key=lambda number: len(sentences[number]))
        training = self.training
        self.eval()
        for first in range(0, len(order), at_once):
            numbers = order[first : first + at_once]
            words_BT, spellings_UL, mask_BT = (part.to(self.device) for part in read([sentences[n] for n in numbers]))
            layers_BTJP = torch.stack(self(words_BT, spellings_UL, mask_BT), dim=2).cpu()
            for row, number in enumerate(numbers):
                found[number] = layers_BTJP[row, 1 : len(sentences[number]) + 1]
        self.train(training)
        return found

    def head_names(self) -> set[str]:
        """Those of the projection on the vocabulary."""
        return {name for name in self.state_dict() if name.startswith("vocabulary.")}

    def init_parameter(self, name: str, parameter: Tensor, generator: torch.Generator) -> None:
        """As all networks without attention begin; highways begin by carrying most of their input on."""
        if name.endswith("carry.bias"):
            parameter.fill_(1.0)
        else:
            init_parameter(name, parameter, generator, "lstm")


class ScalarMix(nn.Module):
    """A weighted mean of layers, learned with the task that reads it, times a learned factor (ELMo, equation 1).

    >>> ScalarMix(3)(torch.tensor([[[1.0], [2.0], [6.0]]])).item()
    3.0
    """

    def __init__(self, num_layers: int) -> None:
        super().__init__()
        self.weights, self.factor = nn.Parameter(torch.zeros(num_layers)), nn.Parameter(torch.ones(()))

    def forward(self, layers: Tensor) -> Tensor:
        """(…, J, D) → (…, D)."""
        mixed: Tensor = self.factor * torch.einsum("...jd,j->...d", layers, self.weights.softmax(0))
        return mixed


def read(sentences: Sequence[Sequence[str]]) -> tuple[Tensor, Tensor, Tensor]:
    """Sentences as `ELMo` reads them: words as numbers (B, T), the distinct words' bytes (U, L), the mask (B, T)."""
    numbers: dict[str, int] = {}
    rows = [[numbers.setdefault(word, len(numbers) + 2) for word in sentence] for sentence in sentences]
    longest = max(map(len, rows), default=0) + 2
    words_BT = np.full((len(rows), longest), SENTENCE_BEGIN, np.int64)
    mask_BT = np.zeros((len(rows), longest), np.bool_)
    for row, words in enumerate(rows):
        words_BT[row, : len(words) + 2] = [SENTENCE_BEGIN, *words, SENTENCE_END]
        mask_BT[row, : len(words) + 2] = True
    spellings_UL = torch.from_numpy(spellings_of(list(numbers)))
    return torch.from_numpy(words_BT), spellings_UL.long(), torch.from_numpy(mask_BT)


def spellings_of(words: Sequence[str]) -> np.ndarray[Any, np.dtype[np.int16]]:
    """The bytes of a sentence's two ends and of these words, (2 + words, L)."""
    ends, spelled = sentence_ends(), spell(words)
    made = np.zeros((2 + len(spelled), max(ends.shape[1], spelled.shape[1])), np.int16)
    made[:2, : ends.shape[1]], made[2:, : spelled.shape[1]] = ends, spelled
    return made
