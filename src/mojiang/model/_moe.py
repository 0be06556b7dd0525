"""Feed-forward layers of decoders: SwiGLU, alone or as the experts of a sparse mixture.

Tensor names: B rows · T positions · D hidden size · F feed-forward size · N tokens = B · T · X experts
C experts per token · M tokens, counted once for each of their experts or layers
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from mojiang.model._layers import Activation, Linear

FEW_TOKENS = 64
"""Up to this many tokens, as in a decoding step, an expert's product is computed for all of them; see `SparseMLP`."""


class MLP(nn.Module):
    """SwiGLU feed-forward (Shazeer 2020), with the activation that the config names."""

    def __init__(self, hidden_size: int, intermediate_size: int, act: Activation, bias: bool = False) -> None:
        super().__init__()
        self.gate_proj = Linear(hidden_size, intermediate_size, bias)
        self.up_proj = Linear(hidden_size, intermediate_size, bias)
        self.down_proj = Linear(intermediate_size, hidden_size, bias)
        self.act = act

    def forward(self, x: Tensor) -> Tensor:
        """(…, D) → (…, D)."""
        out: Tensor = self.down_proj(self.act(self.gate_proj(x)) * self.up_proj(x))
        return out


class Router(nn.Module):
    """Scores every expert for every token and picks the best. Not a `Linear`, so that it is never quantised."""

    def __init__(self, hidden_size: int, num_experts: int, num_chosen: int, renormalize: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(num_experts, hidden_size))
        self.num_chosen, self.renormalize = num_chosen, renormalize

    def forward(self, x_ND: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Logits (N, X); weights (N, C) and numbers (N, C) of the chosen experts. The softmax is in fp32."""
        logits_NX = nn.functional.linear(x_ND, self.weight.to(x_ND.dtype))
        weights_NC, chosen_NC = logits_NX.softmax(dim=-1, dtype=torch.float32).topk(self.num_chosen, dim=-1)
        if self.renormalize:
            weights_NC = weights_NC / weights_NC.sum(dim=-1, keepdim=True)
        return logits_NX, weights_NC.to(x_ND.dtype), chosen_NC


class SparseMLP(nn.Module):
    """A mixture of experts of which each token uses a few (Shazeer et al. 2017; Qwen3-MoE).

    Tokens are sorted by expert and each expert is called once, on its slice. That is a loop in Python over modules, so
    adapters and int8 layers work in it; PyTorch's `grouped_mm` over stacked weights trained 0 to 15 % faster on a CPU
    (8 to 64 experts, 2048 tokens).
    """

    def __init__(
        self,
        hidden_size: int,
        intermediate_size: int,
        num_experts: int,
        num_chosen: int,
        act: Activation,
        renormalize: bool,
    ) -> None:
        super().__init__()
        self.gate = Router(hidden_size, num_experts, num_chosen, renormalize)
        self.experts = nn.ModuleList([MLP(hidden_size, intermediate_size, act) for _ in range(num_experts)])
        self.keep_logits = False
        self.logits_NX: Tensor | None = None

    def forward(self, x_BTD: Tensor) -> Tensor:
        """(B, T, D) → (B, T, D); keeps the router's logits in `logits_NX` where `keep_logits` asks for them."""
        x_ND = x_BTD.reshape(-1, x_BTD.shape[-1])
        logits_NX, weights_NC, chosen_NC = self.gate(x_ND)
        if self.keep_logits:
            self.logits_NX = logits_NX
        few = len(x_ND) <= FEW_TOKENS and not torch.is_grad_enabled()
        out_ND: Tensor = (self._each_on_all if few else self._each_on_its_own)(x_ND, weights_NC, chosen_NC)
        return out_ND.view_as(x_BTD)

    # How many tokens an expert gets is data: a graph of this loop would have to be built anew for every batch.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _each_on_its_own(self, x_ND: Tensor, weights_NC: Tensor, chosen_NC: Tensor) -> Tensor:
        expert_M, order_M = chosen_NC.flatten().sort(stable=True)
        token_M = order_M // chosen_NC.shape[1]
        counts: list[int] = expert_M.bincount(minlength=len(self.experts)).tolist()
        slices = torch.split(x_ND[token_M], counts)
        # An expert that no token chose still gets a gradient, of zeros: ranks and optimizers expect one.
        wanted = torch.is_grad_enabled()
        parts = [expert(part) for expert, part in zip(self.experts, slices, strict=True) if len(part) or wanted]
        y_MD = torch.cat(parts) * weights_NC.flatten()[order_M, None]
        return torch.zeros_like(x_ND).index_add(0, token_M, y_MD)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def _each_on_all(self, x_ND: Tensor, weights_NC: Tensor, chosen_NC: Tensor) -> Tensor:
        """The same with products of one shape, whatever was chosen.

        The bits of a token's result then do not depend on how many of its neighbours chose the same expert, which is
        what makes a batch of requests answer like each request alone. Reading the weights is what takes the time.
        """
        weights_NX = torch.zeros_like(x_ND[:, :1]).repeat(1, len(self.experts)).scatter(1, chosen_NC, weights_NC)
        out_ND = torch.zeros_like(x_ND)
        for expert in torch.unique(chosen_NC).tolist():
            out_ND += self.experts[expert](x_ND) * weights_NX[:, expert, None]
        return out_ND


def load_balancing_loss(logits: Sequence[Tensor], num_chosen: int, mask_N: Tensor | None = None) -> Tensor:
    """Switch Transformer's auxiliary loss (Fedus et al. 2021, eq. 4-6), a scalar in fp32.

    It is `num_chosen` when all experts are used alike, and more otherwise. `logits` are the routers' (N, X) of all
    sparse layers; `mask_N` is True for the tokens that count. It is no sum over tokens: the loss of a batch is not the
    mean of its parts' losses.
    """
    probabilities_MX = torch.cat(list(logits)).softmax(dim=-1, dtype=torch.float32)
    picked_MC = probabilities_MX.topk(num_chosen, dim=-1).indices
    picked_MX = torch.zeros_like(probabilities_MX).scatter(1, picked_MC, 1.0)
    if mask_N is not None:
        counted_M = mask_N.repeat(len(logits))
        probabilities_MX, picked_MX = probabilities_MX[counted_M], picked_MX[counted_M]
    return picked_MX.shape[1] * torch.sum(picked_MX.mean(0) * probabilities_MX.mean(0))
