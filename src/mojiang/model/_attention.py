"""Attention, the same call for every architecture: causal or not, over spans or masks, on a CPU or a GPU.

A boolean mask over (T, T) makes PyTorch's CPU kernel compute and then discard what causality and document borders
forbid. With spans each document is a plain call on its own slice of the row, so the forbidden part is never computed.
On a CPU that is a custom operator, because `torch.compile` must not trace a loop whose length is data.

Grouped heads (fewer key/value heads than query heads) go to the kernels as they are: PyTorch's CPU kernel computes them
natively, forward and backward, 15 to 25 % faster than on repeated keys and values (8 heads of 64, 256 positions).

Tensor names: B rows · H query heads · K key/value heads · T query positions · S key positions · E head dimension
N spans
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from mojiang.model._tiled_attention import tiled_attention, tiled_attention_backward

_forward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_backward = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


class KeyValueStore(Protocol):
    """What attention needs from a cache: keep this step's keys and values, attend over all positions so far.

    The cache attends, not the model, because only it knows which positions a query may see and how they are laid
    out (slots, pages). Handing the keys back instead would force a copy per query group: `repeat_interleave` of a
    (8, 4, 256, 64) slab cost more than the attention itself on CPU.
    """

    def attend(self, layer: int, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """Append `k`, `v` to `layer`; return the attention output of `q` over every position so far, (B, H, T, E)."""
        ...


def attend(
    q_BHTE: Tensor,
    k_BKSE: Tensor,
    v_BKSE: Tensor,
    mask: Tensor | None = None,
    *,
    causal: bool,
    scale: float | None = None,
    bias: Tensor | None = None,
) -> Tensor:
    """Attention of H query heads over K key/value heads (K divides H) → (B, H, T, E).

    Args:
        mask: None; or boolean, broadcastable to (B, H, T, S), True where a query may look; or int64 spans (N, 3) of
            (row, start, stop) over T = S positions: each position sees its own span only, and one in no span gives 0.
        causal: no query looks ahead of its own position, besides what `mask` says.
        scale: of the scores; 1/√E if None.
        bias: added to the scores, broadcastable to (B, H, T, S); it is trained if it wants a gradient.
    """
    if mask is not None and mask.dtype != torch.bool:
        if bias is None and q_BHTE.device.type == "cpu":
            y_BHTE: Tensor = document_attention(q_BHTE, k_BKSE, v_BKSE, mask, causal, scale)[0]
            return y_BHTE
        if bias is None and _has_varlen_kernel(q_BHTE):
            return _varlen_attention(q_BHTE, k_BKSE, v_BKSE, mask, causal, scale)
        mask = span_mask(mask, q_BHTE.shape[0], q_BHTE.shape[2])
    if causal and (mask is not None or bias is not None):
        T, S = q_BHTE.shape[2], k_BKSE.shape[2]
        ahead_TS = torch.ones(T, S, dtype=torch.bool, device=q_BHTE.device).tril()
        mask, causal = ahead_TS if mask is None else mask & ahead_TS, False
    if bias is not None:
        bias = bias.to(q_BHTE.dtype)
        mask = bias if mask is None else bias.masked_fill(~mask, float("-inf"))
    return F.scaled_dot_product_attention(
        q_BHTE, k_BKSE, v_BKSE, mask, is_causal=causal, scale=scale, enable_gqa=q_BHTE.shape[1] != k_BKSE.shape[1]
    )


def span_numbers(spans_N3: Tensor, num_rows: int, num_positions: int) -> Tensor:
    """The number of the span that each position is in, counted from 1, and 0 where it is in none: int64 (B, T).

    >>> span_numbers(torch.tensor([[0, 0, 2], [0, 2, 3], [1, 0, 2]]), 2, 4)
    tensor([[1, 1, 2, 0],
            [3, 3, 0, 0]])
    """
    rows_N, starts_N, stops_N = spans_N3.unbind(1)
    numbers_N = torch.arange(1, len(spans_N3) + 1, device=spans_N3.device)
    # Added at the start and taken away at the stop; a running sum then stands at the span's number in between.
    steps_BT = torch.zeros(num_rows, num_positions + 1, dtype=torch.int64, device=spans_N3.device)
    steps_BT = steps_BT.index_put((rows_N, starts_N), numbers_N, accumulate=True)
    steps_BT = steps_BT.index_put((rows_N, stops_N), -numbers_N, accumulate=True)
    return steps_BT.cumsum(1)[:, :-1]


def span_mask(spans_N3: Tensor, num_rows: int, num_positions: int) -> Tensor:
    """Spans as a boolean mask (B, 1, T, T): True where both positions are in the same span."""
    numbers_BT = span_numbers(spans_N3, num_rows, num_positions)
    same_BTT = numbers_BT[:, :, None] == numbers_BT[:, None, :]
    return (same_BTT & (numbers_BT > 0)[:, :, None])[:, None]


def key_mask(spans_N3: Tensor, num_rows: int, num_positions: int) -> Tensor:
    """Which key positions are in any span, (B, 1, 1, S): for cross-attention over rows that spans pad."""
    return (span_numbers(spans_N3, num_rows, num_positions) > 0)[:, None, None]


def _has_varlen_kernel(q_BHTE: Tensor) -> bool:
    """Flash attention wants half precision, heads of a multiple of 8 up to 256, and an Ampere GPU or a later one."""
    E = q_BHTE.shape[-1]
    if q_BHTE.device.type != "cuda" or q_BHTE.dtype not in (torch.bfloat16, torch.float16) or E % 8 or E > 256:
        return False
    return torch.cuda.get_device_properties(q_BHTE.device).major >= 8


def _varlen_attention(
    q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, spans_N3: Tensor, causal: bool, scale: float | None
) -> Tensor:
    """Spans through the flash kernel for sequences of many lengths. Untested where there is no GPU."""
    from torch.nn.attention.varlen import varlen_attn  # CUDA only, and not to be imported without need

    B, H, T, E = q_BHTE.shape
    q, k, v = (x.transpose(1, 2).reshape(B * T, -1, E) for x in (q_BHTE, k_BKTE, v_BKTE))
    rows_N = spans_N3[:, 0] * T
    ends_of_rows = torch.arange(B + 1, device=q.device) * T
    # Gaps between spans are sequences of their own, whose results are then set to 0: the shapes never depend on data.
    borders = torch.cat([rows_N + spans_N3[:, 1], rows_N + spans_N3[:, 2], ends_of_rows]).sort().values.int()
    window = (-1, 0) if causal else (-1, -1)
    y = varlen_attn(q, k, v, borders, borders, T, T, scale=scale, window_size=window, enable_gqa=k.shape[1] != H)
    assert isinstance(y, Tensor)  # it is a tuple only where the log-sum-exp is asked for
    inside_BT = span_numbers(spans_N3, B, T) > 0
    return y.view(B, T, H, E).masked_fill(~inside_BT[:, :, None, None], 0.0).transpose(1, 2)


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


def _scale(q_BHTE: Tensor, scale: float | None) -> float:
    return 1 / math.sqrt(q_BHTE.shape[-1]) if scale is None else scale


@torch.library.custom_op("mojiang::document_attention", mutates_args=())
def document_attention(
    q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, spans_N3: Tensor, causal: bool = True, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    """Attention inside each span (row, start, stop); positions in no span give 0.

    Spans with start = stop are passed over. Returns the values (B, H, T, E) and, but for bfloat16, the log-sum-exp
    (B, H, T) that the backward pass needs. CPU only.
    """
    B, H, T, _ = q_BHTE.shape
    out = torch.zeros_like(q_BHTE.transpose(1, 2).contiguous()).transpose(1, 2)
    lse = torch.zeros(B, H, T, dtype=torch.float32)
    for rows, at in _slices(spans_N3, T):
        q, k, v = (x[rows, :, at] for x in (q_BHTE, k_BKTE, v_BKTE))
        if q.dtype == torch.bfloat16:
            out[rows, :, at] = tiled_attention(q, k, v, causal, _scale(q, scale))
        else:
            out[rows, :, at], lse[rows, :, at] = _forward(q, k, v, 0.0, causal, scale=scale)
    return out, lse


@document_attention.register_fake
def _(
    q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor, spans_N3: Tensor, causal: bool = True, scale: float | None = None
) -> tuple[Tensor, Tensor]:
    B, H, T, E = q_BHTE.shape
    return q_BHTE.new_empty(B, T, H, E).transpose(1, 2), q_BHTE.new_empty(B, H, T, dtype=torch.float32)


@torch.library.custom_op("mojiang::document_attention_backward", mutates_args=())
def document_attention_backward(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    spans_N3: Tensor,
    causal: bool = True,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of `document_attention` with respect to q, k and v."""
    gradients = tuple(torch.zeros_like(x.transpose(1, 2).contiguous()).transpose(1, 2) for x in (q, k, v))
    for rows, at in _slices(spans_N3, q.shape[2]):
        part = [x[rows, :, at] for x in (d_out, q, k, v, out, lse)]
        if q.dtype == torch.bfloat16:
            found = tiled_attention_backward(part[0], part[1], part[2], part[3], causal, _scale(q, scale))
        else:
            found = _backward(*part, 0.0, causal, scale=scale)
        for gradient, value in zip(gradients, found, strict=True):
            gradient[rows, :, at] = value
    return gradients[0], gradients[1], gradients[2]


@document_attention_backward.register_fake
def _(
    d_out: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    lse: Tensor,
    spans_N3: Tensor,
    causal: bool = True,
    scale: float | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    dq, dk, dv = (x.new_empty(x.transpose(1, 2).shape).transpose(1, 2) for x in (q, k, v))
    return dq, dk, dv


def _save(ctx, inputs, output) -> None:  # type: ignore[no-untyped-def]
    q, k, v, spans, ctx.causal, ctx.scale = inputs
    ctx.save_for_backward(q, k, v, *output, spans)


def _gradient(ctx, d_out: Tensor, _d_lse: Tensor):  # type: ignore[no-untyped-def]
    gradients = torch.ops.mojiang.document_attention_backward(d_out, *ctx.saved_tensors, ctx.causal, ctx.scale)
    return *gradients, None, None, None


document_attention.register_autograd(_gradient, setup_context=_save)
