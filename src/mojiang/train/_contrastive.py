"""Embeddings of texts: pairs that belong together end up close, all others of the batch apart.

Every pair's loss depends on all texts of the global batch. GradCache (Gao et al. 2021) makes that fit into memory: the
embeddings of the whole batch are computed first without gradients, the loss gives the gradient of each embedding, and
then each micro-batch is computed again and its embeddings get their gradient. What comes out is the gradient of the
whole batch, exactly, whatever the micro-batches and ranks; dropout is the same in both passes because it is a function
of the row.

Tensor names: B pairs of a (micro-)batch · N pairs of the global batch · T positions · D size of an embedding
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.core.files import atomic_write
from mojiang.model._layers import set_dropout_keys
from mojiang.model.decoder import last_tokens
from mojiang.model.network import Network
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._batches import Examples, padded
from mojiang.train._losses import info_nce
from mojiang.train._objective import Losses
from mojiang.train._parallel import World
from mojiang.train._supervised import Measured

Pooling = Literal["mean", "cls", "last"]
SIDES = ("anchor", "positive")
_MODES = {"cls": "cls_token", "mean": "mean_tokens", "last": "lasttoken"}


def encode_texts(rows: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, context: int) -> tuple[Examples, int]:
    """Pairs (source, target) as examples (anchor, positive), and how many lost an end to fit into `context` tokens."""
    columns: dict[str, list[Any]] = {"anchor": [], "positive": [], "both": []}
    cut = 0
    for row in rows:
        sides = [tokenizer.encode_pair(row[name], None, context)[0] for name in ("source", "target")]
        if not all(sides):
            raise BadInput(f"a text has no token: {row!r:.200}", hint="look at the tokenizer's report")
        cut += any(len(ids) == context for ids in sides)
        for side, ids in zip(SIDES, sides, strict=True):
            columns[side].append(np.array(ids, np.int64))
        columns["both"].append(np.zeros(sum(map(len, sides)), np.int8))  # what a pair costs
    return Examples(columns, tokens="both"), cut


def embed(model: Network, tokens: Sequence[Any], pooling: Pooling) -> Tensor:
    """Embeddings (B, D) of texts, fp32: the mean of their tokens' states, or the state of the first or the last."""
    tokens_BT, spans_N3 = padded(tokens, getattr(model.config, "pad_token_id", None) or 0, model.device)
    hidden_BTD: Tensor = model(tokens_BT, mask=spans_N3)
    if pooling == "cls":
        return hidden_BTD[:, 0].float()
    if pooling == "last":
        return last_tokens(hidden_BTD, spans_N3).float()
    lengths_B1 = spans_N3[:, 2:]
    inside_BT = torch.arange(hidden_BTD.shape[1], device=hidden_BTD.device) < lengths_B1
    return (hidden_BTD.float() * inside_BT[..., None]).sum(1) / lengths_B1


