"""Corruption: what is hidden can be put back, as much is hidden as the papers say, and the key alone decides what."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import IGNORE
from mojiang.train._noise import (
    Key,
    Pair,
    Vocabulary,
    corrupt_spans,
    denoise,
    mask_tokens,
    num_noise,
    replaced_tokens,
    row_lengths,
    sentence_pairs,
)

SENTINELS = tuple(range(299, 199, -1))  # as T5's, from the end of the vocabulary downwards
VOCABULARY = Vocabulary(size=300, special=(0, 1, 2, 3), mask=4, sentinels=SENTINELS)
BEGIN, END, SEPARATOR = 1, 2, 3


def text(length: int, seed: int = 0) -> np.ndarray[Any, Any]:
    """Ordinary tokens with specials at both ends and some within."""
    tokens = np.random.default_rng(seed).integers(5, 200, length)
    tokens[0], tokens[-1] = BEGIN, END
    tokens[10:-10:40] = SEPARATOR
    return tokens


def is_subsequence(part: list[int], whole: list[int]) -> bool:
    rest = iter(whole)
    return all(token in rest for token in part)


def test_only_the_key_decides() -> None:
    tokens, documents = text(300), [[[5, 6], [7, 8, 9], [10]] * 40, [[11, 12], [13]] * 40]
    starts = np.arange(300) % 9 == 0

    def everything(key: Key) -> str:
        return repr(
            [
                mask_tokens(tokens, VOCABULARY, key),
                corrupt_spans(tokens, VOCABULARY, key),
                denoise(tokens, VOCABULARY, key, sentence_starts_T=starts),
                sentence_pairs(documents, key, 20, objective="next"),
            ]
        )

    with np.printoptions(threshold=10**6):
        assert everything(Key(0, 0, 1)) == everything(Key(0, 0, 1))
        assert len({everything(key) for key in (Key(0, 0, 1), Key(1, 0, 1), Key(0, 1, 1), Key(0, 0, 0))}) == 4
        assert everything(Key(-1, 0, 1)) == everything(Key(-1, 0, 1))


@pytest.mark.parametrize("name", ["mask", "spans", "denoise"])
def test_the_texts_given_stay_as_they_are(name: str) -> None:
    """They may be read-only, memory-mapped, and of a smaller type than what comes back."""
    tokens = text(200).astype(np.uint16)
    tokens.setflags(write=False)
    corrupt = {"mask": mask_tokens, "spans": corrupt_spans, "denoise": denoise}[name]
    inputs, targets = corrupt(tokens, VOCABULARY, Key(0, 0, 0))
    assert inputs.dtype == targets.dtype == np.int64
    wide = corrupt(tokens.astype(np.int64), VOCABULARY, Key(0, 0, 0))
    assert np.array_equal(inputs, wide[0])
    assert np.array_equal(targets, wide[1])


@pytest.mark.parametrize("length", [2, 3, 4, 9, 50, 512])
def test_masked_tokens_are_told_by_the_targets(length: int) -> None:
    for row in range(20):
        tokens = text(length, row)
        inputs, targets = mask_tokens(tokens, VOCABULARY, Key(0, 0, row))
        chosen = targets != IGNORE
        assert np.array_equal(np.where(chosen, targets, inputs), tokens)
        ordinary = tokens > 4
        assert not chosen[~ordinary].any()
        assert chosen.sum() == (max(1, round(0.15 * ordinary.sum())) if ordinary.any() else 0)
        assert VOCABULARY.is_ordinary[inputs[chosen & (inputs != 4)]].all()


def test_of_the_chosen_80_percent_are_masked_10_random_10_kept() -> None:
    counts = np.zeros(3)
    for row in range(200):
        tokens = text(512, row)
        inputs, targets = mask_tokens(tokens, VOCABULARY, Key(0, 0, row))
        chosen = targets != IGNORE
        counts += ((inputs == 4).sum(), (chosen & (inputs != 4) & (inputs != tokens)).sum(), (inputs == tokens).sum())
        counts[2] -= (~chosen).sum()
    shares = counts / counts.sum()
    # A random token is the text's own in one of 195 cases; three standard deviations of 15,000 drawn.
    assert shares == pytest.approx([0.8, 0.1 * 194 / 195, 0.1 + 0.1 / 195], abs=3 * math.sqrt(0.16 / counts.sum()))


def test_other_shares_are_those_asked_for() -> None:
    """ELECTRA masks 85 % of what it chooses and leaves the rest."""
    tokens = text(512)
    inputs, targets = mask_tokens(tokens, VOCABULARY, Key(0, 0, 0), shares=(1.0, 0.0))
    assert (inputs[targets != IGNORE] == 4).all()
    inputs, targets = mask_tokens(tokens, VOCABULARY, Key(0, 0, 0), shares=(0.0, 0.0))
    assert np.array_equal(inputs, tokens)


def test_every_place_is_masked_as_often_as_any_other() -> None:
    tokens = np.full(40, 7)
    hits = np.zeros(40)
    for row in range(3000):
        hits += mask_tokens(tokens, VOCABULARY, Key(0, 0, row))[1] != IGNORE
    assert hits / 3000 == pytest.approx(0.15, abs=4.5 * math.sqrt(0.15 * 0.85 / 3000))


def test_whole_words_are_masked_whole() -> None:
    generator = np.random.default_rng(0)
    shares = []
    for row in range(100):
        tokens = text(300, row)
        starts = generator.random(300) < 0.6
        starts[1] = False  # the first ordinary token begins a word, whatever is said of it
        _, targets = mask_tokens(tokens, VOCABULARY, Key(0, 0, row), word_starts_T=starts)
        chosen, ordinary = targets != IGNORE, tokens > 4
        begins = starts | ~np.append(False, ordinary[:-1])
        for place in np.flatnonzero(ordinary & ~begins):
            assert chosen[place] == chosen[place - 1]
        assert not chosen[~ordinary].any()
        shares.append(chosen.sum() / ordinary.sum())
        assert chosen.sum() <= round(0.15 * ordinary.sum())
    assert np.mean(shares) == pytest.approx(0.15, abs=0.003)


def test_a_text_of_one_long_word_is_masked_at_all() -> None:
    starts = np.zeros(30, np.bool_)
    _, targets = mask_tokens(np.full(30, 9), VOCABULARY, Key(0, 0, 0), word_starts_T=starts)
    assert (targets != IGNORE).all()


def put_back(inputs: list[int], targets: list[int]) -> list[int]:
    """Inputs with every sentinel replaced by what the targets say it hides."""
    hidden: dict[int, list[int]] = {}
    for token in targets:
        if token in SENTINELS:
            hidden[token] = []
        else:
            hidden[list(hidden)[-1]].append(token)
    return [token for place in inputs for token in hidden.get(place, [place])]


@pytest.mark.parametrize("length", [3, 4, 7, 40, 512])
def test_sentinels_and_what_they_hide_give_the_text_back(length: int) -> None:
    for row in range(20):
        tokens = text(length, row)
        inputs, targets = corrupt_spans(tokens, VOCABULARY, Key(0, 0, row))
        assert put_back(inputs.tolist(), targets.tolist()) == tokens.tolist()
        used = [token for token in inputs.tolist() if token in SENTINELS]
        assert used == list(SENTINELS[: len(used)])
        assert [token for token in targets.tolist() if token in SENTINELS] == used
        assert not set(targets.tolist()) & {0, BEGIN, END, SEPARATOR, 4}


def test_as_much_is_hidden_as_in_the_code_of_t5() -> None:
    """512 inputs come of 568 tokens and have 114 targets: `inputs_length` 512 of T5's pre-training."""
    assert row_lengths(512) == (568, 114)
    assert num_noise(568) == (85, 28)
    for row in range(20):
        tokens = np.random.default_rng(row).integers(5, 200, 568)
        inputs, targets = corrupt_spans(tokens, VOCABULARY, Key(0, 0, row), end=1)
        assert (len(inputs), len(targets)) == (512, 114)
        assert inputs[-1] == targets[-1] == 1
        assert inputs[0] == tokens[0]


