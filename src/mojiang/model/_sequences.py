"""Sequences inside rows: out of a padded or packed batch into one row each, through a recurrence, and back.

Tensor names carry their shape:
    B rows of the batch · T positions of a row · N sequences · L positions of the longest sequence · D features
"""

from __future__ import annotations

from typing import Literal, get_args

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.model._layers import Dropout

Cell = Literal["lstm", "gru"]
CELLS: dict[str, type[nn.LSTM] | type[nn.GRU]] = {"lstm": nn.LSTM, "gru": nn.GRU}
"""Hochreiter & Schmidhuber 1997 with the forget gate of Gers et al. 2000; Cho et al. 2014."""

Pooling = Literal["last", "max", "mean"]
POOLINGS: tuple[str, ...] = get_args(Pooling)


def spans_of(mask: Tensor | None, rows_BT: Tensor) -> Tensor:
    """The sequences that a mask finds in rows (B, T, …), as spans (row, start, stop), (N, 3).

    `mask` is None (each row is one sequence), boolean with one entry per position, True for one run of positions in
    each row (one sequence per row, which may be empty), or spans, of which the empty ones are left out.

    Raises:
        BadInput: a boolean mask of another shape or with several runs in a row.
    """
    num_rows, num_positions = rows_BT.shape[:2]
    rows = torch.arange(num_rows, device=rows_BT.device)
    if mask is None:
        return torch.stack([rows, torch.zeros_like(rows), torch.full_like(rows, num_positions)], dim=1)
    if mask.dtype != torch.bool:
        if mask.dim() != 2 or mask.shape[1] != 3:
            raise BadInput(
                f"a mask of {mask.dtype} and shape {tuple(mask.shape)} is neither boolean nor spans (N, 3)",
                hint="give attention_mask.bool()",
            )
        return mask[mask[:, 1] < mask[:, 2]]
    if mask.numel() != num_rows * num_positions:
        raise BadInput(
            f"the mask has shape {tuple(mask.shape)}, the tokens {(num_rows, num_positions)}",
            hint="networks without attention need one entry per position",
        )
    mask_BT = mask.reshape(num_rows, num_positions)
    starts, lengths = mask_BT.int().argmax(1), mask_BT.sum(1)
    places = torch.arange(num_positions, device=mask.device)
    run_BT = (places >= starts[:, None]) & (places < (starts + lengths)[:, None])
    if not torch.equal(run_BT, mask_BT):
        raise BadInput("the mask has several runs in one row", hint="give spans to pack several sequences in a row")
    return torch.stack([rows, starts, starts + lengths], dim=1)


def unpack(x_BT: Tensor, spans_N3: Tensor) -> tuple[Tensor, Tensor]:
    """One row per sequence: `x` (B, T, …) → (N, L, …) and the validity of its positions (N, L).

    What stands at positions that are not valid is arbitrary (but taken from `x`).
    """
    rows_N, starts_N, stops_N = spans_N3.unbind(1)
    lengths_N = stops_N - starts_N
    places_L = torch.arange(max(1, int(lengths_N.max())) if len(lengths_N) else 1, device=x_BT.device)
    at_NL = (starts_N[:, None] + places_L).clamp(max=x_BT.shape[1] - 1)
    return x_BT[rows_N[:, None], at_NL], places_L < lengths_N[:, None]


def repack(y_NLD: Tensor, valid_NL: Tensor, spans_N3: Tensor, rows_BT: Tensor, fill: float = 0) -> Tensor:
    """The way back, (N, L, …) → (B, T, …), as many rows and positions as `rows_BT`; those of no sequence get `fill`."""
    places_L = torch.arange(y_NLD.shape[1], device=y_NLD.device)
    rows_NL = spans_N3[:, :1].expand_as(valid_NL)
    at = (rows_NL[valid_NL], (spans_N3[:, 1:2] + places_L)[valid_NL])
    return y_NLD.new_full((*rows_BT.shape[:2], *y_NLD.shape[2:]), fill).index_put(at, y_NLD[valid_NL])


