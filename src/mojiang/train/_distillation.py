"""Learning from a teacher: from its scores, from its hidden states, or from what it writes.

The teacher computes each micro-batch anew, without gradients; nothing of it is stored.

Tensor names: B rows · T positions · N trained positions · C classes · D width of the student · E of the teacher
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.core.files import atomic_write
from mojiang.generate.engine import Engine, GenerationRequest, Sampling
from mojiang.model._layers import Linear
from mojiang.model.load import load_model, save_model
from mojiang.model.network import Network
from mojiang.tokenizer._pack import IGNORE, Rows
from mojiang.tokenizer.load import Tokenizer
from mojiang.train import _losses
from mojiang.train._batches import Examples, padded
from mojiang.train._classification import Classification, text_scores
from mojiang.train._objective import CausalLM, Losses, Objective, to_tensors
from mojiang.train._supervised import Measured

Distance = Literal["mse", "cosine"]
DISTANCES = {"mse": _losses.hidden_mse, "cosine": _losses.hidden_cosine}
PROJECTIONS = "to_teacher"
"""Name of the student's extra layers while it is trained."""
_DEPTHS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""What configs call the number of blocks."""


@dataclass(frozen=True)
class Wish:
    """What of the teacher is learned."""

    temperature: float = 2.0
    """Scores of both are divided by it, which shows more of what the teacher thinks of the unlikely."""
    alpha: float = 0.5
    """Weight of the teacher's scores; the right answers have the rest."""
    hidden_weight: float = 0.0
    """Weight of the distance of hidden states."""
    distance: Distance = "mse"

    @property
    def weights(self) -> dict[str, float]:
        """Weights of the terms that there are."""
        all_terms = {"soft": self.alpha, "hard": 1 - self.alpha, "hidden": self.hidden_weight}
        return {name: weight for name, weight in all_terms.items() if weight > 0}


