"""Learning from preferences: pairs of answers (DPO, IPO, ORPO), or answers called good or bad (KTO).

The reference is the model before training. What it thinks of every answer is computed once, before the first step, so
no second model is in memory while training.

Tensor names: B answers · T positions · N trained tokens
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.core.run import Run
from mojiang.data.examples import has_split, read_examples
from mojiang.model.lora import adapter_off
from mojiang.model.network import Network
from mojiang.tokenizer._pack import IGNORE
from mojiang.tokenizer.load import Tokenizer
from mojiang.train import _losses
from mojiang.train._batches import Examples, padded
from mojiang.train._objective import Losses, Objective
from mojiang.train._parallel import World

Encoded = tuple[NDArray[np.int64], NDArray[np.int64]]
"""Tokens of a conversation, and for each the next token if it belongs to the answer, else `IGNORE`."""


def encode_answer(prompt: list[dict[str, Any]], answer: str, tokenizer: Tokenizer) -> Encoded:
    """A prompt with an answer; trained on is the answer with its stop token."""
    # An assistant's turn earlier in the prompt is context, not the answer that is judged.
    ids, trained = tokenizer.chat_spans([*prompt, {"role": "assistant", "content": answer}], last_only=True)
    stop = 1 + max((at for at, flag in enumerate(trained) if flag), default=0)  # what follows the stop token is layout
    tokens = np.array(ids[:stop], np.int64)
    targets = np.where(trained[1:stop], tokens[1:], IGNORE)
    return tokens[:-1], targets


def encode_pairs(rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, context: int) -> tuple[Examples, int]:
    """Preference rows as examples, one per pair; also the number of those too long for the context."""
    columns: dict[str, list[Any]] = {"chosen": [], "chosen_targets": [], "rejected": [], "rejected_targets": []}
    columns["both"] = []
    too_long = 0
    for row in rows:
        pair = [encode_answer(list(row["prompt"]), row[side], tokenizer) for side in ("chosen", "rejected")]
        if max(len(tokens) for tokens, _ in pair) > context:
            too_long += 1
            continue
        for side, (tokens, targets) in zip(("chosen", "rejected"), pair, strict=True):
            columns[side].append(tokens)
            columns[f"{side}_targets"].append(targets)
        columns["both"].append(np.zeros(len(pair[0][0]) + len(pair[1][0]), np.int64))
    if not columns["both"]:
        raise BadInput("there is no pair of answers to train on", hint=f"{too_long} were longer than {context} tokens")
    return Examples(columns, tokens="both"), too_long


def encode_judged(rows: Iterable[Mapping[str, Any]], tokenizer: Tokenizer, context: int) -> tuple[Examples, int]:
    """Answers each called desirable or not, as examples; a pair gives two. Also the number that is too long."""
    columns: dict[str, list[Any]] = {"answer": [], "answer_targets": [], "other": [], "other_targets": [], "good": []}
    prompts, answers, too_long = [], [], 0
    for row in rows:
        for text, good in _judged(row):
            tokens, targets = encode_answer(list(row["prompt"]), text, tokenizer)
            if len(tokens) > context:
                too_long += 1
                continue
            prompts.append(list(row["prompt"]))
            answers.append(text)
            columns["answer"].append(tokens)
            columns["answer_targets"].append(targets)
            columns["good"].append(good)
    if not answers:
        raise BadInput("there is no answer to train on", hint=f"{too_long} were longer than {context} tokens")
    for number, prompt in enumerate(prompts):  # a prompt with another's answer: what KTO measures its divergence on
        tokens, targets = encode_answer(prompt, answers[(number + 1) % len(answers)], tokenizer)
        columns["other"].append(tokens[:context])
        columns["other_targets"].append(targets[:context])
    return Examples({**columns, "good": np.array(columns["good"])}, tokens="answer"), too_long


def _judged(row: Mapping[str, Any]) -> list[tuple[str, bool]]:
    if row.get("completion") is not None:
        return [(row["completion"], bool(row["desirable"]))]
    return [(row["chosen"], True), (row["rejected"], False)]


def read_preferences(
    run: Run, model: Network, tokenizer: Tokenizer, split: str, context: int, judged: bool = False
) -> Examples | None:
    """A split of the run's input `data` as examples (pairs, or answers `judged` one by one); None where there is none.

    What is longer than `context` is left out, with a warning that says how much.
    """
    data = run.input("data").path
    if split != "train" and not has_split(data, split, "preferences"):
        return None
    context = min(context, model.config.max_position_embeddings)
    encode = encode_judged if judged else encode_pairs
    examples, too_long = encode(read_examples(data, split, "preferences"), tokenizer, context)
    if too_long:
        run.warn(f"{too_long} of the {split} split's answers are longer than {context} tokens and are left out")
    return examples


def answer_logprobs(model: Network, tokens: list[Any], targets: list[Any]) -> tuple[Tensor, Tensor]:
    """Log-probability of each row's trained tokens, summed, and their number; both (B,)."""
    tokens_BT, spans_N3 = padded(tokens, 0, model.device)
    targets_BT, _ = padded(targets, IGNORE, model.device)
    hidden_BTD = model(tokens_BT, mask=spans_N3)
    at_BT = targets_BT != IGNORE
    logprobs_N = _losses.token_logprobs(model.head_input(hidden_BTD[at_BT]), model.head.weight, targets_BT[at_BT])
    rows_N = at_BT.nonzero()[:, 0]
    sums_B = torch.zeros(len(tokens), device=model.device).index_add(0, rows_N, logprobs_N)
    return sums_B, at_BT.sum(dim=1)