def test_spans_are_hidden_anywhere_and_are_of_any_length() -> None:
    """All compositions equally likely: of n tokens in k spans, one is of length 1 with probability (k-1)/(n-1)."""
    ones, spans, hidden = 0, 0, np.zeros(100)
    for row in range(2000):
        inputs, targets = corrupt_spans(np.full(100, 9), VOCABULARY, Key(0, 0, row))
        at = np.flatnonzero(targets > 199)
        lengths = np.diff(at, append=len(targets)) - 1
        assert lengths.sum() == 15
        assert len(lengths) == 5
        ones, spans = ones + int((lengths == 1).sum()), spans + 5
        sizes = iter(lengths)
        place = 0
        for token in inputs:
            size = next(sizes) if token > 199 else 1
            hidden[place : place + size] += token > 199
            place += size
    assert ones / spans == pytest.approx(4 / 14, abs=4 * math.sqrt(0.2 / spans))
    assert hidden[0] == 0
    assert hidden[30:70] / 2000 == pytest.approx(0.15, abs=0.04)


def test_too_few_sentinels_are_refused() -> None:
    with pytest.raises(BadInput, match="28 spans are to be hidden, and there are 3 sentinels"):
        corrupt_spans(np.full(568, 9), Vocabulary(300, (0,), sentinels=(299, 298, 297)), Key(0, 0, 0))


