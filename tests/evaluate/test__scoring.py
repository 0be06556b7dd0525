"""Document likelihoods against transformers on the same weights, and against one forward pass."""

import math

import pytest
import torch
import transformers
from torch.nn import functional as F

from mojiang.core.errors import BadInput
from mojiang.evaluate._scoring import document_nats, windows
from mojiang.model.decoder import Decoder, DecoderConfig

CONFIG = DecoderConfig(50, 32, 2, 4, 2, 64, 8, max_position_embeddings=64)


def _model() -> Decoder:
    model = Decoder(CONFIG).init_weights(seed=1)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.2)
    return model.eval()


def _documents(*lengths: int) -> list[list[int]]:
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(1, 50, (n,), generator=generator).tolist() for n in lengths]


@pytest.mark.parametrize("context", [2, 3, 8, 16])
@pytest.mark.parametrize("length", [0, 1, 7, 8, 9, 16, 100])
def test_every_position_is_scored_once_with_half_a_context_behind_it(length: int, context: int) -> None:
    covered = list(windows(length, context))
    assert [p for w in covered for p in range(w.first, w.stop)] == list(range(length))
    assert all(w.stop - w.start <= context for w in covered)
    assert all(w.start == 0 or w.first - w.start >= context // 2 for w in covered)


def test_equals_transformers_on_short_documents() -> None:
    model, documents = _model(), _documents(3, 17, 30, 0)
    peer = transformers.Qwen3ForCausalLM(transformers.Qwen3Config(**CONFIG.to_hf(), attn_implementation="eager"))
    peer.load_state_dict(model.state_dict())
    ours = document_nats(model, documents, start=1, end=0, context=64)
    for document, nats in zip(documents, ours, strict=True):
        sequence = torch.tensor([1, *document, 0])
        with torch.no_grad():
            logits = peer(sequence[None, :-1]).logits[0].double()
        assert nats == pytest.approx(float(F.cross_entropy(logits, sequence[1:], reduction="sum")), rel=1e-5)


def test_long_documents_equal_a_token_by_token_sum_over_their_windows() -> None:
    model, document = _model(), _documents(50)[0]
    sequence, expected = [0, *document, 0], 0.0
    for w in windows(len(sequence) - 1, context=16):
        with torch.no_grad():
            log_p = F.log_softmax(model.logits(model(torch.tensor([sequence[w.start : w.stop]])))[0].double(), dim=-1)
        expected -= sum(float(log_p[p - w.start, sequence[p + 1]]) for p in range(w.first, w.stop))
    assert document_nats(model, [document], start=0, end=0, context=16)[0] == pytest.approx(expected, rel=1e-5)


def test_batching_and_order_do_not_matter() -> None:
    model, documents = _model(), _documents(5, 40, 1, 90, 33)
    together = document_nats(model, documents, start=0, end=0, context=16, batch_tokens=64)
    alone = [document_nats(model, [d], start=0, end=0, context=16, batch_tokens=1)[0] for d in documents]
    assert together == pytest.approx(alone, rel=1e-5)


def test_a_model_without_opinion_costs_log_vocabulary_per_token() -> None:
    model = Decoder(CONFIG).init_weights(seed=0)
    torch.nn.init.zeros_(model.model.embed_tokens.weight)
    seen: list[tuple[int, int]] = []
    nats = document_nats(
        model, _documents(9), start=0, end=0, context=8, on_progress=lambda done, total: seen.append((done, total))
    )
    assert nats[0] == pytest.approx(10 * math.log(50), rel=1e-6)
    assert seen[-1][0] == seen[-1][1]


def test_a_context_of_one_is_refused() -> None:
    with pytest.raises(BadInput, match="too short"):
        list(windows(5, context=1))