def reference_logprobs(
    run: Run, model: Network, examples: Examples, sides: list[str], file: Path, micro: int
) -> Examples:
    """The examples with what the untrained model thinks of them; computed once and kept in `file`."""
    if file.exists():
        kept = np.load(file)
        return examples.replace(**{f"{side}_reference": kept[side] for side in sides})
    found = {side: np.zeros(len(examples), np.float32) for side in sides}
    done = 0
    for rows in examples.micro(micro):
        part = examples.take(rows)
        for side in sides:
            found[side][rows] = of_reference(model, part, side).cpu()
        done += len(rows)
        run.progress(done, len(examples), unit="examples", step="reference")
        run.check_stop()
    temporary = file.with_suffix(".tmp.npz")
    np.savez(temporary, **found)  # type: ignore[arg-type]
    temporary.replace(file)
    return examples.replace(**{f"{side}_reference": found[side] for side in sides})


@torch.no_grad()
def of_reference(model: Network, batch: Examples, side: str) -> Tensor:
    """What the untrained model thinks of a side's answers, (B,): as computed before, or asked without the adapter."""
    before = f"{side}_reference"
    if before in batch.columns:
        return torch.as_tensor(batch[before], device=model.device)
    training = model.training
    model.eval()
    with adapter_off(model):
        sums_B, _ = answer_logprobs(model, batch[side], batch[f"{side}_targets"])
    model.train(training)
    return sums_B.float()


