"""An encoder–decoder family against `transformers`; not a test, but what the tests of three families share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import transformers
from torch import Tensor, nn

from mojiang.model._seq2seq import DecoderCache
from mojiang.model.load import load_model, save_model

SOURCE_LENGTHS, TARGET_LENGTHS = (9, 4, 7), (5, 6, 2)
VOCABULARY = 40
FIRST, LAST = 3, 38  # ids that no family uses as special tokens
SHAPE = {
    "vocab_size": VOCABULARY, "d_model": 16, "encoder_layers": 3, "decoder_layers": 2, "encoder_attention_heads": 4,
    "decoder_attention_heads": 2, "encoder_ffn_dim": 32, "decoder_ffn_dim": 24, "max_position_embeddings": 32,
}  # fmt: skip
"""Of BART and Marian."""


def randomized(model: nn.Module, seed: int = 2, std: float = 0.3) -> nn.Module:
    """Weights far from their initial values, so that every one of them matters; `model` in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:  # Marian's sinusoids are frozen
                centre = 1.0 if "norm" in name and name.endswith("weight") else 0.0
                parameter.copy_(centre + std * torch.randn(parameter.shape, generator=generator))
        for name, buffer in model.named_buffers():
            if name == "final_logits_bias":
                buffer.copy_(torch.randn(buffer.shape, generator=generator))
    return model.eval()


def peers(folder: Path, name: str, config: Any, seed: int = 2, std: float = 0.3) -> tuple[Any, Any]:
    """(ours, theirs): the class `name` of transformers with random weights, and what we read of what it saves."""
    theirs: Any = randomized(getattr(transformers, name)(config), seed, std)
    theirs.save_pretrained(folder)
    return load_model(folder), theirs


class Inputs:
    """Three sources, each ending in the end token, and targets; padded."""

    def __init__(self, config: Any) -> None:
        generator = torch.Generator().manual_seed(1)
        self.visible = torch.arange(max(SOURCE_LENGTHS)) < torch.tensor(SOURCE_LENGTHS)[:, None]
        tokens = torch.randint(FIRST, LAST, self.visible.shape, generator=generator)
        tokens[torch.arange(3), torch.tensor(SOURCE_LENGTHS) - 1] = config.eos_token_id
        self.tokens = tokens.masked_fill(~self.visible, config.pad_token_id)
        self.written = torch.arange(max(TARGET_LENGTHS)) < torch.tensor(TARGET_LENGTHS)[:, None]
        targets = torch.randint(FIRST, LAST, self.written.shape, generator=generator)
        self.targets = targets.masked_fill(~self.written, -100)
        self.spans = torch.tensor([[row, 0, length] for row, length in enumerate(SOURCE_LENGTHS)])
        self.target_spans = torch.tensor([[row, 0, length] for row, length in enumerate(TARGET_LENGTHS)])
        self.mask = self.visible[:, None, None]


