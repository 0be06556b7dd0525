"""torch.compile, block by block: one graph for all of them, so that compile time does not grow with depth."""

from __future__ import annotations

from typing import Any

from mojiang.core.run import Run
from mojiang.model.network import Network
from mojiang.tokenizer._pack import Rows
from mojiang.train._objective import Objective

COMPILE_FLOPS = 8e12
"""Work from which `compile=auto` compiles: it took 3 to 24 s on 2 cores, and small models then train up to 1.7 times
faster; shorter runs hardly earn that back."""


def compile_model(model: Network, objective: Objective, example: Any, run: Run) -> bool:
    """Compile the blocks for micro-batches like `example`; False, with a warning, where that fails."""
    # Packed rows have one shape. Padded ones have many: a graph with symbolic sizes is made at the second.
    dynamic = False if isinstance(example, Rows) else None
    try:
        for block in model.blocks():
            block.compile(dynamic=dynamic)
        total = sum(objective.losses(model, example).values())
        total.backward()  # type: ignore[union-attr]
        return True
    except Exception as error:  # inductor raises whatever the missing compiler led to
        for block in model.blocks():
            block._compiled_call_impl = None
        reason = str(error).strip().splitlines()[0][:200] if str(error).strip() else type(error).__name__
        run.warn(f"torch.compile failed ({reason}); training goes on without it. A C++ compiler (g++) makes it faster.")
        return False
    finally:
        model.zero_grad(set_to_none=True)