@pytest.mark.parametrize("length", [2, 3, 5, 60, 512])
def test_denoising_keeps_what_it_does_not_mask(length: int) -> None:
    for row in range(20):
        tokens = text(length, row)
        inputs, targets = denoise(tokens, VOCABULARY, Key(0, 0, row))
        assert np.array_equal(targets, tokens)
        kept = [token for token in inputs.tolist() if token != 4]
        assert is_subsequence(kept, tokens.tolist())
        ordinary = int((tokens > 4).sum())
        assert len(tokens) - len(kept) == math.ceil(0.3 * ordinary)
        assert [t for t in kept if t < 4] == [t for t in tokens.tolist() if t < 4]
        assert (inputs[0], inputs[-1]) == (BEGIN, END)


def test_masks_are_poisson_spans_and_never_touch() -> None:
    """The numbers of tokens behind each mask, read off from a text of tokens that differ."""
    lengths: list[int] = []
    wide = Vocabulary(size=2000, special=(0,), mask=4)
    for row in range(60):
        tokens = np.arange(5, 1005)
        inputs, _ = denoise(tokens, wide, Key(0, 0, row))
        last, open_masks = 4, 0
        for token in [*inputs.tolist(), 1005]:
            if token == 4:
                open_masks += 1
                assert open_masks == 1
            else:
                lengths += [token - last - 1] * open_masks
                assert open_masks or token == last + 1
                last, open_masks = token, 0
    shares = np.bincount(lengths, minlength=8)[:8] / len(lengths)
    poisson = [math.exp(-3) * 3**n / math.factorial(n) for n in range(8)]
    assert len(lengths) > 5000
    # Each row's last span is cut to the budget, which adds a little to the short ones.
    assert shares == pytest.approx(poisson, abs=0.02)
    assert np.mean(lengths) == pytest.approx(3.0, abs=0.1)


def test_sentences_change_places_as_wholes() -> None:
    tokens = np.array([BEGIN, *range(5, 45), END])
    starts = np.zeros(42, np.bool_)
    starts[[1, 6, 13, 14, 30]] = True
    sentences = [tuple(part) for part in np.split(tokens[1:-1], [5, 12, 13, 29])]
    orders = set()
    for row in range(60):
        inputs, targets = denoise(tokens, VOCABULARY, Key(0, 0, row), sentence_starts_T=starts, rate=0.0)
        assert np.array_equal(targets, tokens)
        assert (inputs[0], inputs[-1]) == (BEGIN, END)
        body, order = inputs[1:-1].tolist(), []
        while body:
            number = next(n for n, sentence in enumerate(sentences) if list(sentence) == body[: len(sentence)])
            order.append(number)
            del body[: len(sentences[number])]
        assert sorted(order) == [0, 1, 2, 3, 4]
        orders.add(tuple(order))
    assert len(orders) > 30


def documents(count: int = 30, seed: int = 0) -> list[list[list[int]]]:
    """Sentences of 3 to 19 tokens; the tokens of a document count on, so that what follows what can be seen."""
    generator = np.random.default_rng(seed)
    made = []
    for number in range(count):
        ends = 10_000 * number + np.cumsum(generator.integers(3, 20, 30))
        made.append([list(range(a, b)) for a, b in zip([10_000 * number, *ends], ends, strict=False)])
    return made


def follows(pair: Pair) -> bool:
    return bool(pair.first[-1] + 1 == pair.second[0])


