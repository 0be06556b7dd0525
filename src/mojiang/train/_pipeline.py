"""Pipeline parallelism: every rank computes a run of the layers and passes what comes out on to the next rank.

A rank keeps the weights, gradients and optimizer state of its own layers only; the first has the embeddings too, the
last the final norm and the vocabulary projection. Micro-batches follow each other. A rank goes as many forward as
there are ranks after it, then backward and forward in turns ("one forward, one backward"), so that the micro-batches
whose activations it holds are never more than the ranks from it to the last one.
Source: Narayanan et al. 2021 (PipeDream-flush, Megatron-LM).

PyTorch's own `torch.distributed.pipelining` was not taken: its 1F1B wants a number of micro-batches that is fixed, and
not less than the ranks, and cuts them from tensors itself. Here sending and receiving are steps of autograd, and the
schedule is the order in which the loop's forward and backward passes are called.

Tensor names: B rows · T positions · D hidden size
"""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from mojiang.core.errors import BadUsage
from mojiang.model.decoder import FAMILIES, Decoder
from mojiang.model.lora import LoraLinear
from mojiang.model.network import Network
from mojiang.train._objective import CausalLM, Losses, Objective
from mojiang.train._parallel import Forward
from mojiang.train._ranks import Ranks, clip_to

UP, DOWN = 1, -1
"""Hidden states go up, to the next rank; their gradients go down."""
HINT = "use --parallel ddp or fsdp"


class Link:
    """A rank's connections with its neighbours, one for each direction; what is sent does not wait to be taken."""

    def __init__(self, rank: int, device: torch.device) -> None:
        self.rank, self.device, self.connected = rank, device, True
        # Were they one, a GPU's sends up and down could wait for each other.
        self.groups = {UP: dist.new_group(), DOWN: dist.new_group()}
        self.sent: dict[int, tuple[Any, Tensor]] = {}

    def send(self, tensor: Tensor, way: int) -> None:
        """Send once the tensor sent before on this way has been taken: no more than one is kept for it."""
        if not self.connected:
            return
        if way in self.sent:
            self.sent.pop(way)[0].wait()
        tensor = tensor.detach().contiguous()
        self.sent[way] = (dist.isend(tensor, self.rank + way, group=self.groups[way]), tensor)

    def receive(self, shape: Sequence[int], dtype: torch.dtype, way: int) -> Tensor:
        """What comes on this way; zeros where nothing is connected."""
        tensor = torch.zeros(*shape, dtype=dtype, device=self.device)
        if self.connected:
            dist.recv(tensor, self.rank - way, group=self.groups[way])
        return tensor

    def flush(self) -> None:
        """Return when everything was taken."""
        for work, _ in self.sent.values():
            work.wait()
        self.sent = {}


