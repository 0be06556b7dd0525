"""An encoder family against `transformers` on the same weights; no test, but what those of six families share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from mojiang.model._layers import Dropout
from mojiang.model.load import load_model, save_model
from mojiang.model.network import Network

LENGTHS = (9, 4, 7)
SHAPE = {
    "vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32,
    "max_position_embeddings": 24, "num_labels": 2, "layer_norm_eps": 1e-3, "hidden_dropout_prob": 0.11,
    "attention_probs_dropout_prob": 0.12,
}  # fmt: skip


@dataclass(frozen=True)
class Inputs:
    """Three texts of different lengths, padded."""

    tokens: Tensor
    segments: Tensor
    visible: Tensor

    @property
    def mask(self) -> Tensor:
        return self.visible[:, None, None, :]

    @property
    def spans(self) -> Tensor:
        return torch.tensor([[row, 0, length] for row, length in enumerate(LENGTHS)])


def inputs(pad: int, vocabulary: int = 50) -> Inputs:
    generator = torch.Generator().manual_seed(1)
    visible = torch.arange(max(LENGTHS)) < torch.tensor(LENGTHS)[:, None]
    tokens = torch.randint(3, vocabulary, visible.shape, generator=generator)
    segments = torch.randint(0, 2, visible.shape, generator=generator) * visible
    return Inputs(torch.where(visible, tokens, pad), segments, visible)


def randomized(model: nn.Module) -> nn.Module:
    """Weights far from their initial values, so that every one of them matters; `model` in evaluation mode."""
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            centre = 1.0 if "norm" in name.lower() and name.endswith("weight") else 0.0
            parameter.copy_(centre + 0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def peers(folder: Path, name: str, config: Any) -> tuple[Any, Any]:
    """(ours, theirs): the class `name` of transformers with random weights, and what we read of what it saves."""
    theirs: Any = randomized(getattr(transformers, name)(config))
    theirs.save_pretrained(folder)
    return load_model(folder), theirs


def their_outputs(theirs: Any, x: Inputs, **labels: Tensor) -> Any:
    segments = {} if "DistilBert" in type(theirs).__name__ else {"token_type_ids": x.segments}
    if theirs.config.get_text_config().to_dict().get("type_vocab_size") == 1:
        segments = {}
    return theirs(x.tokens, attention_mask=x.visible.long(), **segments, **labels)


def our_outputs(model: Any, x: Inputs, mask: Tensor) -> list[Tensor]:
    """What the head of `model` gives, in the order in which transformers gives it."""
    hidden, head = model(x.tokens, mask=mask, segments_BT=x.segments), model.config.head
    if head == "embedding":
        return [hidden, model.pooled(hidden, mask)] if hasattr(model.trunk, "pooler") else [hidden]
    if head == "masked_lm":
        return [model.logits(hidden)]
    if head == "pretraining" and model.prefix != "electra":
        return [model.logits(hidden), model.scores(hidden, mask)]
    if head == "question_answering":
        return list(model.scores(hidden, mask).unbind(-1))
    return [model.scores(hidden, mask)]


def assert_equal_outputs(model: Any, theirs: Any, x: Inputs) -> None:
    """Logits of a padded batch, given as a mask and as spans."""
    with torch.no_grad():
        expected = their_outputs(theirs, x).to_tuple()
        for mask in (x.mask, x.spans):
            got = our_outputs(model, x, mask)
            assert len(got) == len(expected)
            for ours, other in zip(got, expected, strict=True):
                assert ours.shape == other.shape
                at = x.visible if other.shape[:2] == x.visible.shape else slice(None)
                torch.testing.assert_close(ours[at], other[at], rtol=1e-5, atol=1e-5)


def assert_equal_step(model: Any, theirs: Any, x: Inputs) -> None:
    """Loss, and its gradient with respect to every parameter, by name."""
    labels = labels_of(model, x)
    expected = their_outputs(theirs, x, **labels).loss
    expected.backward()
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    assert gradients.keys() == {name for name, _ in model.named_parameters()}
    # transformers also scores padding as a place where an answer may be; without spans we do so too.
    for mask in [x.mask] if model.config.head == "question_answering" else [x.mask, x.spans]:
        model.zero_grad()
        loss = loss_of(model, x, mask, list(labels.values()))
        torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-6)
        loss.backward()
        assert_equal_gradients(dict(model.named_parameters()), gradients)


def assert_equal_gradients(parameters: dict[str, Any], gradients: dict[str, Tensor | None]) -> None:
    for name, expected in gradients.items():
        ours = parameters[name].grad
        if expected is None:
            assert ours is None, name
        else:
            assert ours is not None, name
            torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-6, msg=lambda text, n=name: f"{n}: {text}")


def labels_of(model: Any, x: Inputs) -> dict[str, Tensor]:
    """Labels for the head that `model` has, in transformers' words."""
    words = torch.where(
        x.visible, torch.randint(0, 50, x.tokens.shape, generator=torch.Generator().manual_seed(3)), -100
    )
    texts, tags = torch.tensor([1, 0, 1]), torch.where(x.visible, words % 2, -100)
    if model.config.head == "pretraining":
        pairs = {"bert": {"next_sentence_label": texts}, "albert": {"sentence_order_label": texts}}
        return {"labels": words, **pairs[model.prefix]} if model.prefix in pairs else {"labels": tags.clamp(min=0)}
    if model.config.head == "question_answering":
        return {"start_positions": torch.tensor([1, 0, 3]), "end_positions": torch.tensor([5, 2, 3])}
    return {"labels": {"masked_lm": words, "token_classification": tags}.get(model.config.head, texts)}


