from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
import torch

from mojiang.model.decoder import Decoder, DecoderConfig, document_mask
from mojiang.tokenizer._pack import PackedRows, Rows, Sequence, write_shards
from mojiang.train._objective import CausalLM, to_tensors
from mojiang.train._progress import flops_per_token

CONFIG = DecoderConfig(100, 32, 2, 4, 2, 64, 8)


def model() -> Decoder:
    decoder = Decoder(CONFIG).init_weights(0)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if name.endswith(("o_proj.weight", "down_proj.weight")):  # zero at first, which would hide attention
                parameter.normal_(0, 0.1, generator=torch.Generator().manual_seed(len(name)))
    return decoder


def packed(folder: Path, lengths: Iterable[int], row_tokens: int) -> PackedRows:
    rng = np.random.default_rng(0)
    made = [Sequence(rng.integers(0, 100, n), 2 * n, rng.random(n) < 0.7) for n in lengths]
    return PackedRows(write_shards(made, folder, 100), row_tokens)


def gradients(decoder: Decoder, rows: Rows, micro_rows: int) -> tuple[float, torch.Tensor]:
    """As the loop accumulates them, by hand."""
    objective, loss = CausalLM(), 0.0
    for part in rows.micro(micro_rows * rows.tokens_BT.shape[1]):
        mean = objective.losses(decoder, rows.take(part))["loss"] / objective.counts(rows)["loss"]
        mean.backward()
        loss += mean.item()
    return loss, torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None])


@pytest.mark.parametrize("micro_rows", [1, 2, 3, 5])
def test_micro_batches_do_not_change_loss_or_gradient(tmp_path: Path, micro_rows: int) -> None:
    rows = packed(tmp_path, (20, 9, 31, 12, 30, 17, 8, 25, 5), 32)
    whole = rows.rows(range(len(rows)))
    loss, gradient = gradients(model(), whole, len(rows))
    loss_micro, gradient_micro = gradients(model(), whole, micro_rows)
    assert loss_micro == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(gradient_micro, gradient, atol=1e-6)


@pytest.mark.parametrize("row_tokens", [31, 48, 200])
def test_packing_layout_does_not_change_loss_or_gradient(tmp_path: Path, row_tokens: int) -> None:
    lengths = (20, 9, 31, 12, 30, 17, 8, 25, 5)  # each fits into the shortest row, so none is cut
    first, other = packed(tmp_path / "a", lengths, 64), packed(tmp_path / "b", lengths, row_tokens)
    loss, gradient = gradients(model(), first.rows(range(len(first))), 2)
    loss_other, gradient_other = gradients(model(), other.rows(range(len(other))), 2)
    assert loss_other == pytest.approx(loss, rel=1e-6)
    assert torch.allclose(gradient_other, gradient, atol=1e-6)


def test_a_packed_document_has_the_logits_of_the_document_alone(tmp_path: Path) -> None:
    rows = packed(tmp_path, (20, 9, 31, 12), 40)
    batch, decoder = rows.rows(range(len(rows))), model()
    tokens, _, positions, spans = to_tensors(batch, decoder.device)
    together = decoder.logits(decoder(tokens, positions_BT=positions, mask=spans))
    for row, start, stop in batch.spans_N3.tolist():
        if stop > start:
            alone = decoder.logits(decoder(tokens[row : row + 1, start:stop]))[0]
            assert torch.allclose(together[row, start:stop], alone, atol=1e-5)


def test_spans_equal_the_boolean_document_mask_also_in_the_gradient(tmp_path: Path) -> None:
    rows = packed(tmp_path, (20, 9, 31, 12), 40)
    batch, found = rows.rows(range(len(rows))), []
    for form in ("spans", "mask"):
        decoder = model()
        tokens, targets, positions, spans = to_tensors(batch, decoder.device)
        mask = spans if form == "spans" else document_mask(torch.from_numpy(batch.documents_BT))
        logits = decoder.logits(decoder(tokens, positions_BT=positions, mask=mask))
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).backward()
        found.append(torch.cat([p.grad.flatten() for p in decoder.parameters() if p.grad is not None]))
    assert torch.allclose(found[0], found[1], atol=1e-6)


def test_bits_per_byte_of_a_uniform_model_is_known(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    made = [Sequence(rng.integers(0, 100, n), 3 * n) for n in (20, 9, 31)]
    rows = PackedRows(write_shards(made, tmp_path, 100), 16)
    uniform = model()
    torch.nn.init.zeros_(uniform.lm_head.weight)
    expected = (60 - 3) * np.log2(100) / (3 * 60)
    assert CausalLM(rows).validate(uniform, 32)["bits_per_byte"] == pytest.approx(expected, rel=1e-6)


def test_flops_are_six_per_weight_plus_attention() -> None:
    decoder = model()
    weights = 2 * (2 * 32 * 32 + 2 * 32 * 16 + 3 * 32 * 64) + 100 * 32  # attention and feed-forward of 2 layers, head
    attention = 6 * 2 * 4 * 8 * 64  # layers, heads, head dimension, context
    assert flops_per_token(decoder, 64) == 6 * weights + attention
