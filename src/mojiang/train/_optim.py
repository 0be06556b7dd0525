"""Optimizers: which parameters get which, Muon, and LAMB.

Muon (Jordan et al. 2024) replaces a matrix's momentum by its nearest semi-orthogonal matrix, found with a few
Newton-Schulz iterations. Matrices of one shape are stacked and iterated together, in bf16 where the hardware
multiplies bf16 fast, so that a step costs a handful of large matrix products instead of dozens of small ones.

Tensor names: N matrices · R rows · C columns
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from mojiang.core.errors import BadUsage
from mojiang.model.gpt2 import Conv1D
from mojiang.train._adam8bit import AdamW8bit
from mojiang.train._parallel import local
from mojiang.train._settings import Optim

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic of Jordan et al.: steep at zero, so five iterations are enough."""
STACK_NUMBERS = 2**26
"""Matrices are stacked up to so many numbers: the iteration needs several copies of its stack."""
MUON_EMBEDDING_SHARE = 0.06
"""Beside Muon, the peak rate of AdamW's parameters, as a share of the matrices', if it is not given."""


def orthogonalize(matrices_NRC: Tensor, steps: int = 5, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """Nearest semi-orthogonal matrix of each of N matrices (R rows, C columns), singular values in about [0.7, 1.2].

    Source: Newton-Schulz iteration as in Muon (Jordan et al. 2024).
    """
    a, b, c = NEWTON_SCHULZ
    x = matrices_NRC.to(dtype)
    tall = x.shape[-2] > x.shape[-1]
    if tall:
        x = x.mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7)
    for _ in range(steps):
        gram = torch.bmm(x, x.mT)
        # Sums inside the products: 2 to 18 % less time than with operations of their own. Computing only half of the
        # symmetric products (by blocks) and compiling brought nothing more at these sizes.
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    oriented: Tensor = x.mT if tall else x
    return oriented


