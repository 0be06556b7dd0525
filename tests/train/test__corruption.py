"""Batches: every document whole, hidden anew each time and alike for the same step, whatever else is in the batch."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mojiang.core.errors import BadInput
from mojiang.tokenizer._format import empty_tokenizer
from mojiang.tokenizer._pack import IGNORE, Rows
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._batches import Examples
from mojiang.train._corruption import RATES, Fixed, Noise, Pieces, source

sys.path.insert(0, str(Path(__file__).parent))
import toy_texts

CLS, SEP, MASK = 2, 3, 4
OBJECTIVES = list(RATES)


def columns(batch: Any, row: int) -> list[Any]:
    """Everything about a row of a batch."""
    one = batch.take([row])
    values = one.columns.values() if isinstance(one, Examples) else vars(one).values()
    return [np.asarray(value[0] if isinstance(value, list) else value) for value in values]


def same(a: list[Any], b: list[Any]) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(a, b, strict=True))


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_a_row_depends_on_seed_step_and_its_number_only(objective: str, tmp_path: Path) -> None:
    noise = toy_texts.noise(objective, context=48)
    texts = ((str(n), " ".join(f"w{(5 * n + m * m) % 24}" for m in range(40)), False) for n in range(8))
    layout = noise.layout(toy_texts.shards(noise, tmp_path, texts))
    alone, among = noise.batch(layout, [5], 3, 7), noise.batch(layout, [2, 5, 1], 3, 7)
    assert same(columns(alone, 0), columns(among, 1))
    for others in ([(step, 7) for step in range(4, 12)], [(3, seed) for seed in range(8, 16)]):
        assert not all(same(columns(alone, 0), columns(noise.batch(layout, [5], *key), 0)) for key in others)
    drawn = source(noise, layout, 4, seed=7)
    assert all(same(columns(drawn.batch(2), row), columns(drawn.batch(2), row)) for row in range(4))


@pytest.mark.parametrize("objective", ["masked", "replaced_token"])
def test_packed_rows_hold_every_document_framed_and_whole(objective: str, tmp_path: Path) -> None:
    noise = toy_texts.noise(objective)
    texts = [*toy_texts.counting(30), ("long", " ".join(f"w{n % 24}" for n in range(100)), False)]
    layout = noise.layout(toy_texts.shards(noise, tmp_path, iter(texts)))
    batch = noise.batch(layout, list(range(len(layout))), 0, 0)
    assert isinstance(batch, Rows)
    original = np.where(batch.targets_BT == IGNORE, batch.tokens_BT, batch.targets_BT)
    found = []
    for row, first, stop in batch.spans_N3.tolist():
        if first < stop:
            text = original[row, first:stop].tolist()
            assert (text[0], text[-1]) == (CLS, SEP)
            assert batch.positions_BT[row, first:stop].tolist() == list(range(stop - first))
            found.append(text[1:-1])
    words = noise.tokenizer.encode_batch([text for _, text, _ in texts])
    assert all(ids in found for ids in words[:-1])
    pieces = [found_text for found_text in found if found_text not in words]
    assert sorted(map(len, pieces)) == [20] * 5  # 100 tokens in pieces of at most 22
    assert sorted(sum(pieces, [])) == sorted(words[-1])
    hidden = batch.targets_BT != IGNORE
    assert hidden.sum() == pytest.approx(0.15 * sum(map(len, words)), rel=0.2)
    assert layout.num_targets == batch.num_tokens


def test_electra_masks_85_percent_and_replaces_none_itself(tmp_path: Path) -> None:
    masked = np.zeros(3)
    noise = toy_texts.noise("replaced_token")
    layout = noise.layout(toy_texts.shards(noise, tmp_path))
    for step in range(40):
        batch: Any = noise.batch(layout, list(range(len(layout))), step, 0)
        at = batch.targets_BT != IGNORE
        inputs, targets = batch.tokens_BT[at], batch.targets_BT[at]
        masked += ((inputs == MASK).sum(), (inputs == targets).sum(), len(inputs))
        assert ((batch.draws_BT >= 0) & (batch.draws_BT < 1)).all()
    assert masked[0] + masked[1] == masked[2]
    assert masked[0] / masked[2] == pytest.approx(0.85, abs=4 * np.sqrt(0.85 * 0.15 / masked[2]))


def test_what_is_behind_the_last_text_of_a_row_is_never_masked(tmp_path: Path) -> None:
    """Even if the id that fills rows up, 0, is an ordinary word."""
    noise = toy_texts.noise("masked", toy_texts.tokenizer(framed=False))
    noise.__dict__["vocabulary"] = noise.vocabulary.__class__(noise.vocabulary.size, special=(2, 3), mask=MASK)
    layout = noise.layout(toy_texts.shards(noise, tmp_path, toy_texts.counting(3)))
    for step in range(20):
        batch: Any = noise.batch(layout, [*range(len(layout)), -1], step, 0)
        assert (batch.targets_BT[batch.documents_BT == 0] == IGNORE).all()
        assert batch.num_targets > 0


def test_a_validation_split_is_hidden_alike_each_time_in_batches_of_one_shape(tmp_path: Path) -> None:
    noise = toy_texts.noise("masked")
    layout = noise.layout(toy_texts.shards(noise, tmp_path))
    fixed = Fixed(noise, layout, 7)
    first, again = list(fixed), list(fixed)
    assert {len(batch) for batch in first} == {7}
    assert sum(batch.num_tokens for batch in first) == layout.num_targets
    assert all(np.array_equal(a.tokens_BT, b.tokens_BT) for a, b in zip(first, again, strict=True))  # type: ignore[union-attr]


def test_pieces_are_even_and_hold_every_token_once(tmp_path: Path) -> None:
    noise = toy_texts.noise("denoising")
    shards = toy_texts.shards(noise, tmp_path)
    pieces = Pieces(shards, 6)
    whole = np.concatenate([shards.sequence(number)[0] for number in range(len(shards))])
    assert np.array_equal(np.concatenate([pieces.tokens(number) for number in range(len(pieces))]), whole)
    sizes = np.array([len(pieces.tokens(number)) for number in range(len(pieces))])
    assert sizes.max() <= 6
    assert sizes.min() >= 4  # 8 to 15 tokens in two or three pieces
    assert pieces.num_targets == len(whole)
    chosen = Pieces(shards, 6, np.array([3, 1]))
    expected = np.concatenate([shards.sequence(1)[0], shards.sequence(3)[0]])
    assert np.array_equal(np.concatenate([chosen.tokens(n) for n in range(len(chosen))]), expected)


@pytest.mark.parametrize("objective", ["masked_nsp", "masked_sop"])
def test_labels_say_which_second_texts_follow(objective: str, tmp_path: Path) -> None:
    """Each document is one word, which tells where a token is from."""
    noise = toy_texts.noise(objective, context=16)
    texts = [(str(n), " ".join(f"w{n}" for _ in range(30)), False) for n in range(12)]
    layout: Any = noise.layout(toy_texts.shards(noise, tmp_path, iter(texts)))
    labels = []
    for step in range(20):
        batch: Any = noise.batch(layout, list(range(len(layout))), step, 0)
        for row in range(len(batch)):
            tokens = np.where(batch["targets"][row] == IGNORE, batch["tokens"][row], batch["targets"][row])
            first, second = (tokens[(batch["segments"][row] == side) & (tokens > 14)] for side in (0, 1))
            assert tokens[0] == CLS
            assert np.array_equal(np.flatnonzero(tokens == SEP), [1 + len(first), len(tokens) - 1])
            assert len(tokens) <= 16
            assert len(set(first)) == len(set(second)) == 1
            label = int(batch["label"][row])
            labels.append(label)
            assert (first[0] != second[0]) == (objective == "masked_nsp" and label == 1)
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(len(labels)))


def test_swapped_texts_are_the_ones_labelled_so(tmp_path: Path) -> None:
    noise = toy_texts.noise("masked_sop")
    layout: Any = noise.layout(toy_texts.shards(noise, tmp_path))
    batch: Any = noise.batch(layout, list(range(len(layout))), 0, 0)
    for row in range(len(batch)):
        tokens = np.where(batch["targets"][row] == IGNORE, batch["tokens"][row], batch["targets"][row])
        first, second = (tokens[(batch["segments"][row] == side) & (tokens > 14)] for side in (0, 1))
        assert (first[-1] + 1 == second[0]) == (batch["label"][row] == 0)
        assert (second[-1] + 1 == first[0]) == (batch["label"][row] == 1)


def test_t5_texts_fill_the_context_and_bart_texts_stay_within_it(tmp_path: Path) -> None:
    long = [("a", " ".join(f"w{n % 24}" for n in range(3000)), False)]
    for objective in ("span_corruption", "denoising"):
        noise = toy_texts.noise(objective, context=64)
        layout: Any = noise.layout(toy_texts.shards(noise, tmp_path / objective, iter(long)))
        batch: Any = noise.batch(layout, list(range(len(layout))), 0, 0)
        longest = max(len(row) for row in batch["tokens"])
        assert longest <= 64
        assert batch.num_tokens == sum(len(row) for name in ("tokens", "targets") for row in batch[name])
        assert all(row[-1] == SEP for name in ("tokens", "targets") for row in batch[name])
        if objective == "span_corruption":
            assert longest >= 63
        else:
            assert all(len(row) <= 64 and row[0] == CLS for row in batch["targets"])


def sentences(words: Tokenizer, text: str) -> list[str]:
    noise = Noise("denoising", words, 64, 0.3)
    return [words.decode(part) for part in noise._sentences(np.array(words.encode(text)))]


def test_sentences_end_at_full_stops_and_line_ends_but_not_inside_numbers_and_names() -> None:
    words = Tokenizer(empty_tokenizer_with_bytes())
    text = "It is 3.14. Is it? Yes!\nself.x = 1\n我来了。你呢？好。"
    assert sentences(words, text) == ["It is 3.14.", " Is it?", " Yes!\n", "self.x = 1\n", "我来了。", "你呢？", "好。"]


def empty_tokenizer_with_bytes() -> Any:
    from tokenizers import pre_tokenizers, trainers

    made = empty_tokenizer()
    text = ["It is 3.14. Is it? Yes!\nself.x = 1\n我来了。你呢？好。"] * 3
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    made.train_from_iterator(
        text, trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False, min_frequency=2)
    )
    return made


@pytest.mark.parametrize(
    ("objective", "lacks", "reason"),
    [
        ("masked", {"mask": False}, "a mask token, and this tokenizer has none"),
        ("denoising", {"mask": False}, "a mask token, and this tokenizer has none"),
        ("masked_nsp", {"framed": False}, r"frames two texts as \[CLS\] a \[SEP\] b \[SEP\]"),
        ("span_corruption", {"sentinels": 0}, "the tokenizer has 0 sentinels"),
        ("span_corruption", {"sentinels": 1}, "hides 3 spans .* has 1 sentinels"),
    ],
)
def test_a_tokenizer_that_lacks_what_is_written_is_refused(objective: str, lacks: Any, reason: str) -> None:
    with pytest.raises(BadInput, match=reason) as caught:
        toy_texts.noise(objective, toy_texts.tokenizer(**lacks), context=48).check()
    assert caught.value.hint
    toy_texts.noise(objective, context=48).check()


def test_one_document_has_no_other_to_take_a_wrong_text_from(tmp_path: Path) -> None:
    noise = toy_texts.noise("masked_nsp")
    shards = toy_texts.shards(noise, tmp_path, toy_texts.counting(1))
    with pytest.raises(BadInput, match="one document only") as caught:
        noise.layout(shards)
    assert "masked_sop" in caught.value.hint
