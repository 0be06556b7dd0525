"""Keys and values of every running sequence: one pre-allocated, contiguous slab per slot.

    B rows of this step · T query positions · S key positions · H query heads · K key/value heads
    G = H / K query heads per key/value head · E head dimension

A slab is (slots, K, positions, E) per layer. Slots 0 … B-1 are thus one view, and a decode step copies nothing:
it writes B columns and attends over the first S positions, S rounded up to a bucket. The rounding, and the rows of
slots that are idle, must not change the bits of the others; `_runner` measures that on the machine it runs on.

Memory is `slots × context × layers × 2 × K × E` numbers. `torch.zeros` maps them lazily, so positions that are never
reached cost no RAM. They must be zeros, not garbage: a masked position still meets a zero weight, and 0 × NaN is NaN.
"""

from __future__ import annotations

from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

BUCKET = 64
"""Key positions are attended in multiples of this; also a multiple of every SIMD width, so sums keep their order."""


def grouped_attention(q_BHTE: Tensor, k_BKSE: Tensor, v_BKSE: Tensor, mask: Tensor) -> Tensor:
    """Attention of H query heads over K key/value heads without repeating the latter.

    The G query heads of one group become G·T query positions of one head. `mask` is additive, (B, 1, T, S).
    """
    B, H, T, E = q_BHTE.shape
    K, S = k_BKSE.shape[1], k_BKSE.shape[2]
    G = H // K
    if G > 1 and T > 1:
        mask = mask[:, :, None].expand(B, 1, G, T, S).reshape(B, 1, G * T, S)
    y = F.scaled_dot_product_attention(q_BHTE.reshape(B, K, G * T, E), k_BKSE, v_BKSE, attn_mask=mask)
    return y.reshape(B, H, T, E)


class Shape(Protocol):
    """What the slabs depend on, in the words of the configs of causal language models."""

    @property
    def num_hidden_layers(self) -> int: ...
    @property
    def num_key_value_heads(self) -> int: ...
    @property
    def head_dim(self) -> int: ...


class SlotCache:
    """Slabs for `slots` sequences of at most `context` positions each."""

    def __init__(self, config: Shape, slots: int, context: int, dtype: torch.dtype, device: torch.device) -> None:
        self.slots, self.context, self.dtype, self.device = slots, context, dtype, device
        self.capacity = -(-context // BUCKET) * BUCKET
        # One more position than can be attended: idle rows of a decode step write there.
        shape = (slots, config.num_key_value_heads, self.capacity + 1, config.head_dim)
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.num_hidden_layers)]

    @property
    def nbytes(self) -> int:
        """Bytes of address space; resident memory grows only with the positions that were reached."""
        return sum(t.numel() * t.element_size() for t in (*self.keys, *self.values))

    def prefill(self, slot: int, start: int, length: int) -> PrefillView:
        """The cache as one sequence sees it while `length` prompt tokens enter at position `start`."""
        return PrefillView(self, slot, start, length)

    def decode(self, positions: list[int | None], bucket: int = BUCKET) -> DecodeView:
        """The cache as slots 0 … B-1 see it while each takes one token; None is an idle slot."""
        return DecodeView(self, positions, bucket)


class PrefillView:
    """Causal attention of a chunk of one slot's prompt over itself and everything before it."""

    def __init__(self, cache: SlotCache, slot: int, start: int, length: int) -> None:
        self.cache, self.slot, self.start, self.end = cache, slot, start, start + length
        queries = torch.arange(start, self.end, device=cache.device)
        hidden_TS = torch.arange(self.end, device=cache.device)[None, :] > queries[:, None]
        mask = torch.zeros(hidden_TS.shape, dtype=cache.dtype, device=cache.device)
        self.mask = mask.masked_fill_(hidden_TS, float("-inf"))[None, None]

    def attend(self, layer: int, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """See `model._attention.KeyValueStore`; B is 1."""
        keys, values = self.cache.keys[layer][self.slot], self.cache.values[layer][self.slot]
        keys[:, self.start : self.end] = k_BKTE[0]
        values[:, self.start : self.end] = v_BKTE[0]
        return grouped_attention(q_BHTE, keys[None, :, : self.end], values[None, :, : self.end], self.mask)


class DecodeView:
    """One new token in each of the slots 0 … B-1, each attending to its own past."""

    def __init__(self, cache: SlotCache, positions: list[int | None], bucket: int) -> None:
        self.cache, self.width = cache, len(positions)
        reached = max((p for p in positions if p is not None), default=0) + 1
        self.span = min(-(-reached // bucket) * bucket, cache.capacity)
        write = [cache.capacity if p is None else p for p in positions]
        see = [0 if p is None else p for p in positions]
        self.rows_B = torch.arange(self.width, device=cache.device)
        self.write_B = torch.tensor(write, device=cache.device)
        self.positions_BT = torch.tensor(see, device=cache.device)[:, None]
        hidden_BS = torch.arange(self.span, device=cache.device)[None] > self.positions_BT
        mask = torch.zeros(hidden_BS.shape, dtype=cache.dtype, device=cache.device)
        self.mask = mask.masked_fill_(hidden_BS, float("-inf"))[:, None, None]

    def attend(self, layer: int, q_BHTE: Tensor, k_BKTE: Tensor, v_BKTE: Tensor) -> Tensor:
        """See `model._attention.KeyValueStore`; T is 1."""
        keys, values = self.cache.keys[layer], self.cache.values[layer]
        keys[self.rows_B, :, self.write_B] = k_BKTE[:, :, 0]
        values[self.rows_B, :, self.write_B] = v_BKTE[:, :, 0]
        return grouped_attention(
            q_BHTE, keys[: self.width, :, : self.span], values[: self.width, :, : self.span], self.mask
        )