class Muon(torch.optim.Optimizer):
    """Momentum orthogonalised by Newton-Schulz, with decoupled weight decay.

    The update is scaled by sqrt(max(1, outputs / inputs)), torch.optim.Muon's "original" adjustment, so that one
    learning rate fits every shape. Only for matrices; embeddings, heads and norms belong to AdamW.

    A parameter of three dimensions is a stack of matrices (experts). A group with `kernels=True` holds convolutions,
    whose dimensions after the first are the columns; one with `transposed=True` holds matrices (inputs, outputs).
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        momentum: float = 0.95,
        weight_decay: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(parameters, {**defaults, "kernels": False, "transposed": False})
        self.dtype = dtype

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            by_shape: dict[Any, list[nn.Parameter]] = {}
            for parameter in group["params"]:
                if parameter.grad is not None:
                    by_shape.setdefault((parameter.shape, getattr(parameter, "placements", ())), []).append(parameter)
            for (shape, _), parameters in by_shape.items():
                most = max(1, STACK_NUMBERS // shape.numel())
                for first in range(0, len(parameters), most):
                    self._step_shape(group, parameters[first : first + most])

    def _step_shape(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if "momentum_buffer" not in self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch._foreach_lerp_(buffers, gradients, 1 - group["momentum"])
        stack = torch.stack(torch._foreach_lerp(gradients, buffers, group["momentum"]))
        update = self._orthogonal(stack, group["kernels"])
        rows, columns = (stack.flatten(2) if group["kernels"] else stack).shape[-2:]
        outputs_to_inputs = columns / rows if group["transposed"] else rows / columns
        scale = group["lr"] * max(1.0, outputs_to_inputs) ** 0.5
        weights: list[Tensor] = list(parameters)
        torch._foreach_mul_(weights, 1 - group["lr"] * group["weight_decay"])
        torch._foreach_add_(weights, list(update.unbind(0)), alpha=-scale)

    def _orthogonal(self, stack: Any, kernels: bool) -> Any:
        """Stacked matrices made orthogonal; where ranks hold slices of each, every rank does a part of the stack."""
        if hasattr(stack, "to_local"):
            from torch.distributed.tensor import DTensor, Shard

            some = stack.redistribute(placements=[Shard(0)] * stack.device_mesh.ndim)
            done = self._orthogonal(some.to_local(), kernels)
            size: dict[str, Any] = {"shape": stack.shape, "stride": stack.stride()}
            spread = DTensor.from_local(done, some.device_mesh, some.placements, run_check=False, **size)
            return spread.redistribute(placements=stack.placements)
        matrices_NRC = stack.flatten(2) if kernels else stack.flatten(0, -3)
        return orthogonalize(matrices_NRC, dtype=self.dtype).to(stack.dtype).reshape(stack.shape)


class Lamb(torch.optim.Optimizer):
    """Adam whose step, per matrix, is as long as the rate times the matrix itself: for very large batches.

    As in the authors' code, vectors (norms, biases) take Adam's plain step; the weight decay is part of the step whose
    length is adapted.
    Source: You et al. 2019, algorithm 2.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter] | Iterable[dict[str, Any]],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-6,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """One update of every parameter that has a gradient."""
        for group in self.param_groups:
            parameters: list[Tensor] = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            steps = self._steps(group, parameters)
            lengths = zip(torch._foreach_norm(parameters), torch._foreach_norm(steps), strict=True)
            for parameter, step, (own, its) in zip(parameters, steps, lengths, strict=True):
                if parameter.dim() > 1:
                    step.mul_(torch.where((own > 0) & (its > 0), own / its, 1.0))
            torch._foreach_add_(parameters, steps, alpha=-group["lr"])

    def _steps(self, group: dict[str, Any], parameters: list[Tensor]) -> list[Tensor]:
        """Adam's steps with the weight decay in them."""
        gradients = [p.grad for p in parameters if p.grad is not None]
        for p in parameters:
            if not self.state[p]:
                self.state[p].update(step=0, exp_avg=torch.zeros_like(p), exp_avg_sq=torch.zeros_like(p))
            self.state[p]["step"] += 1
        first, second = ([self.state[p][name] for p in parameters] for name in ("exp_avg", "exp_avg_sq"))
        beta1, beta2 = group["betas"]
        torch._foreach_lerp_(first, gradients, 1 - beta1)
        torch._foreach_mul_(second, beta2)
        torch._foreach_addcmul_(second, gradients, gradients, 1 - beta2)
        taken = [self.state[p]["step"] for p in parameters]
        roots = torch._foreach_sqrt(second)
        torch._foreach_div_(roots, [(1 - beta2**count) ** 0.5 for count in taken])
        torch._foreach_add_(roots, group["eps"])
        steps = list(torch._foreach_div(first, roots))
        torch._foreach_div_(steps, [1 - beta1**count for count in taken])
        torch._foreach_add_(steps, parameters, alpha=group["weight_decay"])
        return steps


def build_optimizers(model: nn.Module, optim: Optim, dtype: torch.dtype = torch.float32) -> list[torch.optim.Optimizer]:
    """The optimizers of a model's trained parameters; one, or Muon and 8-bit Adam with AdamW for what is not theirs.

    Weight decay applies to the matrices only, and is decoupled from the gradient in all of them. Every group keeps its
    peak rate under `peak_lr`, which the schedule multiplies. `dtype` is that of Muon's products.
    """
    lr = optim.learning_rate
    share = MUON_EMBEDDING_SHARE if optim.optimizer == "muon" else 1.0
    lr_other = optim.embedding_learning_rate or share * lr
    found = sort_parameters(model)
    matrices = {"lr": lr, "weight_decay": optim.weight_decay}
    groups: list[dict[str, Any]] = [
        {"params": found["embeddings"], "lr": lr_other, "weight_decay": 0.0},
        {"params": found["vectors"], "lr": lr_other, "weight_decay": 0.0},
    ]
    optimizers: list[torch.optim.Optimizer] = []
    if optim.optimizer == "muon":
        groups.append({"params": found["heads"], "lr": lr_other, "weight_decay": optim.weight_decay})
        forms: list[dict[str, Any]] = [{"params": found["matrices"]}, {"params": found["kernels"], "kernels": True}]
        forms.append({"params": found["transposed"], "transposed": True})
        if forms := [form for form in forms if form["params"]]:
            optimizers.append(Muon(forms, **matrices, dtype=dtype))
    else:
        every = [*found["matrices"], *found["kernels"], *found["transposed"], *found["heads"]]
        if optim.optimizer == "adamw8bit" and every:
            optimizers.append(AdamW8bit(every, **matrices, betas=(optim.momentum, optim.beta2)))
        else:
            groups.append({"params": every, **matrices})
    if groups := [group for group in groups if group["params"]]:
        optimizers.append(_for_the_rest(groups, optim))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak_lr"] = group["lr"]
    return optimizers


