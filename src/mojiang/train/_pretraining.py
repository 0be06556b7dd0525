"""Pre-training objectives other than predicting the next token: what is hidden from a text, and what is asked about it.

    masked            which token stood here?                                     packed rows     BERT, RoBERTa, …
    masked_nsp, _sop  and: does this text follow that one, are the two in order?  padded pairs    BERT, ALBERT
    replaced_token    which tokens did a small model replace?                     packed rows     ELECTRA
    span_corruption   what stood in the holes?                                    padded          T5
    denoising         what was the text before it was garbled?                    padded          BART

Their batches come from `_corruption`.

Tensor names: B rows · T positions · S source positions · N chosen positions · D hidden size · V vocabulary · X experts
P pairs
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mojiang.model._moe import load_balancing_loss
from mojiang.model.network import Network
from mojiang.tokenizer._pack import IGNORE, Rows
from mojiang.train._batches import Examples, padded
from mojiang.train._corruption import Ints, Noise, Sampled, num_used
from mojiang.train._losses import linear_cross_entropy, replaced_token
from mojiang.train._noise import replaced_tokens
from mojiang.train._objective import CausalLM, Losses, Objective, to_tensors

CHUNK = 1024
"""Positions whose logits are held at once where no gradient is wanted."""


def causal(model: Network, validation: Any) -> CausalLM:
    """The next token; with a mixture of experts also their balance."""
    config = model.config
    if getattr(config, "num_experts", 0) == 0:
        return CausalLM(validation)
    return BalancedLM(validation, True, config.num_experts_per_tok, config.router_aux_loss_coef)


def objective(noise: Noise, validation: Iterable[Any] = ()) -> Objective:
    """The objective of that name."""
    if noise.objective == "masked":
        return MaskedLM(validation)
    if noise.objective == "replaced_token":
        return ReplacedToken(noise.tokenizer.vocab_size, validation)
    pad_id = noise.tokenizer.special_id("pad") or 0
    if noise.objective in ("masked_nsp", "masked_sop"):
        return MaskedPairs(pad_id, validation)
    return Denoising(pad_id, validation)


def masked_positions(hidden_BTD: Tensor, targets_BT: Ints) -> tuple[Tensor, Tensor]:
    """Hidden states (N, D) and targets (N,) of the positions that have one.

    They are found on the host, so that nothing waits for the device.
    """
    at_N = np.flatnonzero(targets_BT != IGNORE)
    targets_N = torch.from_numpy(targets_BT.ravel()[at_N]).to(hidden_BTD.device)
    return hidden_BTD.flatten(0, 1)[torch.from_numpy(at_N).to(hidden_BTD.device)], targets_N


def vocabulary_loss(model: Network, hidden_ND: Tensor, targets_N: Tensor) -> Tensor:
    """Nats of the targets, summed; the projection is computed where there is one only."""
    head = model.head
    return linear_cross_entropy(model.head_input(hidden_ND), head.weight, targets_N, head.bias)


@torch.no_grad()
def num_right(model: Network, hidden_ND: Tensor, targets_N: Tensor) -> int:
    """How many targets are the likeliest token."""
    head, inputs_ND = model.head, model.head_input(hidden_ND)
    chunks = zip(torch.split(inputs_ND, CHUNK), torch.split(targets_N, CHUNK), strict=True)
    return sum(int((head(part_ND).argmax(-1) == right_N).sum()) for part_ND, right_N in chunks)


class Tally(dict[str, float]):
    """Sums by name."""

    def add(self, **values: Any) -> None:
        """Add to each."""
        for name, value in values.items():
            self[name] = self.get(name, 0.0) + float(value)

    def mean(self, name: str, count: str) -> float:
        """One sum over another."""
        return self.get(name, 0.0) / max(1.0, self.get(count, 0.0))


def parts(batches: Iterable[Any], micro: int) -> Iterator[Any]:
    """The micro-batches of all batches."""
    for batch in batches:
        for rows in batch.micro(micro):
            yield batch.take(rows)


@dataclass
class MaskedLM(Objective):
    """Fill in the masked tokens of packed rows (Devlin et al. 2019; Liu et al. 2019, without a second task)."""

    validation: Iterable[Rows] = ()

    def counts(self, batch: Rows) -> dict[str, float]:
        """Masked tokens."""
        return {"loss": batch.num_targets}

    def losses(self, model: Network, batch: Rows) -> Losses:
        """Nats of all masked tokens."""
        return {"loss": vocabulary_loss(model, *self._masked(model, batch))}

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Nats per masked token, and how many are guessed right."""
        sums = Tally()
        for part in parts(self.validation, micro):
            hidden_ND, targets_N = self._masked(model, part)
            nats, right = vocabulary_loss(model, hidden_ND, targets_N), num_right(model, hidden_ND, targets_N)
            sums.add(nats=nats.item(), right=right, masked=len(targets_N))
        return _masked_figures(sums)

    def _masked(self, model: Network, batch: Rows) -> tuple[Tensor, Tensor]:
        tokens_BT, _, positions_BT, spans_N3 = to_tensors(batch, model.device)
        return masked_positions(model(tokens_BT, positions_BT=positions_BT, mask=spans_N3), batch.targets_BT)


