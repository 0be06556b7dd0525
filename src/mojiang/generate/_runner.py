"""The model calls of the engine, in shapes that make the bits of a row independent of its batch.

    B rows = slots 0 … B-1 · V vocabulary

Why batching can change an answer at all: a matrix product of 1 row and one of 8 rows may add the same numbers in
another order (another kernel), and a near-tie in the logits then flips the arg-max. What holds here by construction:

- prefill runs one sequence at a time, in chunks that depend on its own length alone;
- decode runs row i of every operation for slot i; a row's result does not depend on *what* is in the other rows.

What does not hold by construction is independence of *how many* rows and key positions there are. That depends on the
BLAS, so the runner measures it once at start: it decodes the same rows at every width and span and keeps those whose
logits are bit-equal to the full-width ones. Found with torch 2.13 + MKL on AVX-512: widths 2 … 8 agree, width 1 (a
gemv) does not, and is slower than 2 besides; scaled_dot_product_attention agrees for all spans that are multiples of
64. If nothing but full width agrees, every step runs at full width: slower, still exact.
"""

from __future__ import annotations

import torch
from torch import Tensor

from mojiang.generate._cache import BUCKET, SlotCache
from mojiang.model.network import Network


class Runner:
    """Prefill and decode on a `SlotCache`. Not thread-safe: it belongs to the engine thread."""

    def __init__(self, model: Network, slots: int, context: int) -> None:
        self.model = model.eval()
        self.device = next(model.parameters()).device
        self.cache = SlotCache(model.config, slots, context, model.compute_dtype, self.device)
        self.widths = [slots]
        self.bucket = self.cache.capacity

    @torch.inference_mode()
    def calibrate(self) -> None:
        """Find the widths and the bucket whose bits equal those of the full batch, on this machine."""
        slots, capacity = self.cache.slots, self.cache.capacity
        generator = torch.Generator().manual_seed(0)
        for slab in (*self.cache.keys, *self.cache.values):
            noise = torch.randn(slab[:, :, : 2 * BUCKET].shape, generator=generator)
            slab[:, :, : 2 * BUCKET] = noise.to(slab)
        tokens = torch.randint(self.model.config.vocab_size, (slots,), generator=generator).tolist()
        positions: list[int | None] = [(7 * slot + 11) % BUCKET for slot in range(slots)]
        full = self._decode(tokens, positions, BUCKET)
        spans = [s for s in (2 * BUCKET, 8 * BUCKET, 16 * BUCKET, capacity) if BUCKET < s <= capacity]
        if all(torch.equal(full, self._decode(tokens, positions, span)) for span in spans):
            self.bucket = BUCKET
        full = self._decode(tokens, positions, self.bucket)
        candidates = [w for w in (1, 2, 4, 8, 16, 32, 64) if w < slots]
        self.widths = [w for w in candidates if self._agrees(full, tokens, positions, w)] + [slots]
        for slab in (*self.cache.keys, *self.cache.values):
            slab[:, :, : 2 * BUCKET] = 0

    def _agrees(self, full_BV: Tensor, tokens: list[int], positions: list[int | None], width: int) -> bool:
        """Whether the first `width` rows give the full batch's bits: all of them live, and the last one alone."""
        last_only = [None] * (width - 1) + [positions[width - 1]]
        for live in (positions[:width], last_only):
            got_BV = self._decode(tokens[:width], live, self.bucket)
            if not all(torch.equal(got_BV[i], full_BV[i]) for i, p in enumerate(live) if p is not None):
                return False
        return True

    def prefill(self, slot: int, tokens: list[int], start: int) -> Tensor:
        """Enter `tokens` at position `start` of `slot`; logits (V,) after the last of them, in fp32."""
        tokens_BT = torch.tensor([tokens], device=self.device)
        positions_BT = torch.arange(start, start + len(tokens), device=self.device)[None]
        hidden_BTD = self.model(
            tokens_BT, positions_BT=positions_BT, cache=self.cache.prefill(slot, start, len(tokens))
        )
        return self.model.logits(hidden_BTD[0, -1:])[0].float()

    def decode(self, step: dict[int, tuple[int, int]]) -> Tensor:
        """One token for each slot of `step` {slot: (token, position)}; logits (B, V) in fp32, row = slot."""
        width = next(w for w in self.widths if w > max(step))
        tokens = [step[slot][0] if slot in step else 0 for slot in range(width)]
        positions = [step[slot][1] if slot in step else None for slot in range(width)]
        return self._decode(tokens, positions, self.bucket)

    def _decode(self, tokens: list[int], positions: list[int | None], bucket: int) -> Tensor:
        view = self.cache.decode(positions, bucket)
        tokens_BT = torch.tensor(tokens, device=self.device)[:, None]
        hidden_BTD = self.model(tokens_BT, positions_BT=view.positions_BT, cache=view)
        return self.model.logits(hidden_BTD[:, 0]).float()
