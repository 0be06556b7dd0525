"""A decoder family against `transformers` on the same weights; not a test, but what five families share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from mojiang.model.load import load_model, save_model
from mojiang.model.network import Network

LENGTHS = (9, 4, 7)
PAD = 0
VISIBLE = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
TOKENS = torch.where(VISIBLE, torch.randint(1, 50, VISIBLE.shape, generator=torch.Generator().manual_seed(1)), PAD)
SPANS = torch.tensor([[row, 0, length] for row, length in enumerate(LENGTHS)])
CAUSAL = VISIBLE[:, None, None, :] & torch.ones(max(LENGTHS), max(LENGTHS), dtype=torch.bool).tril()
HEADS = ("CausalLM", "SequenceClassification", "TokenClassification", "QuestionAnswering")


def randomized(model: nn.Module) -> nn.Module:
    """Weights far from their initial values, so that every one of them matters; `model` in evaluation mode."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if ("norm" in name or "ln_" in name) and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def peers(folder: Path, name: str, config: Any) -> tuple[Any, Any]:
    """(ours, theirs): the class `name` of transformers with random weights, and what we read of what it saves."""
    theirs: Any = randomized(getattr(transformers, name)(config))
    theirs.save_pretrained(folder)
    return load_model(folder), theirs


def our_outputs(model: Any, mask: Tensor) -> list[Tensor]:
    """What the head of `model` gives for the padded batch, in the order in which transformers gives it."""
    hidden, head = model(TOKENS, mask=mask), model.config.head
    if head == "embedding":
        return [hidden]
    if head == "causal_lm":
        return [model.logits(hidden)]
    scores = model.scores(hidden, mask)
    return list(scores.unbind(-1)) if head == "question_answering" else [scores]


def their_outputs(theirs: Any, **labels: Any) -> Any:
    return theirs(TOKENS, attention_mask=VISIBLE.long(), use_cache=False, **labels)


def assert_equal_outputs(model: Any, theirs: Any, tolerance: float = 1e-5) -> None:
    """Outputs for a padded batch, said with spans and with a mask."""
    with torch.no_grad():
        expected = [x for x in their_outputs(theirs).to_tuple() if isinstance(x, Tensor)]
        for mask in (SPANS, CAUSAL):
            got = our_outputs(model, mask)
            assert len(got) == len(expected)
            for ours, other in zip(got, expected, strict=True):
                assert ours.shape == other.shape
                at = VISIBLE if other.shape[:2] == VISIBLE.shape else slice(None)
                torch.testing.assert_close(ours[at], other[at], rtol=tolerance, atol=tolerance)


def assert_equal_step(model: Any, theirs: Any) -> None:
    """Loss, and its gradient with respect to every parameter, by name."""
    labels, loss = loss_of(model)
    expected = their_outputs(theirs, **labels).loss
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
    loss.backward()
    expected.backward()
    gradients = checkpoint_names({name: parameter.grad for name, parameter in theirs.named_parameters()})
    ours = {name: parameter.grad for name, parameter in model.named_parameters()}
    assert ours.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(ours[name], gradient, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def loss_of(model: Any) -> tuple[dict[str, Tensor], Tensor]:
    """(labels in transformers' words, our loss) of the head that `model` has."""
    got = our_outputs(model, SPANS)
    texts, words = torch.tensor([1, 0, 2]), torch.where(VISIBLE, TOKENS, -100)
    match model.config.head:
        case "causal_lm":
            return {"labels": words}, F.cross_entropy(got[0][:, :-1].flatten(0, 1), words[:, 1:].flatten())
        case "sequence_classification":
            return {"labels": texts}, F.cross_entropy(got[0], texts)
        case "token_classification":
            tags = torch.where(VISIBLE, TOKENS % 3, -100)
            return {"labels": tags}, F.cross_entropy(got[0].flatten(0, 1), tags.flatten())
        case _:
            # Scores of padding count too, and transformers alone never trains its embedding: only a whole row counts.
            starts, ends = torch.tensor([1, 9, 9]), torch.tensor([5, 9, 9])
            loss = sum(F.cross_entropy(x, y, ignore_index=9) for x, y in zip(got, (starts, ends), strict=True)) / 2
            return {"start_positions": starts, "end_positions": ends}, loss


def checkpoint_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """Tensors under the names of checkpoint files, where each expert has matrices of its own."""
    named = {}
    for name, tensor in tensors.items():
        stem, _, leaf = name.rpartition(".")
        if leaf == "gate_up_proj":
            for number, both in enumerate(tensor):
                gate, up = both.chunk(2)
                named |= {f"{stem}.{number}.gate_proj.weight": gate, f"{stem}.{number}.up_proj.weight": up}
        elif leaf == "down_proj":
            named |= {f"{stem}.{number}.down_proj.weight": part for number, part in enumerate(tensor)}
        else:
            named[name] = tensor
    return named


def assert_transformers_reads(folder: Path, model: Network, name: str) -> None:
    """What we save is loaded without a missing or unexpected tensor, and gives the same."""
    save_model(model, None, folder)
    theirs, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert {kind: names for kind, names in report.items() if names} == {}
    assert_equal_outputs(model, theirs.eval())