def pool(hidden_NLD: Tensor, valid_NL: Tensor, how: Literal["max", "mean"]) -> Tensor:
    """Largest or mean feature over the valid positions, (N, D); 0 for a sequence without any."""
    valid_NL1 = valid_NL[..., None]
    if how == "mean":
        return (hidden_NLD * valid_NL1).sum(1) / valid_NL1.sum(1).clamp(min=1)
    largest_ND = hidden_NLD.masked_fill(~valid_NL1, -torch.inf).amax(1)
    return largest_ND.masked_fill(~valid_NL.any(1, keepdim=True), 0.0)


def mirrored(x_NLD: Tensor, valid_NL: Tensor) -> Tensor:
    """Each sequence in reverse order, in its place: what is beyond it stays. Twice is the identity.

    `valid_NL` is True for the first positions of each row.
    """
    places_L, lengths_N1 = torch.arange(valid_NL.shape[1], device=x_NLD.device), valid_NL.sum(1, keepdim=True)
    at_NL = torch.where(valid_NL, lengths_N1 - 1 - places_L, places_L)
    return x_NLD[torch.arange(len(x_NLD), device=x_NLD.device)[:, None], at_NL]


class Recurrence(nn.Module):
    """Layers of LSTM or GRU over sequences of different lengths, in one or both directions, in fp32.

    The padding is computed too: PyTorch's packed sequences skip it but leave oneDNN's kernel, which made a training
    step 2 to 4 times slower on a CPU (32 rows of 64, 128 units, 60 % filled). For the way back each sequence is
    reversed in its place, so no padding enters any result. bf16 was slower than fp32 as well, and sums over time want
    fp32.
    """

    def __init__(self, cell: Cell, num_inputs: int, size: int, num_layers: int, bidirectional: bool) -> None:
        super().__init__()
        widths = [num_inputs] + [size * (2 if bidirectional else 1)] * (num_layers - 1)
        self.ahead = nn.ModuleList(CELLS[cell](width, size, batch_first=True) for width in widths)
        self.back = nn.ModuleList(CELLS[cell](width, size, batch_first=True) for width in widths if bidirectional)

    def forward(self, x_NLD: Tensor, valid_NL: Tensor) -> Tensor:
        """(N, L, inputs) → (N, L, size · directions), in the dtype of `x_NLD`.

        `valid_NL` is True for the first positions of each row. The others get arbitrary values.
        """
        y_NLD = x_NLD.float()
        for layer, ahead in enumerate(self.ahead):
            outputs = [ahead(y_NLD)[0]]
            if self.back:
                outputs.append(mirrored(self.back[layer](mirrored(y_NLD, valid_NL))[0], valid_NL))
            y_NLD = torch.cat(outputs, dim=-1)
        features_NLD: Tensor = y_NLD.to(x_NLD.dtype)
        return features_NLD


def drop_pooled(dropout: Dropout, pooled_ND: Tensor, hidden_BTD: Tensor, spans_N3: Tensor) -> Tensor:
    """Dropout of pooled features: what a text loses is what its first position in the row would lose."""
    if not dropout.training or dropout.p == 0:
        return pooled_ND
    scales_BTD: Tensor = dropout(torch.ones_like(hidden_BTD))
    return pooled_ND * scales_BTD[spans_N3[:, 0], spans_N3[:, 1]]


def init_parameter(name: str, parameter: Tensor, generator: torch.Generator, cell: str = "") -> None:
    """How the networks without attention begin: embeddings N(0, 0.1²), other weights uniform with variance
    1 / (3 · inputs), biases 0.

    An LSTM's forget gates start open: a bias of 1 there is the one change that Jozefowicz et al. 2015 always found
    to help. `cell` is that of the recurrences.
    """
    if name.endswith("embedding.weight"):
        parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.1)
    elif parameter.dim() > 1:
        bound = parameter[0].numel() ** -0.5
        parameter.copy_((torch.rand(parameter.shape, generator=generator) * 2 - 1) * bound)
    else:
        parameter.zero_()
        if "bias_ih" in name and cell == "lstm":
            size = len(parameter) // 4
            parameter[size : 2 * size] = 1
