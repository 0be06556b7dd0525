"""Causal attention over packed rows, each document alone, without a mask.

A boolean mask over (T, T) makes PyTorch's CPU kernel compute and then discard what causality and document borders
forbid. Here each document is a plain causal call on its own slice of the row, so the forbidden part is never
computed. It is a custom operator because `torch.compile` must not trace a loop whose length is data.

Tensor names: B rows · H heads · T positions · E head dimension · N documents
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def _slices(spans_N3: Tensor, num_positions: int) -> Iterator[tuple[list[int] | slice, slice]]:
    """Groups of (rows, positions) to attend within: whole rows together, then one document at a time."""
    spans: list[list[int]] = spans_N3.tolist()
    whole = [row for row, start, stop in spans if start == 0 and stop == num_positions]
    if whole:
        contiguous = whole == list(range(whole[0], whole[-1] + 1))
        yield (slice(whole[0], whole[-1] + 1) if contiguous else whole), slice(0, num_positions)
    for row, start, stop in spans:
        if 0 < stop - start < num_positions:
            yield slice(row, row + 1), slice(start, stop)


@torch.library.custom_op("mojiang::document_attention", mutates_args=())
def document_attention(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, spans_N3: Tensor) -> tuple[Tensor, Tensor]:
    """Causal attention inside each span (row, start, stop); positions in no span give 0, spans
    with start = stop are passed over.

    Returns the values (B, H, T, E) and the log-sum-exp (B, H, T) the backward pass needs. CPU only.
    """
    B, H, T, _ = q_BHTE.shape
    out = torch.zeros_like(q_BHTE.transpose(1, 2).contiguous()).transpose(1, 2)
    lse = torch.zeros(B, H, T, dtype=torch.float32)
    for rows, at in _slices(spans_N3, T):
        y, l_ = _forward(q_BHTE[rows, :, at], k_BHTE[rows, :, at], v_BHTE[rows, :, at], 0.0, True)
        out[rows, :, at], lse[rows, :, at] = y, l_
    return out, lse


@document_attention.register_fake
def _(q_BHTE: Tensor, k_BHTE: Tensor, v_BHTE: Tensor, spans_N3: Tensor) -> tuple[Tensor, Tensor]:
    B, H, T, E = q_BHTE.shape
    return q_BHTE.new_empty(B, T, H, E).transpose(1, 2), q_BHTE.new_empty(B, H, T, dtype=torch.float32)


@torch.library.custom_op("mojiang::document_attention_backward", mutates_args=())
def document_attention_backward(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, spans_N3: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `document_attention` with respect to q, k and v."""
    gradients = tuple(torch.zeros_like(x.transpose(1, 2).contiguous()).transpose(1, 2) for x in (q, k, v))
    for rows, at in _slices(spans_N3, q.shape[2]):
        part = [x[rows, :, at] for x in (d_out, q, k, v, out, lse)]
        for gradient, value in zip(gradients, _backward(*part, 0.0, True), strict=True):
            gradient[rows, :, at] = value
    return gradients[0], gradients[1], gradients[2]


@document_attention_backward.register_fake
def _(
    d_out: Tensor, q: Tensor, k: Tensor, v: Tensor, out: Tensor, lse: Tensor, spans_N3: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    B, H, T, E = q.shape
    dq, dk, dv = (q.new_empty(B, T, H, E).transpose(1, 2) for _ in range(3))
    return dq, dk, dv


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, spans = inputs
    ctx.save_for_backward(q, k, v, *output, spans)


def _gradient(ctx, d_out: Tensor, _d_lse: Tensor):  # type: ignore[no-untyped-def]
    return *torch.ops.mojiang.document_attention_backward(d_out, *ctx.saved_tensors), None


document_attention.register_autograd(_gradient, setup_context=_save)