def our_loss(model: Any, x: Inputs, mask: Tensor, target_mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """(What the head gives, the loss that transformers computes of it)."""
    if model.config.head == "seq2seq_lm":
        hidden = model(x.tokens, model.shift_right(x.targets), mask=mask, target_mask=target_mask)
        logits = model.logits(hidden)
        return logits, F.cross_entropy(logits.flatten(0, 1), x.targets.flatten())
    scores = model.scores(model(x.tokens, mask=mask), mask)
    if model.config.head == "sequence_classification":
        return scores, F.cross_entropy(scores, torch.tensor([1, 0, 1]))
    starts, ends = scores.unbind(-1)
    loss = F.cross_entropy(starts, torch.tensor([1, 0, 3])) + F.cross_entropy(ends, torch.tensor([5, 2, 3]))
    return scores, loss / 2


def their_loss(theirs: Any, x: Inputs, head: str) -> tuple[Tensor, Tensor]:
    labels: dict[str, Tensor] = {"labels": x.targets}
    if head == "sequence_classification":
        labels = {"labels": torch.tensor([1, 0, 1])}
    elif head == "question_answering":
        labels = {"start_positions": torch.tensor([1, 0, 3]), "end_positions": torch.tensor([5, 2, 3])}
    out = theirs(input_ids=x.tokens, attention_mask=x.visible.long(), **labels)
    scores = torch.stack([out.start_logits, out.end_logits], -1) if head == "question_answering" else out.logits
    return scores, out.loss


def assert_equal_step(ours: Any, theirs: Any) -> None:
    """Scores of a padded batch, the loss, and its gradient with respect to every parameter, by name."""
    x, head = Inputs(ours.config), ours.config.head
    real = {"seq2seq_lm": x.written, "question_answering": x.visible}.get(head, torch.ones(3, dtype=torch.bool))
    expected, their = their_loss(theirs, x, head)
    their.backward()
    gradients = {name: p.grad for name, p in theirs.named_parameters() if p.requires_grad}
    for mask, target_mask in ((x.mask, None), (x.spans, None), (x.spans, x.target_spans)):
        ours.zero_grad()
        scores, loss = our_loss(ours, x, mask, target_mask)
        # A padded position's answer scores take part in transformers' loss of answer spans, so all are compared.
        torch.testing.assert_close(scores[real], expected[real], rtol=1e-5, atol=1e-5)
        if head == "question_answering" and mask is x.spans:
            continue
        torch.testing.assert_close(loss, their, rtol=1e-5, atol=1e-6)
        loss.backward()
        assert gradients.keys() == {name for name, _ in ours.named_parameters()}
        for name, parameter in ours.named_parameters():
            gradient = gradients[name]
            gradient = torch.zeros_like(parameter) if gradient is None else gradient
            got = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            near = max(1e-6, 1e-5 * float(gradient.abs().max()))  # sums in another order differ by the largest term
            torch.testing.assert_close(got, gradient, rtol=1e-4, atol=near, msg=lambda text, n=name: f"{n}: {text}")


def assert_both_read_it(folder: Path, ours: Any, name: str) -> None:
    """What we save is what transformers computes, without a missing or unexpected tensor, and what we read again."""
    save_model(ours, None, folder)
    theirs, report = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert {kind: names for kind, names in report.items() if names} == {}
    x, head = Inputs(ours.config), ours.config.head
    again: Any = load_model(folder)
    assert again.config.to_hf() == ours.config.to_hf()
    assert again.num_parameters() == ours.num_parameters()
    with torch.no_grad():
        scores, _ = our_loss(ours, x, x.mask)
        torch.testing.assert_close(scores, their_loss(theirs.eval(), x, head)[0], rtol=1e-5, atol=1e-5)
        assert torch.equal(our_loss(again, x, x.mask)[0], scores)


def assert_packed_equals_alone(model: Any) -> None:
    """Pairs that share rows have the scores that each has in a row of its own."""
    generator = torch.Generator().manual_seed(4)
    sources = [torch.randint(FIRST, LAST, (1, n), generator=generator) for n in (5, 1, 7, 3)]
    targets = [torch.randint(FIRST, LAST, (1, n), generator=generator) for n in (2, 4, 6, 1)]
    tokens, positions, spans = packed(sources, [(0, 0), (0, 5), (1, 0), (1, 7)], 12)
    labels, target_positions, target_spans = packed(targets, [(0, 1), (0, 3), (1, 0), (1, 7)], 9)
    with torch.no_grad():
        hidden = model(
            tokens,
            model.shift_right(labels, target_spans),
            mask=spans,
            target_mask=target_spans,
            positions_BT=positions,
            target_positions_BT=target_positions,
        )
        for source, target, (row, start, stop) in zip(sources, targets, target_spans[:4].tolist(), strict=True):
            alone = model(source, model.shift_right(target))[0]
            torch.testing.assert_close(hidden[row, start:stop], alone, rtol=1e-5, atol=1e-5)


def assert_packed_texts_score_as_alone(model: Any) -> None:
    """Texts that share rows are classified as each is in a row of its own."""
    generator = torch.Generator().manual_seed(4)
    texts = [torch.randint(FIRST, LAST, (1, n), generator=generator) for n in (5, 1, 7, 3)]
    tokens, positions, spans = packed(texts, [(0, 0), (0, 5), (1, 0), (1, 7)], 12)
    with torch.no_grad():
        scores = model.scores(model(tokens, mask=spans, positions_BT=positions), spans)
        alone = torch.cat([model.scores(model(text)) for text in texts])
    torch.testing.assert_close(scores, alone, rtol=1e-5, atol=1e-5)


def packed(texts: list[Tensor], places: list[tuple[int, int]], width: int) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens, positions and spans of two rows, with an empty span as packing makes them."""
    tokens, positions = torch.full((2, width), FIRST), torch.zeros(2, width, dtype=torch.long)
    spans = []
    for text, (row, start) in zip(texts, places, strict=True):
        stop = start + text.shape[1]
        tokens[row, start:stop], positions[row, start:stop] = text[0], torch.arange(stop - start)
        spans.append([row, start, stop])
    return tokens, positions, torch.tensor([*spans, [1, width, width]])


def assert_a_cache_changes_nothing(model: Any) -> None:
    """Step by step with a cache, rows swapped on the way, the states are those of one pass."""
    x = Inputs(model.config)
    inputs = model.shift_right(x.targets)
    with torch.no_grad():
        memory = model.encode(x.tokens, x.mask)
        expected = model.decode(inputs, memory, x.mask)
        cache = DecoderCache(inputs.shape[1])
        first = [model.decode(inputs[:, t : t + 1], memory, x.mask, cache=cache) for t in range(3)]
        torch.testing.assert_close(torch.cat(first, 1), expected[:, :3], rtol=1e-5, atol=1e-5)
        rows = torch.tensor([2, 0])
        cache.select(rows, rows)
        rest = [
            model.decode(inputs[rows, t : t + 1], memory[rows], x.mask[rows], cache=cache)
            for t in range(3, inputs.shape[1])
        ]
        torch.testing.assert_close(torch.cat(rest, 1), expected[rows, 3:], rtol=1e-5, atol=1e-5)


def assert_compiled_once(model: Any, graphs: int) -> None:
    """The layers compile without a break, alike ones to the same graph."""
    from torch._dynamo.testing import CompileCounter

    counter, x = CompileCounter(), Inputs(model.config)
    with torch.no_grad():
        expected = our_loss(model, x, x.spans)[1]
        for block in model.blocks():
            block.compile(backend=counter, fullgraph=True)
        torch.testing.assert_close(our_loss(model, x, x.spans)[1], expected)
    assert counter.frame_count == graphs
    torch._dynamo.reset()


def assert_dropout_keeps_to_its_rows(model: Any) -> None:
    """In training a row loses the same activations in any micro-batch, and something is lost."""
    from mojiang.model._layers import set_dropout_keys

    x = Inputs(model.config)
    with torch.no_grad():
        undropped, _ = our_loss(model, x, x.mask)
        model.train()
        set_dropout_keys(model, torch.tensor([11, 12, 13]))
        together, _ = our_loss(model, x, x.mask)
        set_dropout_keys(model, torch.tensor([12]))
        inputs = model.shift_right(x.targets)
        hidden = model(x.tokens[1:2], inputs[1:2], mask=x.mask[1:2])
        alone = model.logits(hidden)
        model.eval()
    assert not torch.allclose(together[x.written], undropped[x.written], atol=1e-2)
    torch.testing.assert_close(alone[0], together[1], rtol=1e-5, atol=1e-5)