@dataclass
class Contrast(Measured):
    """InfoNCE with the other pairs of the global batch as negatives."""

    pooling: Pooling
    temperature: float
    symmetric: bool
    micro: int
    """Tokens at once in the first pass."""
    validation: Examples | None = None
    better: str = "higher"

    def counts(self, batch: Examples) -> dict[str, float]:
        """Pairs."""
        return {"loss": len(batch)}

    def prepare(self, model: Network, batch: Examples, step: int, world: World) -> Examples:
        """The gradient of each embedding, from those of the whole batch."""
        with torch.no_grad():
            own = self._embed_all(model, batch, self.micro, world)
        everyone = [world.gather(side_BD).detach().requires_grad_() for side_BD in own]
        loss = info_nce(everyone[0], everyone[1], self.temperature, symmetric=self.symmetric)
        loss.backward()  # type: ignore[no-untyped-call]
        mine = list(world.share(len(everyone[0])))
        gradients = {
            f"{side}_gradient": all_ND.grad[mine].cpu().numpy()  # type: ignore[index]
            for side, all_ND in zip(SIDES, everyone, strict=True)
        }
        share = np.full(len(batch), loss.item() / len(everyone[0]), np.float32)
        return batch.replace(**gradients, share=share)

    def losses(self, model: Network, batch: Examples) -> Losses:
        """Something with the value and the gradient of this micro-batch's share of the whole batch's loss."""
        total = torch.zeros((), device=model.device)
        for side in SIDES:
            gradient_BD = torch.as_tensor(batch[f"{side}_gradient"], device=model.device)
            total = total + (self._embed(model, batch, side) * gradient_BD).sum()
        return {"loss": total - total.detach() + float(batch["share"].sum())}

    def _embed(self, model: Network, batch: Examples, side: str) -> Tensor:
        """Embeddings of one side; the two sides of a pair lose different activations."""
        if model.training and "key" in batch.columns:
            keys_B = torch.as_tensor(2 * batch["key"] + SIDES.index(side), device=model.device)
            set_dropout_keys(model, keys_B)
        return embed(model, batch[side], self.pooling)

    def _embed_all(self, model: Network, examples: Examples, micro: int, world: World | None = None) -> list[Tensor]:
        """Embeddings (B, D) of both sides, in the order of the examples."""
        order: list[int] = []
        found: tuple[list[Tensor], list[Tensor]] = ([], [])
        for rows, counts in (world or World()).rounds(list(examples.micro(micro))):
            part = examples.take(rows)
            sides = [self._embed(model, part, side) for side in SIDES]
            if counts:
                order += rows
                for parts, side_BD in zip(found, sides, strict=True):
                    parts.append(side_BD)
        back = torch.tensor(np.argsort(order), device=model.device)
        return [torch.cat(parts)[back] for parts in found]

    @torch.no_grad()
    def measure(self, model: Network, examples: Examples, micro: int) -> dict[str, float]:
        """How the positive of each anchor ranks among all positives: mean reciprocal rank, share of first places."""
        anchors_ND, positives_ND = (F.normalize(side, dim=-1) for side in self._embed_all(model, examples, micro))
        numbers: dict[bytes, int] = {}  # equal texts are one thing to be found, wherever they stand
        found = [numbers.setdefault(row.tobytes(), len(numbers)) for row in examples["positive"]]
        own = torch.tensor(found, device=model.device)
        kept_KD = positives_ND[torch.from_numpy(np.unique(found, return_index=True)[1]).to(model.device)]
        ranks = []
        for rows in torch.arange(len(examples), device=model.device).split(1024):  # type: ignore[no-untyped-call]
            scores_RK = anchors_ND[rows] @ kept_KD.T
            right_R1 = scores_RK.gather(1, own[rows, None])
            # What scores the same stands before it, or a model that gives one vector to all would be perfect.
            ranks.append((scores_RK >= right_R1).sum(1))
        ranks_N = torch.cat(ranks).double()
        return {"mrr": float((1 / ranks_N).mean()), "recall_at_1": float((ranks_N == 1).double().mean())}


def without_pooler(model: Network) -> Network:
    """The network without the layer that BERT puts on its first token, which embeddings do not use."""
    trunk = getattr(model, model.prefix, None)
    if hasattr(trunk, "pooler") and getattr(model.config, "add_pooling_layer", False):
        del trunk.pooler  # type: ignore[union-attr]
        model.config = replace(model.config, add_pooling_layer=False)
    return model


def save_pooling(out: Path, pooling: Pooling, size: int, context: int) -> None:
    """Write what sentence-transformers wants to know beside a model folder: the modules and how states are pooled."""
    modules = [
        {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
        {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
    ]
    modes = {f"pooling_mode_{name}": name == _MODES[pooling] for name in _MODES.values()}
    others = dict.fromkeys(("max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens"), False)
    settings = {
        "word_embedding_dimension": size,
        **modes,
        **{f"pooling_mode_{name}": no for name, no in others.items()},
    }
    (out / "1_Pooling").mkdir(exist_ok=True)
    files = {
        "modules.json": modules,
        "1_Pooling/config.json": {**settings, "include_prompt": True},
        "sentence_bert_config.json": {"max_seq_length": context, "do_lower_case": False},
    }
    for name, content in files.items():
        atomic_write(out / name, json.dumps(content, indent=2) + "\n")


def read_pooling(folder: Path) -> Pooling:
    """How a folder's states are pooled; `BadInput` if it does not say, or in a way that is not computed here."""
    try:
        settings = json.loads((folder / "1_Pooling" / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(f"{folder} does not say how to pool", hint="make it by train.contrastive") from None
    given = [name for name, on in settings.items() if name.startswith("pooling_mode_") and on is True]
    for pooling in get_args(Pooling):
        if given == [f"pooling_mode_{_MODES[pooling]}"]:
            return pooling  # type: ignore[no-any-return]
    raise BadInput(f"{folder} pools by {', '.join(given) or 'nothing'}", hint=f"computed are {', '.join(_MODES)}")