@pytest.mark.parametrize("objective", ["next", "order"])
def test_half_of_the_pairs_are_out_of_place(objective: Any) -> None:
    corpus = documents()
    pairs = [
        (number, pair)
        for number in range(len(corpus))
        for epoch in range(8)
        for pair in sentence_pairs(corpus, Key(0, epoch, number), 10**6 if epoch == 0 else 64, objective=objective)
    ]
    for number, pair in pairs:
        own = [set((part // 10_000).tolist()) for part in pair[:2]]
        assert own[0] == {number}
        assert (own[1] == {number}) == (objective == "order" or pair.label == 0)
        for part in pair[:2]:
            assert np.array_equal(np.diff(part), np.ones(len(part) - 1))  # a stretch of the text
    labels = [pair.label for _, pair in pairs]
    assert np.mean(labels) == pytest.approx(0.5, abs=4 * 0.5 / math.sqrt(len(labels)))


@pytest.mark.parametrize("objective", ["next", "order"])
def test_pairs_are_stretches_of_the_text_at_sentence_borders(objective: Any) -> None:
    """Uncut pairs, that is; with an `order` pair back in order, all of them together are the document."""
    corpus = documents()
    for number, document in enumerate(corpus):
        pairs = sentence_pairs(corpus, Key(1, 0, number), 10**6, objective=objective, short_rate=0.0)
        borders = {sentence[0] for sentence in document}
        for pair in pairs:
            parts = (pair.second, pair.first) if objective == "order" and pair.label else (pair.first, pair.second)
            assert parts[0][0] in borders
            if objective == "order" or pair.label == 0:
                assert parts[0][-1] + 1 == parts[1][0]
                assert parts[1][0] in borders or [*parts[0], *parts[1]] in document  # one sentence, divided within
        if objective == "order":
            assert len(pairs) == 1
            assert sorted([*pairs[0].first, *pairs[0].second]) == [token for s in document for token in s]


def test_displaced_sentences_begin_the_next_pair() -> None:
    corpus, displaced = documents(), 0
    for number in range(len(corpus)):
        pairs = sentence_pairs(corpus, Key(2, 0, number), 10**6, objective="next", short_rate=0.0)
        for pair, following in zip(pairs, pairs[1:], strict=False):
            assert pair.label == 1
            assert following.first[0] == pair.first[-1] + 1
            displaced += 1
    assert displaced > 10


def test_pairs_are_short_enough_and_a_tenth_are_shorter() -> None:
    corpus = documents()
    lengths = [
        len(pair.first) + len(pair.second)
        for number in range(len(corpus))
        for epoch in range(20)
        for pair in sentence_pairs(corpus, Key(0, epoch, number), 64, objective="order")
    ]
    assert max(lengths) == 64
    assert min(lengths) >= 2
    full = [
        len(pair.first) + len(pair.second)
        for number in range(len(corpus))
        for epoch in range(20)
        for pair in sentence_pairs(corpus, Key(0, epoch, number), 64, objective="order", short_rate=0.0)
    ]
    assert np.mean(np.array(lengths) < 40) - np.mean(np.array(full) < 40) > 0.03


def test_a_document_of_one_sentence_is_divided_within() -> None:
    corpus = [[list(range(100, 130))], [[5]], [[7, 8]]]
    labels = set()
    for epoch in range(30):
        (pair,) = sentence_pairs(corpus, Key(0, epoch, 0), 64, objective="order")
        assert sorted([*pair.first, *pair.second]) == list(range(100, 130))
        assert follows(pair) == (pair.label == 0)
        labels.add(pair.label)
    assert labels == {0, 1}
    assert sentence_pairs(corpus, Key(0, 0, 1), 64, objective="order") == []


def test_pairs_that_cannot_be_made_are_refused() -> None:
    sentences = [[5, 6], [7, 8]] * 60  # enough for one of the pairs to need another text
    with pytest.raises(BadInput, match="another document"):
        sentence_pairs([sentences, []], Key(0, 0, 0), 8, objective="next")
    with pytest.raises(BadInput, match="max_tokens is 1"):
        sentence_pairs([[[5, 6]]], Key(0, 0, 0), 1, objective="order")


def test_a_sample_that_is_right_counts_as_the_original() -> None:
    tokens = np.array([[7, 8, 9, 10], [11, 12, 13, 14]])
    targets = np.array([[IGNORE, 8, 9, IGNORE], [11, IGNORE, IGNORE, IGNORE]])
    sampled = np.array([[99, 8, 50, 99], [60, 99, 99, 99]])
    inputs, labels = replaced_tokens(tokens, targets, sampled)
    assert inputs.tolist() == [[7, 8, 50, 10], [60, 12, 13, 14]]
    assert labels.tolist() == [[0, 0, 1, 0], [1, 0, 0, 0]]