def _masked_figures(sums: Tally) -> dict[str, float]:
    if not sums:
        return {}
    figures = {"validation_loss": sums.mean("nats", "masked")}
    return {**figures, "validation_masked_accuracy": sums.mean("right", "masked")}


@dataclass
class MaskedPairs(Objective):
    """Fill in the masked tokens of two texts, and tell whether they belong together.

    That the second is another text's (BERT; Devlin et al. 2019), or the two are swapped (ALBERT; Lan et al. 2020):
    the batch's labels say which. Both terms count alike, as in the papers.
    """

    pad_id: int
    validation: Iterable[Examples] = ()
    weights = {"masked": 1.0, "pair": 1.0}

    def counts(self, batch: Examples) -> dict[str, float]:
        """Masked tokens, and pairs."""
        return {"masked": sum(int((row != IGNORE).sum()) for row in batch["targets"]), "pair": len(batch)}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """Nats of all masked tokens, and of the right answers about the pairs."""
        hidden_ND, targets_N, scores_P2 = self._read(model, batch)
        labels_P = torch.from_numpy(batch["label"]).to(scores_P2.device)
        pair = F.cross_entropy(scores_P2.float(), labels_P, reduction="sum")
        return {"masked": vocabulary_loss(model, hidden_ND, targets_N), "pair": pair}

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Nats per masked token, how many are guessed right, and how many pairs."""
        sums = Tally()
        for part in parts(self.validation, micro):
            hidden_ND, targets_N, scores_P2 = self._read(model, part)
            nats, right = vocabulary_loss(model, hidden_ND, targets_N), num_right(model, hidden_ND, targets_N)
            judged = scores_P2.argmax(-1).cpu().numpy() == part["label"]
            sums.add(nats=nats.item(), right=right, masked=len(targets_N), judged=judged.sum(), pairs=len(part))
        figures = _masked_figures(sums)
        return {**figures, "validation_pair_accuracy": sums.mean("judged", "pairs")} if figures else {}

    def _read(self, model: Network, batch: Examples) -> tuple[Tensor, Tensor, Tensor]:
        tokens_BT, spans_N3 = padded(batch["tokens"], self.pad_id, model.device)
        targets_BT, segments_BT = padded(batch["targets"], IGNORE)[0], padded(batch["segments"], 0, model.device)[0]
        hidden_BTD = model(tokens_BT, mask=spans_N3, segments_BT=segments_BT)
        return *masked_positions(hidden_BTD, targets_BT.numpy()), model.scores(hidden_BTD, spans_N3)


class Replacing(Network):
    """ELECTRA while it is trained: a generator that fills in masks, and the discriminator, which is what is kept.

    The embeddings are shared.
    """

    no_muon = ("generator.generator_predictions.", "discriminator.discriminator_predictions.")

    def __init__(self, generator: Any, discriminator: Any) -> None:
        super().__init__()
        self.generator, self.discriminator = generator, discriminator
        self.config = discriminator.config
        discriminator.share_embeddings(generator)

    @property
    def compute_dtype(self) -> torch.dtype:
        """Of both networks' activations."""
        dtype: torch.dtype = self.discriminator.compute_dtype
        return dtype

    @compute_dtype.setter
    def compute_dtype(self, dtype: torch.dtype) -> None:
        for network in self.children():
            network.compute_dtype = dtype  # type: ignore[assignment]

    @property
    def head(self) -> nn.Linear:
        """The generator's vocabulary projection."""
        head: nn.Linear = self.generator.head
        return head

    def blocks(self) -> list[nn.Module]:
        """The layers of both."""
        return [*self.generator.blocks(), *self.discriminator.blocks()]

    def init_weights(self, seed: int) -> Replacing:
        """Initialise both."""
        self.generator.init_weights(seed + 1)
        self.discriminator.init_weights(seed)  # after it, for the embeddings are its own
        return self


