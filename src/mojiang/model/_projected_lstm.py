"""LSTMs whose state is projected at every step (Sak et al. 2014), with a kernel for processors.

oneDNN has none, and PyTorch's own way back adds to the gradient of every weight at every step. Here the gradients of a
step's gates are kept, and a weight gets its own in one product at the end.

Tensor names carry their shape: T steps · B sequences · I inputs · H cells · P size of the state · G gates, 4 H: the
input's, the forget gate, the candidate and the output's, as PyTorch orders them
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class ProjectedLSTM(nn.LSTM):
    """One layer in one direction, from a state of zeros; (B, T, I) → (B, T, P)."""

    def __init__(self, num_inputs: int, cell_size: int, size: int) -> None:
        super().__init__(num_inputs, cell_size, proj_size=size, batch_first=True)

    def forward(self, x_BTI: Tensor) -> Tensor:  # type: ignore[override]
        """The states of every step."""
        if x_BTI.device.type != "cpu":
            states_BTP: Tensor = super().forward(x_BTI)[0]
            return states_BTP
        # In the order of PyTorch's own kernels, none of them missing.
        into_GI, state_GP, bias_G, more_G, out_PH = (weight for weight in self._flat_weights if weight is not None)
        run: Callable[..., Tensor] = _Steps.apply
        return run(x_BTI.transpose(0, 1), into_GI, state_GP, bias_G + more_G, out_PH).transpose(0, 1)


class _Steps(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_TBI: Tensor, in_GI: Tensor, state_GP: Tensor, bias_G: Tensor, out_PH: Tensor) -> Tensor:
        steps, rows, _ = x_TBI.shape
        cells = len(bias_G) // 4
        gates_TBG = torch.addmm(bias_G, x_TBI.flatten(0, 1), in_GI.T).view(steps, rows, -1)
        cells_TBH, held_TBH = (gates_TBG.new_empty(steps, rows, cells) for _ in range(2))
        states_TBP = gates_TBG.new_empty(steps, rows, len(out_PH))
        for t, (gates_BG, cell_BH, held_BH) in enumerate(zip(gates_TBG, cells_TBH, held_TBH, strict=True)):
            if t:
                gates_BG.addmm_(states_TBP[t - 1], state_GP.T)
            gates_BG[:, : 2 * cells].sigmoid_()
            gates_BG[:, 3 * cells :].sigmoid_()
            entry_BH, forget_BH, candidate_BH, exit_BH = gates_BG.chunk(4, dim=1)
            torch.mul(entry_BH, candidate_BH.tanh_(), out=cell_BH)
            if t:
                cell_BH.addcmul_(forget_BH, cells_TBH[t - 1])
            torch.mul(exit_BH, torch.tanh(cell_BH), out=held_BH)
            torch.mm(held_BH, out_PH.T, out=states_TBP[t])
        ctx.save_for_backward(x_TBI, in_GI, state_GP, out_PH, gates_TBG, cells_TBH, held_TBH, states_TBP)
        return states_TBP

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        x_TBI, in_GI, state_GP, out_PH, gates_TBG, cells_TBH, held_TBH, states_TBP = ctx.saved_tensors
        slopes_TB4H, through_TBH, forget_TBH = _slopes(gates_TBG, cells_TBH)
        own_TBP = gradients[0].clone(memory_format=torch.contiguous_format)
        carried_BH = torch.zeros_like(cells_TBH[0])
        for t in reversed(range(len(own_TBP))):
            held_BH = own_TBP[t] @ out_PH
            carried_BH = carried_BH.addcmul(held_BH, through_TBH[t])
            slopes_TB4H[t, :, :3].mul_(carried_BH[:, None])
            slopes_TB4H[t, :, 3].mul_(held_BH)
            if t:
                own_TBP[t - 1].addmm_(slopes_TB4H[t].flatten(1), state_GP)
                carried_BH = carried_BH * forget_TBH[t]
        slopes_NG = slopes_TB4H.flatten(2).flatten(0, 1)
        rows = x_TBI.shape[1]
        in_gradient = slopes_NG.T @ x_TBI.flatten(0, 1)
        state_gradient = slopes_NG[rows:].T @ states_TBP.flatten(0, 1)[:-rows]
        out_gradient = own_TBP.flatten(0, 1).T @ held_TBH.flatten(0, 1)
        x_gradient = (slopes_NG @ in_GI).view_as(x_TBI)
        return x_gradient, in_gradient, state_gradient, slopes_NG.sum(0), out_gradient


def _slopes(gates_TBG: Tensor, cells_TBH: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Of every step at once: what each gate's gradient is a multiple of, how the cell's flows in, and what is kept."""
    entry, forget, candidate, exit_ = gates_TBG.chunk(4, dim=2)
    before = torch.cat([torch.zeros_like(cells_TBH[:1]), cells_TBH[:-1]])
    shown = torch.tanh(cells_TBH)
    slopes_TB4H = torch.stack(
        [
            candidate * entry * (1 - entry), before * forget * (1 - forget), entry * (1 - candidate.square()),
            shown * exit_ * (1 - exit_),
        ],
        dim=2,
    )  # fmt: skip
    return slopes_TB4H, exit_ * (1 - shown.square()), forget