def _for_the_rest(groups: list[dict[str, Any]], optim: Optim) -> torch.optim.Optimizer:
    betas = (optim.momentum, optim.beta2)
    sliced = {hasattr(parameter, "to_local") for group in groups for parameter in group["params"]}
    if sliced == {True, False}:  # no kernel takes both kinds together
        kernels: dict[str, Any] = {"foreach": False}
        if optim.optimizer == "lamb":
            raise BadUsage("lamb takes no model of which a part is sliced", hint="use --parallel ddp or fsdp")
    else:  # PyTorch has no fused SGD for slices
        kernels = {"foreach": True} if True in sliced and optim.optimizer == "sgd" else {"fused": True}
    if optim.optimizer == "lamb":
        return Lamb(groups, lr=0.0, betas=betas)
    if optim.optimizer in ("sgd", "rmsprop"):
        # PyTorch's would add the decay to the gradient, so that momentum and scale act on it too.
        groups = [{**group, "weight_decay": 0.0, "decay": group["weight_decay"]} for group in groups]
        made: torch.optim.Optimizer
        if optim.optimizer == "sgd":
            made = torch.optim.SGD(groups, momentum=optim.momentum, nesterov=optim.momentum > 0, **kernels)
        else:
            made = torch.optim.RMSprop(groups, alpha=optim.beta2, momentum=optim.momentum, foreach=len(sliced) < 2)
        made.register_step_pre_hook(_decay)
        return made
    # eps only keeps 0 from being divided by: gradients of embeddings are far smaller than the usual 1e-8.
    return torch.optim.AdamW(groups, betas=betas, eps=1e-10, **kernels)


@torch.no_grad()
def _decay(optimizer: torch.optim.Optimizer, args: Any, kwargs: Any) -> None:
    for group in optimizer.param_groups:
        weights: list[Tensor] = [local(p) for p in group["params"] if p.grad is not None]
        if group["decay"] and weights:
            torch._foreach_mul_(weights, 1 - group["lr"] * group["decay"])


def sort_parameters(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Trained parameters by what they are; each is in one list.

    `embeddings` tables looked up by number, and the vocabulary's projection · `vectors` norms, biases · `heads` other
    matrices outside the body, and those whose names begin with an entry of `model.no_muon` · `kernels` of
    convolutions · `transposed` matrices (inputs, outputs) · `matrices` all others.
    """
    lists = ("embeddings", "vectors", "heads", "matrices", "kernels", "transposed")
    found: dict[str, list[nn.Parameter]] = {name: [] for name in lists}
    projection = _vocabulary_projection(model)
    outside = model.head_names() if getattr(model, "prefix", "") else set()  # type: ignore[operator]
    excluded = tuple(getattr(model, "no_muon", ()))
    seen: set[int] = set()
    for prefix, module in model.named_modules():
        for last, parameter in module.named_parameters(recurse=False):
            name = f"{prefix}.{last}" if prefix else last
            if id(parameter) in seen or not parameter.requires_grad:
                continue
            seen.add(id(parameter))
            kind = "embeddings" if parameter is projection else _kind(module, parameter)
            if kind not in ("embeddings", "vectors") and (name in outside or name.startswith(excluded)):
                kind = "heads"
            found[kind].append(parameter)
    return found


def _kind(module: nn.Module, parameter: nn.Parameter) -> str:
    if parameter.dim() < 2:
        return "vectors"
    if isinstance(module, nn.modules.conv._ConvNd):
        return "kernels"
    # A table of positions that a model keeps as (1, T, D) is looked up by number too.
    if isinstance(module, nn.Embedding) or (parameter.dim() > 2 and parameter.shape[0] == 1):
        return "embeddings"
    return "transposed" if isinstance(module, Conv1D) else "matrices"


def _vocabulary_projection(model: nn.Module) -> Tensor | None:
    try:
        weight = model.head.weight  # type: ignore[union-attr]
    except (AttributeError, TypeError):  # a network without one says so with a TypeError
        return None
    return weight if isinstance(weight, Tensor) else None
