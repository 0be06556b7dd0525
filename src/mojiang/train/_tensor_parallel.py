"""Tensor parallelism: every rank computes some heads and some feed-forward units of each layer, for all rows.

A projection is cut by columns (outputs) where what follows works on each output by itself, and by rows (inputs) where
its inputs were cut, so that one sum over the ranks per attention and per feed-forward is all the traffic. Embeddings,
norms and heads are whole on every rank.
Source: Shoeybi et al. 2019 (Megatron-LM).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

from mojiang.core.errors import BadUsage
from mojiang.model.network import Network
from mojiang.train._ranks import Ranks

Cut = Literal["columns", "rows", "heads"]

_DECODER: dict[str, Cut] = {
    "self_attn.q_proj": "columns", "self_attn.k_proj": "columns", "self_attn.v_proj": "columns",
    "self_attn.o_proj": "rows", "mlp.gate_proj": "columns", "mlp.up_proj": "columns", "mlp.down_proj": "rows",
    "self_attn.q_norm": "heads", "self_attn.k_norm": "heads",
}  # fmt: skip
_ENCODER: dict[str, Cut] = {
    "attention.self.query": "columns", "attention.self.key": "columns", "attention.self.value": "columns",
    "attention.output.dense": "rows", "intermediate.dense": "columns", "output.dense": "rows",
}  # fmt: skip
FAMILIES: dict[str, dict[str, Cut]] = {
    **dict.fromkeys(("llama", "qwen2", "qwen3"), _DECODER),
    **dict.fromkeys(("bert", "roberta", "electra"), _ENCODER),
}
"""`model_type` → of each layer's modules, how they are cut; `heads` see only their rank's heads, with whole weights."""


class Parts(Ranks):
    """Ranks that compute parts of each layer on the same rows."""

    def share(self, num_rows: int) -> Sequence[int]:
        """All rows, on every rank."""
        return range(num_rows)

    def total(self, values: dict[str, float]) -> dict[str, float]:
        """What every rank has seen all of."""
        return values

    def gather(self, rows: Tensor) -> Tensor:
        """All rows are here."""
        return rows

    def wrap(self, model: Network, generates: bool = False) -> Network:
        """Cut every layer.

        Raises:
            BadUsage: the family, its adapters or the number of its heads cannot be cut.
        """
        family = str(getattr(model.config, "model_type", getattr(model.config, "MODEL_TYPE", "")))
        self._check(model, family, generates)
        self._seen_in_part: list[nn.Parameter] = []
        for block in model.blocks():
            modules = dict(block.named_modules())
            plan: dict[str, Any] = {}
            for name, cut in FAMILIES[family].items():
                if name in modules and cut == "heads":
                    self._seen_in_part += list(modules[name].parameters())
                elif name in modules:
                    plan[name] = ColwiseParallel() if cut == "columns" else RowwiseParallel()
            parallelize_module(block, self.mesh, plan)
            for module in modules.values():
                _count_heads(module, lambda heads: heads // self.size)
        return model

    def _check(self, model: Network, family: str, generates: bool) -> None:
        config, hint = model.config, "use --parallel ddp or fsdp"
        if family not in FAMILIES:
            raise BadUsage(f"--parallel tensor cuts {', '.join(FAMILIES)}, not {family or 'this model'}", hint=hint)
        names = {name for block in model.blocks() for name, _ in block.named_modules()}
        whole = [n for n, cut in FAMILIES[family].items() if cut != "heads" and f"{n}.base" in names]
        if generates or whole:
            what = "a model with an adapter" if whole else "a model that writes text while it is trained"
            raise BadUsage(f"--parallel tensor does not cut {what}", hint=hint)
        for key in ("num_attention_heads", "num_key_value_heads", "intermediate_size"):
            if getattr(config, key, 0) % self.size:
                raise BadUsage(f"{key} is {getattr(config, key)}, which {self.size} ranks cannot share", hint=hint)

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """Norms of heads have whole weights, and each rank the gradient of its own heads only."""
        for parameter in self._seen_in_part:
            if parameter.grad is not None:
                dist.all_reduce(parameter.grad)

    def release(self, model: Network) -> None:
        """Gather every weight, and leave the other ranks."""
        for block in model.blocks():
            for module in block.modules():
                for hooks in (module._forward_pre_hooks, module._forward_hooks):
                    hooks.clear()
                _count_heads(module, lambda heads: heads * self.size)
        super().release(model)


def _count_heads(module: Any, number: Callable[[int], int]) -> None:
    """Encoders keep the number of heads; decoders take what the projections give."""
    if hasattr(module, "num_heads"):
        module.num_heads = number(module.num_heads)
