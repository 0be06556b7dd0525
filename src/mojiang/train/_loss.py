"""The loss of packed rows, its gradient over micro-batches, and what is measured with it.

Tensor names: B rows of a micro-batch · T positions · D hidden size · V vocabulary
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from mojiang.core.run import Run
from mojiang.model.decoder import Decoder, document_mask
from mojiang.tokenizer._pack import IGNORE, PackedRows, Rows
from mojiang.train._batches import micro_batches

Loss = Callable[[Decoder, Rows], Tensor]
"""Nats of all trained tokens of the rows, summed."""


def loss_sum(model: Decoder, rows: Rows) -> Tensor:
    """Nats of all trained tokens of the rows, summed, in fp32."""
    tokens_BT, targets_BT, positions_BT, mask = to_tensors(model, rows)
    hidden_BTD = model(tokens_BT, positions_BT=positions_BT, mask=mask)
    return _cross_entropy(model.lm_head.weight, hidden_BTD, targets_BT)


def _cross_entropy(weight_VD: Tensor, hidden_BTD: Tensor, targets_BT: Tensor) -> Tensor:
    logits = F.linear(hidden_BTD, weight_VD.to(hidden_BTD.dtype)).float()
    return F.cross_entropy(logits.flatten(0, 1), targets_BT.flatten(), ignore_index=IGNORE, reduction="sum")


def to_tensors(model: Decoder, rows: Rows) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Tokens, targets, positions and attention mask of rows, where the model is."""
    device = model.lm_head.weight.device
    arrays = (rows.tokens_BT, rows.targets_BT, rows.positions_BT)
    tokens, targets, positions = (torch.from_numpy(array).to(device) for array in arrays)
    if device.type == "cpu":
        return tokens, targets, positions, torch.from_numpy(rows.spans_N3)
    documents_BT = torch.from_numpy(rows.documents_BT).to(device)
    return tokens, targets, positions, document_mask(documents_BT)


def accumulate(model: Decoder, rows: Rows, micro_rows: int, loss: Loss = loss_sum) -> float:
    """Add the gradients of the global batch's mean loss to the parameters; returns the loss (nats per token)."""
    num_targets = rows.num_targets
    total = 0.0
    for part in micro_batches(rows, micro_rows):
        nats = loss(model, part)
        (nats / max(1, num_targets)).backward()  # type: ignore[no-untyped-call]
        total += nats.item()
    return total / max(1, num_targets)


def measure_bits(model: Decoder, rows: PackedRows, micro_rows: int, loss: Loss) -> float:
    """Bits per byte of the rows' text: every token's nats, summed, over the documents' bytes.

    Each token sees only what stands before it in its row, so this is the length of a code a decoder could undo.
    """
    nats = 0.0
    for part in rows.batches(micro_rows):
        # With gradients enabled the compiled graph of training is used; without, another would have to be compiled.
        nats += loss(model, part).item()
    return nats / math.log(2) / max(1, rows.num_bytes)


def measure_loss(model: Decoder, rows: PackedRows, most_rows: int) -> float:
    """Mean nats per trained token over the first `most_rows` rows."""
    nats, targets = 0.0, 0
    # Blocks compiled for training would be compiled once more for these shapes (7 s, of an SFT's minute).
    with torch.no_grad(), torch.compiler.set_stance("force_eager"):
        for first in range(min(most_rows, len(rows))):
            part = rows.rows([first])
            nats += loss_sum(model, part).item()
            targets += part.num_targets
    return nats / max(1, targets)


def compile_model(model: Decoder, example: Rows, run: Run) -> Loss | None:
    """Compile block by block (one graph for all of them) and the loss; None, with a warning, where that fails.

    Blocks have one shape, so that compile time does not grow with depth.
    """
    try:
        head = torch.compile(_cross_entropy, dynamic=False)

        def loss(model: Decoder, rows: Rows) -> Tensor:
            tokens_BT, targets_BT, positions_BT, mask = to_tensors(model, rows)
            return head(model.lm_head.weight, model(tokens_BT, positions_BT=positions_BT, mask=mask), targets_BT)

        for block in model.model.layers:
            block.compile(dynamic=False)
        loss(model, example).backward()  # type: ignore[no-untyped-call]
        return loss
    except Exception as error:  # inductor raises whatever the missing compiler led to
        for block in model.model.layers:
            block._compiled_call_impl = None
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        run.warn(f"torch.compile failed ({reason}); training goes on without it. A C++ compiler (g++) makes it faster.")
        return None
    finally:
        model.zero_grad(set_to_none=True)


def flops_per_token(model: Decoder, context: int) -> float:
    """Forward and backward: 6 per weight that multiplies, plus attention over half the context on average."""
    c = model.config
    embedding = 0 if c.tie_word_embeddings else c.vocab_size * c.hidden_size
    attention = 6 * c.num_hidden_layers * c.num_attention_heads * c.head_dim * context
    return 6.0 * (c.num_parameters - embedding) + attention
