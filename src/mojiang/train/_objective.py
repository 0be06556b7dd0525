"""What is trained for: sums of losses over a batch, and what they are divided by.

    loss = Σ over terms of  weight · (sum over the global batch) / (count over the global batch)

Counts come from the data alone, before any forward pass, so a gradient does not depend on how the batch was cut into
micro-batches, packed into rows or spread over ranks.

Tensor names: B rows of a micro-batch · T positions · D hidden size · N positions of all rows
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from mojiang.model.network import Network
from mojiang.tokenizer._pack import PackedRows, Rows
from mojiang.train._losses import linear_cross_entropy
from mojiang.train._parallel import World

Losses = dict[str, Tensor]


class Objective:
    """One way to judge a model; a recipe makes one and the loop minimises it.

    `losses` gives, for every term of `weights`, the sum over a micro-batch, a scalar in fp32; `counts` gives what each
    is divided by, from the batch's data alone.
    """

    weights: Mapping[str, float] = {"loss": 1.0}

    def counts(self, batch: Any) -> dict[str, float]:
        """Per term: what its sum over this batch counts."""
        raise TypeError(f"{type(self).__name__} does not count")

    def losses(self, model: Network, batch: Any) -> Losses:
        """Per term: its sum over this micro-batch."""
        raise TypeError(f"{type(self).__name__} has no loss")

    def prepare(self, model: Network, batch: Any, step: int, world: World) -> Any:
        """Work on this rank's share of a global batch before it is cut up: roll-outs, other rows' embeddings."""
        return batch

    def rehearse(self, batch: Any) -> Any:
        """A batch to try how much memory it takes: where `prepare` writes text, the most that it could become."""
        return batch

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Figures of the validation split, `micro` at once; the first decides which weights are best."""
        return {}

    generates: bool = False
    """Whether the model writes text while it is trained, which takes all of its weights on every rank."""
    better: str = "lower"
    """Whether a `lower` or a `higher` first figure of `validate` is better."""

    def diagnostics(self) -> dict[str, float]:
        """More figures of the last step, for the curves."""
        return {}


@dataclass
class CausalLM(Objective):
    """Predict the next token of packed rows; positions whose target is `IGNORE` are not trained on."""

    validation: PackedRows | None = None
    bits: bool = True
    """Validate in bits per byte of text; else in nats per trained token."""

    def counts(self, batch: Rows) -> dict[str, float]:
        """Trained positions."""
        return {"loss": batch.num_targets}

    def losses(self, model: Network, batch: Rows) -> Losses:
        """Nats of all trained tokens."""
        hidden_ND, targets_N = self._hidden(model, batch)
        return {"loss": linear_cross_entropy(hidden_ND, model.head.weight, targets_N, model.head.bias)}

    def states(self, model: Network, batch: Rows) -> Tensor:
        """Final hidden states (B, T, D), of which alone the losses are made."""
        tokens_BT, _, positions_BT, spans_N3 = to_tensors(batch, model.device)
        hidden_BTD: Tensor = model(tokens_BT, positions_BT=positions_BT, mask=spans_N3)
        return hidden_BTD

    def held_out(self, micro: int) -> Iterator[Rows]:
        """The validation rows, `micro` at once."""
        if self.validation is not None:
            yield from self.validation.batches(max(1, micro // self.validation.row_tokens))

    def _hidden(self, model: Network, batch: Rows) -> tuple[Tensor, Tensor]:
        """What the vocabulary projection reads at every position, and the targets there."""
        targets_N = torch.from_numpy(batch.targets_BT).to(model.device, non_blocking=True).flatten()
        return model.head_input(self.states(model, batch)).flatten(0, 1), targets_N

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Bits per byte, or nats per token, of the validation rows."""
        if self.validation is None:
            return {}
        nats, targets = 0.0, 0
        for part in self.held_out(micro):
            hidden_ND, targets_N = self._hidden(model, part)
            bias = None if model.head.bias is None else model.head.bias.detach()
            nats += linear_cross_entropy(hidden_ND.detach(), model.head.weight.detach(), targets_N, bias).item()
            targets += part.num_targets
        if self.bits:
            return {"bits_per_byte": nats / math.log(2) / max(1, self.validation.num_bytes)}
        return {"validation_loss": nats / max(1, targets)}


def to_tensors(rows: Rows, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, targets, positions and spans of packed rows, where the model is."""
    arrays = (rows.tokens_BT, rows.targets_BT, rows.positions_BT, rows.spans_N3)
    tokens, targets, positions, spans = (torch.from_numpy(array).to(device, non_blocking=True) for array in arrays)
    return tokens, targets, positions, spans