class _Received(torch.autograd.Function):
    """Hidden states of the rank before; their gradient goes back to it. The anchor makes them want one."""

    @staticmethod
    def forward(ctx: Any, anchor: Tensor, link: Link, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        ctx.link = link
        return link.receive(shape, dtype, UP)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        ctx.link.send(gradients[0], DOWN)
        return None, None, None, None


class _Passed(torch.autograd.Function):
    """Hidden states given to the next rank: a loss of zero here, whose backward pass waits for their gradient."""

    @staticmethod
    def forward(ctx: Any, hidden_BTD: Tensor, link: Link) -> Tensor:
        ctx.link, ctx.shape, ctx.dtype = link, hidden_BTD.shape, hidden_BTD.dtype
        link.send(hidden_BTD, UP)
        return torch.zeros((), device=hidden_BTD.device)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        return ctx.link.receive(ctx.shape, ctx.dtype, DOWN), None


class Inlet(nn.Module):
    """In the place of the embeddings: gives what the rank before has computed of the same tokens."""

    def __init__(self, link: Link, size: int, weight: nn.Parameter | None) -> None:
        super().__init__()
        self.link, self.size = link, size
        if weight is not None:  # the projection's, under the name that files keep
            self.weight = weight

    def forward(self, ids_BT: Tensor, dtype: torch.dtype) -> Tensor:
        """(B, T) → (B, T, D)."""
        anchor = torch.zeros(0, device=self.link.device, requires_grad=torch.is_grad_enabled())
        received: Tensor = _Received.apply(anchor, self.link, (*ids_BT.shape, self.size), dtype)  # type: ignore[no-untyped-call]
        return received


class Staged(Objective):
    """A language model's objective, of which each rank computes its stage and the last one judges."""

    def __init__(self, whole: CausalLM, world: Pipeline) -> None:
        self.whole, self.world = whole, world
        self.weights, self.better = whole.weights, whole.better

    def counts(self, batch: Any) -> dict[str, float]:
        """Trained positions: all ranks see them."""
        return self.whole.counts(batch)

    def losses(self, model: Network, batch: Any) -> Losses:
        """The loss on the last rank; zero on the others, with the gradient that comes back."""
        if self.world.is_last:
            return self.whole.losses(model, batch)
        passed: Tensor = _Passed.apply(self.whole.states(model, batch), self.world.link)  # type: ignore[no-untyped-call]
        return {"loss": passed}

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """The figures of the last rank, on all."""
        figures: list[Any] = [None]
        if self.world.is_last:
            figures = [self.whole.validate(model, micro)]
        else:
            for part in self.whole.held_out(micro):
                self.world.link.send(self.whole.states(model, part), UP)
            self.world.link.flush()
        dist.broadcast_object_list(figures, src=self.world.size - 1)
        return dict(figures[0])


class Pipeline(Ranks):
    """Ranks that compute some of the layers each, on the same rows."""

    def __init__(self, device: str) -> None:
        super().__init__(device)
        self.stages = self.size
        self.link = Link(self.rank, self.device)
        self.ends = dist.new_group([0, self.size - 1])
        self.elsewhere: set[int] = set()
        """Parameters (their `id`) of the outline that other ranks hold."""
        self.shared: nn.Parameter | None = None
        """The weight that the first rank looks tokens up in, and the last one projects with."""

    @property
    def is_last(self) -> bool:
        """Whether this rank computes the loss."""
        return self.rank == self.size - 1

    def share(self, num_rows: int) -> Sequence[int]:
        """All rows, on every rank."""
        return range(num_rows)

    def gather(self, rows: Tensor) -> Tensor:
        """All rows are here."""
        return rows

    def total(self, values: dict[str, float]) -> dict[str, float]:
        """What the last rank has found."""
        names = sorted(values)
        found = torch.tensor([values[name] for name in names], dtype=torch.float64, device=self.device)
        dist.broadcast(found, self.size - 1)
        return dict(zip(names, found.tolist(), strict=True))

    def stage(self, objective: Objective) -> Objective:
        """The objective cut into stages.

        Raises:
            BadUsage: its loss is made of more than the final hidden states of one model.
        """
        if not isinstance(objective, CausalLM) or type(objective).losses is not CausalLM.losses:
            raise BadUsage(
                "--parallel pipeline trains language models on the next token (pretrain, sft), and "
                f"{type(objective).__name__} takes more of a model than its final states",
                hint=HINT,
            )
        return Staged(objective, self)

    def wrap(self, model: Network, generates: bool = False) -> Network:
        """This rank's layers, as a network that is called like the whole one.

        Raises:
            BadUsage: another architecture, an adapter, or more ranks than layers.
        """
        self._check(model)
        decoder: Any = model
        blocks = model.blocks()
        first, stop = (-(-len(blocks) * rank // self.size) for rank in (self.rank, self.rank + 1))
        backbone = decoder.backbone
        own = [*blocks[first:stop]]
        own += [backbone.embed_tokens] if self.is_first else []
        own += [backbone.norm, decoder.lm_head] if self.is_last else []
        kept = {id(parameter) for module in own for parameter in module.parameters()}
        if decoder.lm_head.weight is backbone.embed_tokens.weight:
            self.shared = decoder.lm_head.weight
        self._whole = model
        self._empty(model, kept)
        stage, spine = _twin(model), _twin(backbone)
        stage._modules[decoder.prefix] = spine
        spine.layers = nn.ModuleList()
        for number in range(first, stop):
            spine.layers.add_module(str(number), blocks[number])  # whose names are those of the whole model
        if not self.is_first:
            tied = self.shared if self.is_last else None
            spine.embed_tokens = Inlet(self.link, model.config.hidden_size, tied)
        if not self.is_last:
            spine.norm = nn.Identity()
        if not self.is_last and id(decoder.lm_head.weight) not in kept:
            del stage.lm_head
        stage.to(self.device)
        return cast(Network, stage)

    def _check(self, model: Network) -> None:
        if not isinstance(model, Decoder) or model.config.head != "causal_lm":
            what = f"{type(model).__name__} with head {model.config.head!r}"
            raise BadUsage(f"--parallel pipeline cuts language models of {', '.join(FAMILIES)}, not {what}", hint=HINT)
        if any(isinstance(module, LoraLinear) for module in model.modules()):
            raise BadUsage("--parallel pipeline does not cut a model with an adapter", hint=HINT)
        if len(model.blocks()) < self.size:
            what = f"{len(model.blocks())} layers are too few for a pipeline of {self.size} ranks"
            raise BadUsage(what, hint="take fewer ranks; every one needs a layer")

    def _empty(self, model: Network, kept: set[int]) -> None:
        """Let go of what other ranks hold; shapes stay, for they decide what an optimizer does with a parameter."""
        for parameter in model.parameters():
            if id(parameter) not in kept:
                self.elsewhere.add(id(parameter))
                parameter.data = torch.zeros((), dtype=parameter.dtype, device=self.device).expand(parameter.shape)

    def outline(self, model: Network) -> Network:
        """The whole model, with one number in the place of each parameter that other ranks hold."""
        return self._whole

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Within it nothing is sent, and zeros are received."""
        self.link.connected = False
        try:
            yield
        finally:
            self.link.connected = True

    def walk(self, model: nn.Module, micros: Sequence[list[int]], forward: Forward) -> None:
        """One forward, one backward: after the warm-up each micro-batch that goes in lets the oldest one out."""
        after, flying = self.size - 1 - self.rank, deque[Any]()
        for rows in micros:
            flying.append(forward(rows, True))
            if len(flying) > after:
                flying.popleft().backward()
        while flying:
            flying.popleft().backward()
        self.link.flush()

    @torch.no_grad()
    def sum_gradients(self, model: nn.Module) -> None:
        """A weight of both ends has a gradient from each."""
        if self.shared is not None and (self.is_first or self.is_last):
            if self.shared.grad is None:
                self.shared.grad = torch.zeros_like(self.shared)
            dist.all_reduce(self.shared.grad, group=self.ends)

    @torch.no_grad()
    def gradient_norm(self, model: nn.Module, clip: float) -> float:
        """Length of the gradients of all ranks, each counted once; then they are cut to `clip`."""
        trained = [p for p in model.parameters() if p.grad is not None]
        counted = [p for p in trained if self.is_first or p is not self.shared]
        square = torch.zeros((), dtype=torch.float64, device=self.device)
        for parameter in counted:
            if parameter.grad is not None:
                square += parameter.grad.double().square().sum()
        dist.all_reduce(square)
        return clip_to([p.grad for p in trained if p.grad is not None], float(square.sqrt()), clip)

    def whole(self, state: Any) -> Any:
        """On the first rank, a state with what only others have of it: in every dict, the keys that are missing."""
        box: list[Any] = [set(_paths(state)) if self.is_first else None]
        dist.broadcast_object_list(box, src=0)
        if not self.is_first:
            self._give([(path, value) for path, value in _additions(state, (), box[0])])
            return state
        state = _rebuilt(state)
        for rank in range(1, self.size):
            for path, value in self._take(rank):
                inner = state
                for key in path[:-1]:
                    inner = inner[key]
                inner.setdefault(path[-1], value)
        return state

    def _give(self, parts: Any) -> None:
        """Send nested containers of tensors to the first rank."""
        leaves, _ = tree_flatten(parts)
        held = tree_map(lambda leaf: leaf.to("meta") if isinstance(leaf, Tensor) else leaf, parts)
        dist.send_object_list([held], 0, device=self.device)
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                dist.send(leaf.detach().to(self.device).contiguous(), 0)

    def _take(self, rank: int) -> Any:
        """What a rank gives, in the processor's memory."""
        box: list[Any] = [None]
        dist.recv_object_list(box, rank, device=self.device)
        leaves, form = tree_flatten(box[0])
        for at, leaf in enumerate(leaves):
            if isinstance(leaf, Tensor):
                taken = torch.empty(leaf.shape, dtype=leaf.dtype, device=self.device)
                dist.recv(taken, rank)
                leaves[at] = taken.cpu()
        return tree_unflatten(leaves, form)

    def cut(self, state: Any, like: Any) -> Any:
        """Of a whole state, what there is in `like`."""
        if isinstance(state, dict) and isinstance(like, dict):
            return {key: self.cut(value, like[key]) for key, value in state.items() if key in like}
        return state

    def load_optimizer(self, optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
        """Put the state of this rank's parameters into an optimizer, which numbers those of all ranks."""
        own = {
            number
            for group, saved in zip(optimizer.param_groups, state["param_groups"], strict=True)
            for parameter, number in zip(group["params"], saved["params"], strict=True)
            if id(parameter) not in self.elsewhere
        }
        held = {number: value for number, value in state["state"].items() if number in own}
        optimizer.load_state_dict({**state, "state": held})

    def release(self, model: Network) -> None:
        """Gather every weight in the memory of the first rank's processor, and leave the other ranks."""
        weights = self.whole(model.state_dict())
        if self.is_first:
            for name, parameter in self._whole.named_parameters():
                parameter.data, parameter.grad = weights[name].cpu(), None
            model._modules = self._whole._modules
            model.train(model.training)
        super().release(model)


def _twin(module: Any) -> Any:
    """A module of the same parts, which can be exchanged without changing those of the first."""
    twin = copy.copy(module)
    twin._modules = dict(module._modules)
    return twin


def _items(state: Any) -> list[tuple[Any, Any]]:
    """Keys and values of a container, or nothing."""
    if isinstance(state, dict):
        return list(state.items())
    return list(enumerate(state)) if isinstance(state, list | tuple) else []


def _paths(state: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The keys that lead to everything in nested containers."""
    for key, value in _items(state):
        yield (*path, key)
        yield from _paths(value, (*path, key))


def _additions(state: Any, path: tuple[Any, ...], known: set[Any]) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """What nested containers have under keys that are not `known`; lists are alike everywhere."""
    for key, value in _items(state):
        if (*path, key) in known:
            yield from _additions(value, (*path, key), known)
        elif isinstance(state, dict):
            yield (*path, key), value


def _rebuilt(state: Any) -> Any:
    """The same tensors in containers of its own."""
    if isinstance(state, dict):
        return {key: _rebuilt(value) for key, value in state.items()}
    return type(state)(_rebuilt(value) for value in state) if isinstance(state, list | tuple) else state