@dataclass
class ReplacedToken(Objective):
    """Tell which tokens a generator replaced, which is trained to fill in masks beside (Clark et al. 2020, ELECTRA)."""

    vocab_size: int
    """Samples are among so many tokens: the vocabulary of a model may be padded."""
    validation: Iterable[Sampled] = ()
    weights = {"generator": 1.0, "replaced": 50.0}

    def counts(self, batch: Sampled) -> dict[str, float]:
        """Masked tokens, and all tokens."""
        return {"generator": batch.num_targets, "replaced": batch.num_tokens}

    def losses(self, model: Network, batch: Sampled) -> Losses:
        """Nats of the generator's masked tokens, and of the right answers about all tokens."""
        nats, scores_N, replaced_N = self._judge(model, batch)
        return {"generator": nats, "replaced": replaced_token(scores_N, replaced_N)}

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """The loss; how well replaced tokens are told: accuracy and F1; the generator's nats per masked token."""
        sums = Tally()
        for part in parts(self.validation, micro):
            nats, scores_N, replaced_N = self._judge(model, part)
            found_N, is_N = scores_N > 0, replaced_N > 0
            sums.add(
                generator=nats.item(), replaced=replaced_token(scores_N, replaced_N).item(), masked=part.num_targets,
                tokens=len(scores_N), right=(found_N == is_N).sum(), hits=(found_N & is_N).sum(),
                named=found_N.sum() + is_N.sum(),
            )  # fmt: skip
        if not sums:
            return {}
        generator, replaced = sums.mean("generator", "masked"), sums.mean("replaced", "tokens")
        return {
            "validation_loss": self.weights["generator"] * generator + self.weights["replaced"] * replaced,
            "validation_replaced_accuracy": sums.mean("right", "tokens"),
            "validation_replaced_f1": 2 * sums.mean("hits", "named"),
            "validation_generator_loss": generator,
        }

    def _judge(self, model: Any, batch: Sampled) -> tuple[Tensor, Tensor, Tensor]:
        """The generator's nats; scores of all tokens and whether each was replaced, (N,) both."""
        tokens_BT, _, positions_BT, spans_N3 = to_tensors(batch, model.device)
        hidden_BTD = model.generator(tokens_BT, positions_BT=positions_BT, mask=spans_N3)
        hidden_ND, targets_N = masked_positions(hidden_BTD, batch.targets_BT)
        nats = vocabulary_loss(model.generator, hidden_ND, targets_N)
        masked_BT = batch.targets_BT != IGNORE
        draws_N = torch.from_numpy(batch.draws_BT[masked_BT]).to(model.device)
        original_BT, sampled_BT = np.where(masked_BT, batch.targets_BT, batch.tokens_BT), batch.tokens_BT.copy()
        sampled_BT[masked_BT] = sample_tokens(model.generator, hidden_ND, draws_N, self.vocab_size).cpu().numpy()
        inputs_BT, replaced_BT = replaced_tokens(original_BT, batch.targets_BT, sampled_BT)
        read_BT = torch.from_numpy(inputs_BT).to(model.device)
        judged_BTD = model.discriminator(read_BT, positions_BT=positions_BT, mask=spans_N3)
        at_N = np.flatnonzero(np.arange(inputs_BT.shape[1]) < num_used(batch)[:, None])
        there_N = torch.from_numpy(at_N).to(model.device)
        scores_N = model.discriminator.scores(judged_BTD.flatten(0, 1)[there_N])
        return nats, scores_N, torch.from_numpy(replaced_BT.ravel()[at_N]).to(model.device)


