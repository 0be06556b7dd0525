"""Decoding of encoder–decoder models against `generate` of transformers, and batches against each source alone."""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mojiang.core.errors import BadInput
from mojiang.generate import _seq2seq
from mojiang.generate._seq2seq import translate_tokens
from mojiang.model.architectures import build
from mojiang.model.load import save_model

transformers = pytest.importorskip("transformers")
sys.path.insert(0, str(Path(__file__).parents[1] / "model"))
import seq2seq_parity as parity  # noqa: E402

MOST = 10
KINDS: dict[str, tuple[str, Callable[[], Any]]] = {
    "t5": (
        "T5ForConditionalGeneration",
        lambda: transformers.T5Config(
            vocab_size=40, d_model=16, d_kv=4, d_ff=32, num_layers=2, num_heads=2, decoder_start_token_id=0
        ),
    ),
    "bart": ("BartForConditionalGeneration", lambda: transformers.BartConfig(**parity.SHAPE)),
    "marian": (
        "MarianMTModel",
        lambda: transformers.MarianConfig(**parity.SHAPE, pad_token_id=39, decoder_start_token_id=39),
    ),
}
MOST_COPIED = 13


@cache
def peers(kind: str) -> tuple[Any, Any]:
    """(ours, theirs), trained for a moment to copy, so that they write targets of many lengths, not always well."""
    name, config = KINDS[kind]
    ours: Any = build({**config().to_dict(), "architectures": [name]}).init_weights(0)
    with torch.no_grad():
        for parameter in ours.parameters():
            parameter.mul_(10.0 if kind != "t5" and parameter.dim() > 1 else 1.0)  # to get going at once
    optimizer, generator = torch.optim.AdamW(ours.parameters(), lr=3e-3), torch.Generator().manual_seed(0)
    for _ in range(100):
        length = int(torch.randint(1, 9, (), generator=generator))
        tokens = torch.randint(parity.FIRST, MOST_COPIED, (16, length), generator=generator)
        tokens[:, -1] = ours.end_tokens[0]
        logits = ours.logits(ours(tokens, ours.shift_right(tokens)))
        F.cross_entropy(logits.flatten(0, 1), tokens.flatten()).backward()
        optimizer.step()
        optimizer.zero_grad()
    with TemporaryDirectory() as folder:
        save_model(ours, None, Path(folder))
        return ours, getattr(transformers, name).from_pretrained(folder).eval()


def sources(model: Any) -> list[list[int]]:
    """Texts of many lengths, some longer than any that was trained on."""
    generator = torch.Generator().manual_seed(1)
    lengths = (7, 3, 12, 5, 1, 9, 4, 8, 6, 2)
    drawn = [torch.randint(parity.FIRST, MOST_COPIED, (n,), generator=generator) for n in lengths]
    return [[*text.tolist(), model.end_tokens[0]] for text in drawn]


def their_targets(ours: Any, theirs: Any, **settings: Any) -> list[list[int]]:
    """What transformers writes, without start, end and padding behind the end."""
    pad, end = ours.config.pad_token_id, ours.end_tokens[0]
    texts = sources(ours)
    width = max(map(len, texts))
    tokens = torch.tensor([[*text, *[pad] * (width - len(text))] for text in texts])
    visible = torch.tensor([[1] * len(text) + [0] * (width - len(text)) for text in texts])
    if ours.never_written:
        settings["bad_words_ids"] = [[token] for token in ours.never_written]
    out = theirs.generate(tokens, attention_mask=visible, do_sample=False, max_new_tokens=MOST, **settings)
    rows = [row[1:] for row in out.tolist()]
    return [row[: row.index(end)] if end in row else row for row in rows]


@pytest.mark.parametrize("kind", KINDS)
def test_greedy_is_that_of_transformers(kind: str) -> None:
    ours, theirs = peers(kind)
    targets = translate_tokens(ours, sources(ours), MOST)
    assert targets == their_targets(ours, theirs)
    assert len(set(map(len, targets))) > 2


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("length_penalty", [1.0, 0.0, 2.0, -1.0])
def test_beam_search_is_that_of_transformers(kind: str, length_penalty: float) -> None:
    """With its default, `early_stopping=False`."""
    ours, theirs = peers(kind)
    targets = translate_tokens(ours, sources(ours), MOST, beams=4, length_penalty=length_penalty)
    assert targets == their_targets(ours, theirs, num_beams=4, length_penalty=length_penalty, early_stopping=False)
    assert targets != translate_tokens(ours, sources(ours), MOST)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("beams", [1, 3])
def test_a_source_is_decoded_alone_as_in_any_batch(kind: str, beams: int, monkeypatch: pytest.MonkeyPatch) -> None:
    ours, _ = peers(kind)
    texts = sources(ours)
    together = translate_tokens(ours, texts, MOST, beams)
    assert [translate_tokens(ours, [text], MOST, beams)[0] for text in texts] == together
    monkeypatch.setattr(_seq2seq, "ROWS_AT_ONCE", 2 * beams)  # two sources at once
    assert translate_tokens(ours, texts[::-1], MOST, beams) == together[::-1]
    assert translate_tokens(ours, [], MOST, beams) == []


def score(model: Any, source: list[int], written: list[int]) -> float:
    """Sum of the log-probabilities of what was written, computed in one pass without a cache."""
    targets = torch.tensor([written])
    with torch.no_grad():
        log = model.logits(model(torch.tensor([source]), model.shift_right(targets))).log_softmax(-1)
    return log.gather(2, targets[:, :, None]).sum().item()


def test_enough_beams_search_through_everything(tmp_path: Path) -> None:
    """All that can be written with three tokens of a vocabulary of 6, scored one by one."""
    config = transformers.T5Config(
        vocab_size=6, d_model=16, d_kv=4, d_ff=32, num_layers=1, num_heads=2, decoder_start_token_id=0
    )
    for seed in range(3):
        ours, _ = parity.peers(tmp_path / str(seed), "T5ForConditionalGeneration", config, seed, std=0.5)
        source, others = [3, 5, 2, 1], [0, 2, 3, 4, 5]
        ended = [[*start, 1] for n in range(3) for start in product(others, repeat=n)]
        everything = [*ended, *map(list, product(others, repeat=3))]
        best = max(everything, key=lambda written: score(ours, source, written))
        found = translate_tokens(ours, [source], 3, beams=len(everything), length_penalty=0.0)[0]
        assert found == [token for token in best if token != 1]


def test_what_cannot_be_decoded_is_refused() -> None:
    ours, _ = peers("bart")
    with pytest.raises(BadInput, match="source 1 has no tokens"):
        translate_tokens(ours, [[5, 2], []], 4)
    with pytest.raises(BadInput, match="33 positions"):
        translate_tokens(ours, [[5] * 33], 4)
    with pytest.raises(BadInput, match="40 positions"):
        translate_tokens(ours, [[5, 2]], 40)
    with pytest.raises(BadInput, match="beams 0"):
        translate_tokens(ours, [[5, 2]], 4, beams=0)