@dataclass
class Preference(Objective):
    """The losses on pairs: dpo, ipo, orpo."""

    kind: str
    beta: float
    validation: Examples | None = None
    better: str = "lower"
    _figures: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.weights = {"nll": 1.0, "odds": self.beta} if self.kind == "orpo" else {"loss": 1.0}

    def counts(self, batch: Examples) -> dict[str, float]:
        """Pairs; for orpo's likelihood term the chosen answers' tokens."""
        if self.kind != "orpo":
            return {"loss": len(batch)}
        return {"nll": sum(int((t != IGNORE).sum()) for t in batch["chosen_targets"]), "odds": len(batch)}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """The loss of every pair, summed."""
        losses, margins_B = self._judge(model, batch)
        self._figures = {"margin": float(margins_B.mean()), "accuracy": float((margins_B > 0).float().mean())}
        return losses

    def _judge(self, model: Network, batch: Examples) -> tuple[Losses, Tensor]:
        n = len(batch)
        sums, lengths = answer_logprobs(
            model, [*batch["chosen"], *batch["rejected"]], [*batch["chosen_targets"], *batch["rejected_targets"]]
        )
        chosen_B, rejected_B = sums[:n], sums[n:]
        if self.kind == "orpo":
            odds_sum, margins_B = _losses.orpo(chosen_B / lengths[:n], rejected_B / lengths[n:])
            return {"nll": -chosen_B.sum(), "odds": odds_sum}, margins_B.detach()
        ratios = (chosen_B - of_reference(model, batch, "chosen"), rejected_B - of_reference(model, batch, "rejected"))
        if self.kind == "ipo":
            ratios = (ratios[0] / lengths[:n], ratios[1] / lengths[n:])
            return {"loss": _losses.ipo(*ratios, self.beta)}, (ratios[0] - ratios[1]).detach()
        return {"loss": _losses.dpo(*ratios, self.beta)}, self.beta * (ratios[0] - ratios[1]).detach()

    @torch.no_grad()
    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Loss, mean margin and share of pairs whose chosen answer gained more, on the validation pairs."""
        if self.validation is None:
            return {}
        total, margins = 0.0, []
        counts = self.counts(self.validation)
        for rows in self.validation.micro(micro):
            losses, margins_B = self._judge(model, self.validation.take(rows))
            total += sum(float(value) * self.weights[name] / counts[name] for name, value in losses.items())
            margins += margins_B.tolist()
        right = sum(margin > 0 for margin in margins) / len(margins)
        return {"validation_loss": total, "validation_margin": float(np.mean(margins)), "validation_accuracy": right}

    def diagnostics(self) -> dict[str, float]:
        """Margin and accuracy of the last micro-batch."""
        return self._figures


@dataclass
class Judged(Objective):
    """KTO (Ethayarajh et al. 2024): answers that are good or bad, without pairs."""

    beta: float
    micro: int
    validation: Examples | None = None
    better: str = "lower"

    def counts(self, batch: Examples) -> dict[str, float]:
        """Answers."""
        return {"loss": len(batch)}

    @torch.no_grad()
    def prepare(self, model: Network, batch: Examples, step: int, world: World) -> Examples:
        """The divergence from the reference that an answer is measured against: a mean over the whole batch."""
        gains = np.zeros(len(batch), np.float32)
        for rows in batch.micro(self.micro):
            part = batch.take(rows)
            logprobs_B, _ = answer_logprobs(model, part["other"], part["other_targets"])
            gains[rows] = (logprobs_B.float() - of_reference(model, part, "other")).cpu().numpy()
        mean = world.total({"sum": float(gains.sum()), "count": float(len(batch))})
        divergence = max(0.0, mean["sum"] / mean["count"])
        return batch.replace(divergence=np.full(len(batch), divergence, np.float32))

    def losses(self, model: Network, batch: Examples) -> Losses:
        """The loss of every answer, summed."""
        logprobs_B, _ = answer_logprobs(model, batch["answer"], batch["answer_targets"])
        ratios_B = logprobs_B - of_reference(model, batch, "answer")
        good_B = torch.as_tensor(batch["good"], device=logprobs_B.device)
        divergence = torch.tensor(float(batch["divergence"][0]), device=logprobs_B.device)
        return {"loss": _losses.kto(ratios_B, good_B, divergence, self.beta)}

    @torch.no_grad()
    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Loss, and how much more the good answers gained than the bad ones, on the validation answers."""
        if self.validation is None:
            return {}
        held_out = self.prepare(model, self.validation, 0, World())
        total, gains = 0.0, np.zeros(len(held_out))
        for rows in held_out.micro(micro):
            part = held_out.take(rows)
            logprobs_B, _ = answer_logprobs(model, part["answer"], part["answer_targets"])
            gains[rows] = (logprobs_B.float() - of_reference(model, part, "answer")).cpu().numpy()
            total += float(self.losses(model, part)["loss"])
        good = held_out["good"]
        margin = self.beta * (gains[good].mean() - gains[~good].mean()) if good.any() and not good.all() else 0.0
        return {"validation_loss": total / len(held_out), "validation_margin": float(margin)}


@dataclass
class PairwiseReward(Objective):
    """Bradley-Terry: the chosen answer's score above the rejected one's."""

    validation: Examples | None = None
    better: str = "higher"

    def counts(self, batch: Examples) -> dict[str, float]:
        """Pairs."""
        return {"loss": len(batch)}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """The loss of every pair, summed."""
        chosen_B, rejected_B = self._rewards(model, batch)
        return {"loss": _losses.bradley_terry(chosen_B, rejected_B)}

    def _rewards(self, model: Network, batch: Examples) -> tuple[Tensor, Tensor]:
        """Scores of the chosen and of the rejected answers, each read at its last token (the one that ends it)."""
        sides = ("chosen", "rejected")
        tokens = [
            np.append(tokens, targets[-1])
            for side in sides
            for tokens, targets in zip(batch[side], batch[f"{side}_targets"], strict=True)
        ]
        tokens_BT, spans_N3 = padded(tokens, 0, model.device)
        scores_B = model.scores(model(tokens_BT, mask=spans_N3), spans_N3)[:, 0].float()
        return scores_B[: len(batch)], scores_B[len(batch) :]

    @torch.no_grad()
    def validate(self, model: Network, micro: int) -> dict[str, float]:
        """Share of the validation pairs that are scored the right way round, mean difference and loss."""
        if self.validation is None:
            return {}
        differences = [
            difference
            for rows in self.validation.micro(micro)
            for chosen_B, rejected_B in [self._rewards(model, self.validation.take(rows))]
            for difference in (chosen_B - rejected_B).tolist()
        ]
        right = sum(difference > 0 for difference in differences) / len(differences)
        loss = float(np.mean(np.logaddexp(0, -np.array(differences))))
        return {"validation_accuracy": right, "validation_margin": float(np.mean(differences)), "validation_loss": loss}