@torch.no_grad()
def sample_tokens(model: Network, hidden_ND: Tensor, draws_N: Tensor, vocab_size: int) -> Tensor:
    """A token for each position, from the model's distribution: where its running sum passes the number drawn."""
    head, inputs_ND = model.head, model.head_input(hidden_ND)
    found = [draws_N.new_zeros(0, dtype=torch.int64)]
    for part_ND, draws in zip(torch.split(inputs_ND, CHUNK), torch.split(draws_N, CHUNK), strict=True):
        sums_NV = head(part_ND)[:, :vocab_size].float().softmax(-1).cumsum(-1)
        passed_N1 = (draws[:, None] * sums_NV[:, -1:]).float()
        found.append(torch.searchsorted(sums_NV, passed_N1, right=True)[:, 0].clamp(max=vocab_size - 1))
    return torch.cat(found)


@dataclass
class BalancedLM(CausalLM):
    """Predict the next token with a mixture of experts, and use its experts alike within every row.

    The balance is that of each row, not of the batch, so that it is a sum (DeepSeek-AI 2024, section 2.1.2).
    """

    num_chosen: int = 2
    coefficient: float = 0.001

    def __post_init__(self) -> None:
        self.weights = {"next": 1.0, "balance": self.coefficient}

    def counts(self, batch: Rows) -> dict[str, float]:
        """Trained positions, and rows."""
        return {"next": batch.num_targets, "balance": len(batch)}

    def losses(self, model: Network, batch: Rows) -> Losses:
        """Nats of all trained tokens, and each row's balance."""
        decoder: Any = model
        decoder.keep_router_logits()
        nats = super().losses(model, batch)["loss"]
        layers = [logits.unflatten(0, batch.tokens_BT.shape) for logits in decoder.take_router_logits()]
        balances = [
            load_balancing_loss([logits_BTX[row, :used] for logits_BTX in layers], self.num_chosen)
            for row, used in enumerate(num_used(batch).tolist())
            if used
        ]
        return {"next": nats, "balance": torch.stack(balances).sum() if balances else nats.detach() * 0}

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Bits per byte, as of any decoder."""
        return CausalLM(self.validation, self.bits).validate(model, micro)


@dataclass
class Denoising(Objective):
    """Write the targets of a garbled text (Raffel et al. 2020, T5's holes; Lewis et al. 2020, BART's whole text)."""

    pad_id: int
    validation: Iterable[Examples] = ()

    def counts(self, batch: Examples) -> dict[str, float]:
        """Target tokens."""
        return {"loss": sum(len(row) for row in batch["targets"])}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """Nats of all target tokens."""
        seq2seq: Any = model
        tokens_BS, spans_N3 = padded(batch["tokens"], self.pad_id, model.device)
        targets_BT, _ = padded(batch["targets"], IGNORE, model.device)
        hidden_BTD = seq2seq(tokens_BS, seq2seq.shift_right(targets_BT), mask=spans_N3)
        return {"loss": vocabulary_loss(model, hidden_BTD.flatten(0, 1), targets_BT.flatten())}

    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Nats per target token."""
        sums = Tally()
        for part in parts(self.validation, micro):
            sums.add(nats=self.losses(model, part)["loss"].item(), **self.counts(part))
        return {"validation_loss": sums.mean("nats", "loss")} if sums else {}