def loss_of(model: Any, x: Inputs, mask: Tensor, labels: list[Tensor]) -> Tensor:
    """The loss that each head is trained with."""
    got = our_outputs(model, x, mask)
    if model.config.head == "pretraining" and model.prefix == "electra":
        return F.binary_cross_entropy_with_logits(got[0][x.visible], labels[0][x.visible].float())
    terms = [F.cross_entropy(logits.flatten(0, -2), label.flatten()) for logits, label in zip(got, labels, strict=True)]
    return torch.stack(terms).mean() if model.config.head == "question_answering" else torch.stack(terms).sum()


def dropout_calls(model: nn.Module, kind: type[nn.Module], call: Callable[[], Any]) -> list[float]:
    """Probabilities of the dropout layers in the order in which `call` applies them to a model in training."""
    calls: list[float] = []
    layers = [module for module in model.modules() if isinstance(module, kind) and module.p > 0]
    hooks = [layer.register_forward_hook(lambda module, *_: calls.append(module.p)) for layer in layers]
    model.train()
    call()
    model.eval()
    for hook in hooks:
        hook.remove()
    return calls


def assert_equal_dropout(model: Any, theirs: Any, x: Inputs) -> None:
    """Dropout in the same places with the same probabilities, but for that of attention weights."""
    expected = dropout_calls(theirs, nn.Dropout, lambda: their_outputs(theirs, x))
    assert len(expected) > 1
    assert dropout_calls(model, Dropout, lambda: our_outputs(model, x, x.spans)) == expected


def assert_head_can_be_changed(folder: Path, model: Any) -> None:
    """The model in `folder`, without a head, gets one: its own weights stay and nothing but the head's are new."""
    x = inputs(pad=model.config.pad_token_id)
    changed: Any = load_model(folder, head="sequence_classification", num_labels=3)
    with torch.no_grad():
        assert torch.equal(changed(x.tokens, mask=x.spans), model(x.tokens, mask=x.spans))
        assert changed.scores(changed(x.tokens, mask=x.spans), x.spans).shape == (3, 3)
    back = {name: parameter for name, parameter in model.named_parameters() if "pooler" not in name}
    assert all(torch.equal(changed.get_parameter(name), parameter) for name, parameter in back.items())


def assert_transformers_reads(folder: Path, model: Network, name: str) -> Any:
    """What we save is loaded without a missing or unexpected tensor; returns what transformers loads."""
    save_model(model, None, folder)
    theirs, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert {kind: names for kind, names in report.items() if names} == {}
    return theirs.eval()


def assert_equal_defaults(ours: Any, theirs: Any) -> None:
    """What a `config.json` leaves out means the same to us and to transformers."""
    expected = theirs.to_dict()
    shared = {name: value for name, value in vars(ours).items() if name in expected and name != "id2label"}
    assert len(shared) > 10
    assert shared == {name: expected[name] for name in shared}


def assert_packed_equals_alone(model: Any) -> None:
    """Texts that share a row have the hidden states and scores that each has in a row of its own."""
    generator = torch.Generator().manual_seed(4)
    lengths = [5, 1, 7, 3]
    texts = [torch.randint(3, 50, (1, length), generator=generator) for length in lengths]
    places = [(0, 0), (0, 5), (1, 0), (1, 7)]
    tokens = torch.randint(3, 50, (2, 12), generator=generator)
    positions = torch.zeros(2, 12, dtype=torch.long)
    spans = []
    for text, length, (row, start) in zip(texts, lengths, places, strict=True):
        tokens[row, start : start + length] = text
        positions[row, start : start + length] = torch.arange(length)
        spans.append([row, start, start + length])
    mask = torch.tensor([*spans, [1, 11, 11]])
    with torch.no_grad():
        hidden = model(tokens, positions, mask)
        alone = [model(text) for text in texts]
        for (row, start, stop), expected in zip(spans, alone, strict=True):
            torch.testing.assert_close(hidden[row, start:stop], expected[0], rtol=1e-5, atol=1e-5)
        if model.config.head in ("sequence_classification", "pretraining") and model.prefix != "electra":
            expected = torch.cat([model.scores(states) for states in alone])
            torch.testing.assert_close(model.scores(hidden, mask), expected, rtol=1e-5, atol=1e-5)


def assert_compiled_once(model: Any) -> None:
    """The layers compile without a break, all to the same graph."""
    from torch._dynamo.testing import CompileCounter

    counter = CompileCounter()
    x = inputs(pad=0)
    with torch.no_grad():
        expected = model(x.tokens, mask=x.spans)
        for block in model.blocks():
            block.compile(backend=counter, fullgraph=True)
        torch.testing.assert_close(model(x.tokens, mask=x.spans), expected)
    assert counter.frame_count == 1
    torch._dynamo.reset()