def layer_map(student: int, teacher: int) -> list[int]:
    """The teacher's block for each of the student's: evenly spaced, the last for the last (Jiao et al. 2020).

    >>> layer_map(3, 6), layer_map(4, 6)
    ([1, 3, 5], [0, 2, 3, 5])
    """
    return [(number + 1) * teacher // student - 1 for number in range(student)]


def with_layers(model: Network, kept: Sequence[int], folder: Path) -> Network:
    """A network of these of the model's blocks, with everything else as it is; it is written to `folder` on the way.

    Raises:
        BadInput: the blocks of this architecture are not a list, or not all alike.
    """
    blocks = model.blocks()
    lists = [name for name, part in model.named_modules() if isinstance(part, nn.ModuleList) and list(part) == blocks]
    depths = [name for name in _DEPTHS if getattr(model.config, name, None) == len(blocks)]
    if not blocks or not lists or not depths:
        raise BadInput(f"{type(model).__name__} has no list of blocks to choose from", hint="give a student of its own")
    parent, _, leaf = lists[0].rpartition(".")
    setattr(model.get_submodule(parent), leaf, nn.ModuleList([blocks[number] for number in kept]))
    model.config = replace(model.config, **{depths[0]: len(kept)})
    save_model(model, None, folder)  # read again, blocks have the numbers and caches of their new places
    return load_model(folder, device=str(model.device))


def check_same_tokens(student: Tokenizer, teacher: Tokenizer, models: tuple[Network, Network]) -> None:
    """Raise `BadInput` if a token id, or the number of ids, means something else to the two."""
    sizes = [model.config.vocab_size for model in models]
    same = student.token_bytes == teacher.token_bytes and student.special_ids == teacher.special_ids
    if not same or sizes[0] != sizes[1]:
        raise BadInput(
            f"student and teacher have different vocabularies ({sizes[0]:,} and {sizes[1]:,} ids)",
            hint="scores of tokens can be compared only within one vocabulary; try sequences=true, or another student",
        )


def add_projections(student: Network, teacher: Network, seed: int) -> None:
    """Give the student, for its training, a layer per block from its width to the teacher's, if those differ."""
    widths = [_width(model) for model in (student, teacher)]
    if widths[0] == widths[1]:
        return
    generator = torch.Generator().manual_seed(seed)
    layers = nn.ModuleList()
    for _ in student.blocks():
        layer = Linear(widths[0], widths[1])
        layer.weight.data = torch.randn(layer.weight.shape, generator=generator) * widths[0] ** -0.5
        layers.append(layer)
    student.add_module(PROJECTIONS, layers.to(student.device))


def drop_projections(student: Network) -> None:
    """Take away what `add_projections` gave."""
    if hasattr(student, PROJECTIONS):
        delattr(student, PROJECTIONS)


@torch.no_grad()
def _width(model: Network) -> int:
    return int(model(torch.zeros(1, 1, dtype=torch.long, device=model.device)).shape[-1])


@contextmanager
def recorded(model: Network, numbers: Sequence[int]) -> Iterator[list[Tensor]]:
    """What these blocks give, in the order of `numbers`, once the model has been called."""
    states: list[Tensor] = []
    blocks = model.blocks()
    hooks = [blocks[n].register_forward_hook(lambda _block, _inputs, output: states.append(output)) for n in numbers]
    try:
        yield states
    finally:
        for hook in hooks:
            hook.remove()


class _Distilled(Objective):
    """What both kinds share: the teacher beside the student, and the distance of their hidden states."""

    teacher: Network
    wish: Wish

    def _states(self, model: Network) -> tuple[list[int], list[int]]:
        """Numbers of the blocks of student and teacher that are compared."""
        if not self.wish.hidden_weight:
            return [], []
        depth = len(model.blocks())
        return list(range(depth)), layer_map(depth, len(self.teacher.blocks()))

    def _hidden(self, model: Network, own: list[Tensor], wanted: list[Tensor], at_BT: Tensor) -> Tensor:
        """Distance of the states at these positions, the mean over blocks, summed over positions."""
        layers = getattr(model, PROJECTIONS, None) or [nn.Identity()] * len(own)
        distance = DISTANCES[self.wish.distance]
        sums = [
            distance(layer(own_BTD[at_BT]), wanted_BTE[at_BT])
            for layer, own_BTD, wanted_BTE in zip(layers, own, wanted, strict=True)
        ]
        return torch.stack(sums).mean()


@dataclass
class DistilledLM(_Distilled):
    """A language model learns the teacher's next-token distributions, on packed rows."""

    teacher: Network
    wish: Wish
    plain: CausalLM

    def __post_init__(self) -> None:
        self.weights = self.wish.weights

    def counts(self, batch: Rows) -> dict[str, float]:
        """Trained positions."""
        return dict.fromkeys(self.weights, batch.num_targets)

    def losses(self, model: Network, batch: Rows) -> Losses:
        """Divergence from the teacher, nats of the right tokens, distance of states; each summed."""
        tokens_BT, targets_BT, positions_BT, spans_N3 = to_tensors(batch, model.device)
        own, wanted = self._states(model)
        self.teacher.compute_dtype = model.compute_dtype
        with torch.no_grad(), recorded(self.teacher, wanted) as teacher_states:
            teacher_BTE = self.teacher(tokens_BT, positions_BT=positions_BT, mask=spans_N3)
        with recorded(model, own) as states:
            hidden_BTD = model(tokens_BT, positions_BT=positions_BT, mask=spans_N3)
        at_BT = targets_BT != IGNORE
        hidden_ND, losses = model.head_input(hidden_BTD[at_BT]), {}
        if "soft" in self.weights:
            with torch.no_grad():
                teacher_NE = self.teacher.head_input(teacher_BTE[at_BT])
            losses["soft"] = _losses.kd_logits(
                hidden_ND, model.head.weight, teacher_NE, self.teacher.head.weight, self.wish.temperature
            )
        if "hard" in self.weights:
            losses["hard"] = _losses.linear_cross_entropy(hidden_ND, model.head.weight, targets_BT[at_BT])
        if "hidden" in self.weights:
            losses["hidden"] = self._hidden(model, states, teacher_states, at_BT)
        return losses

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """As without a teacher: nats per token of the validation rows."""
        with torch.no_grad():
            return self.plain.validate(model, micro)


@dataclass
class DistilledClassifier(_Distilled, Measured):
    """A classifier of texts learns the teacher's probabilities; each reads the text through its own tokenizer."""

    teacher: Network
    wish: Wish
    plain: Classification
    pad_ids: tuple[int, int]
    """Of the student's tokenizer and of the teacher's."""
    validation: Examples | None = None
    better: str = "higher"

    def __post_init__(self) -> None:
        self.weights = self.wish.weights

    def counts(self, batch: Examples) -> dict[str, float]:
        """Texts; for hidden states, their tokens."""
        sizes = {"soft": float(len(batch)), "hard": float(len(batch)), "hidden": float(batch.num_tokens)}
        return {name: sizes[name] for name in self.weights}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """Divergence from the teacher, nats of the right labels, distance of states; each summed."""
        own, wanted = self._states(model)
        self.teacher.compute_dtype = model.compute_dtype
        theirs = Examples({"tokens": batch["teacher_tokens"], "segments": batch["teacher_segments"]}, "tokens")
        with torch.no_grad(), recorded(self.teacher, wanted) as teacher_states:
            teacher_BC = text_scores(self.teacher, theirs, self.pad_ids[1])
        with recorded(model, own) as states:
            scores_BC = text_scores(model, batch, self.pad_ids[0])
        losses = {}
        if "soft" in self.weights:
            losses["soft"] = kd_scores(scores_BC, teacher_BC, self.wish.temperature)
        if "hard" in self.weights:
            labels_B = torch.from_numpy(batch["label"]).to(scores_BC.device)
            losses["hard"] = F.cross_entropy(scores_BC, labels_B, reduction="sum")
        if "hidden" in self.weights:
            tokens_BT, spans_N3 = padded(batch["tokens"], 0, scores_BC.device)
            at_BT = torch.arange(tokens_BT.shape[1], device=scores_BC.device) < spans_N3[:, 2:]
            losses["hidden"] = self._hidden(model, states, teacher_states, at_BT)
        return losses

    def measure(self, model: Network, examples: Examples, micro: int) -> dict[str, float]:
        """As without a teacher: accuracy, macro F1 and loss."""
        return self.plain.measure(model, examples, micro)


def kd_scores(scores_BC: Tensor, teacher_BC: Tensor, temperature: float) -> Tensor:
    """Divergence of class probabilities from the teacher's, times temperature², summed (Hinton et al. 2015)."""
    own_BC, wanted_BC = ((x.float() / temperature).log_softmax(-1) for x in (scores_BC, teacher_BC))
    return F.kl_div(own_BC, wanted_BC, reduction="sum", log_target=True) * temperature**2


def teacher_answers(
    conversations: Sequence[Mapping[str, Any]], teacher: Network, tokenizer: Tokenizer, max_tokens: int, file: Path
) -> tuple[list[dict[str, Any]], int]:
    """The conversations with their last answer as the teacher writes it, greedily, and how many are left out.

    Left out is what has no room, no answer, or one that does not end. Written once, to `file`.
    Source: Kim & Rush 2016 (sequence-level knowledge distillation).
    """
    if not file.exists():
        answers = _answers(conversations, teacher, tokenizer, max_tokens)
        atomic_write(file, "".join(json.dumps(answer) + "\n" for answer in answers))
    made = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    if not made:
        raise BadInput("the teacher has finished no answer", hint="allow longer ones (max_tokens)")
    return made, len(conversations) - len(made)


def _answers(
    conversations: Sequence[Mapping[str, Any]], teacher: Network, tokenizer: Tokenizer, max_tokens: int
) -> Iterator[dict[str, Any]]:
    room = teacher.config.max_position_embeddings - max_tokens
    asked = []
    for row in conversations:
        messages = list(row["messages"])
        while messages and messages[-1]["role"] == "assistant":
            messages.pop()
        ids = tokenizer.render_chat(messages, add_generation_prompt=True) if messages else []
        if 0 < len(ids) <= room:
            asked.append((messages, tuple(ids)))
    longest = max((len(ids) for _, ids in asked), default=1) + max_tokens
    with Engine(teacher, tokenizer, slots=16, context=longest) as engine:
        requests = [GenerationRequest(ids, max_tokens, Sampling(temperature=0.0)) for _, ids in asked]
        streams = [engine.submit(request, wait=True) for request in requests]
        for (messages, _), stream in zip(asked, streams, strict=True):
            answer = stream.result()
            if answer.text.strip() and answer.finish_reason == "stop":
                yield {"messages": [*messages, {"role": "assistant", "content": answer.text}]}
