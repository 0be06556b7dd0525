"""Corrupting text for pre-training: what is hidden, swapped or replaced, and what is to be found out about it.

Every function is pure. What it draws at random depends on its `Key` (seed, epoch, row) only, so that a row is corrupted
anew in every epoch, and alike whatever it is batched with, whoever computes it, and after a restart. Only uniform
numbers are drawn, and all else is computed from them: the generator's own permutations and Poisson numbers may change
between versions of NumPy.

Tensor names: T tokens of a row · P ordinary tokens of it (those that are not special) · K spans · U words
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import IGNORE

Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]


class Key(NamedTuple):
    """What random choices depend on."""

    seed: int
    epoch: int
    row: int

    def generator(self) -> np.random.Generator:
        """A generator of its own, always beginning alike."""
        return np.random.default_rng([part & (2**64 - 1) for part in self])


@dataclass(frozen=True)
class Vocabulary:
    """Which tokens corruption may touch, and which it writes."""

    size: int
    special: tuple[int, ...]
    """Ids that are never hidden, moved or written as a random replacement."""
    mask: int | None = None
    sentinels: tuple[int, ...] = ()
    """Ids that stand for hidden spans, in the order of their use."""

    @cached_property
    def is_ordinary(self) -> Bools:
        """By id, whether it is neither special nor one of corruption's own."""
        ordinary = np.ones(self.size, np.bool_)
        own = () if self.mask is None else (self.mask,)
        ordinary[[*self.special, *own, *self.sentinels]] = False
        return ordinary

    @cached_property
    def ordinary(self) -> Ints:
        """The ids that are."""
        return np.flatnonzero(self.is_ordinary)

    @property
    def mask_id(self) -> int:
        """The token that hides others."""
        if self.mask is None:
            raise BadInput("the tokenizer has no mask token", hint="train a tokenizer that has one")
        return self.mask


def mask_tokens(
    tokens_T: Ints,
    vocabulary: Vocabulary,
    key: Key,
    *,
    rate: float = 0.15,
    word_starts_T: Bools | None = None,
    shares: tuple[float, float] = (0.8, 0.1),
) -> tuple[Ints, Ints]:
    """Inputs and targets (T,) of masked language modelling (Devlin et al. 2019); targets are `IGNORE` where not chosen.

    Of the ordinary tokens round(rate · P) are chosen, at least one. A chosen one becomes the mask with the first of the
    `shares`, a random ordinary token with the second, and else stays as it is. With `word_starts_T`, whole words are
    chosen, as many as fit into that number; what a word's tokens become is drawn for each.
    """
    inputs_T, targets_T = tokens_T.astype(np.int64), np.full(tokens_T.shape, IGNORE, np.int64)
    places_P = np.flatnonzero(vocabulary.is_ordinary[tokens_T])
    if len(places_P) == 0:
        return inputs_T, targets_T
    draw = key.generator()
    chosen = places_P[_chosen_words(places_P, word_starts_T, max(1, round(rate * len(places_P))), draw)]
    targets_T[chosen] = tokens_T[chosen]
    fate, replacement = draw.random(len(chosen)), draw.random(len(chosen))
    masked, replaced = fate < shares[0], (fate >= shares[0]) & (fate < sum(shares))
    inputs_T[chosen[masked]] = vocabulary.mask_id
    random = vocabulary.ordinary[(replacement * len(vocabulary.ordinary)).astype(np.int64)]
    inputs_T[chosen[replaced]] = random[replaced]
    return inputs_T, targets_T


def _chosen_words(places_P: Ints, word_starts_T: Bools | None, budget: int, draw: np.random.Generator) -> Bools:
    """Which of the ordinary tokens to choose: random words of together at most `budget` tokens, at least one word."""
    begins_P = np.ones(len(places_P), np.bool_)
    if word_starts_T is not None:
        # No word goes on behind a special token.
        begins_P = word_starts_T[places_P] | (np.diff(places_P, prepend=-2) > 1)
        begins_P[0] = True
    word_P = np.cumsum(begins_P) - 1
    sizes_U = np.bincount(word_P)
    chosen_U = np.zeros(len(sizes_U), np.bool_)
    for word in _permutation(len(sizes_U), draw):
        if sizes_U[word] <= budget:
            chosen_U[word] = True
            budget -= int(sizes_U[word])
        if budget == 0:
            break
    if not chosen_U.any():
        chosen_U[sizes_U.argmin()] = True
    chosen_P: Bools = chosen_U[word_P]
    return chosen_P


class Pair(NamedTuple):
    """Two segments, and whether the second is out of place."""

    first: Ints
    second: Ints
    label: int
    """0: the second follows the first in the text; 1: it is another text's (`next`), or they are swapped (`order`)."""


def sentence_pairs(
    documents: Sequence[Sequence[Sequence[int]]],
    key: Key,
    max_tokens: int,
    *,
    objective: Literal["next", "order"],
    short_rate: float = 0.1,
) -> list[Pair]:
    """Pairs of segments of the document whose number is `key.row`, each document a list of sentences of token ids.

    `next` is BERT's next-sentence prediction: half of the second segments come from another document. `order` is
    ALBERT's sentence-order prediction (Lan et al. 2020): half of the pairs are swapped. Sentences are collected until
    they have `max_tokens`, or in `short_rate` of the cases a random number, and divided at a random sentence (a single
    sentence within); what is too long is cut at random ends. Sentences that another document's displaced begin the next
    pair.

    Raises:
        BadInput: there is no other document, or no room for two segments.
    """
    if max_tokens < 2:
        raise BadInput(f"max_tokens is {max_tokens}", hint="a pair has at least one token on either side")
    document, draw = documents[key.row], key.generator()
    pairs = []
    first = 0
    while first < len(document):
        size = 2 + int(draw.random() * (max_tokens - 1)) if draw.random() < short_rate else max_tokens
        stop = _collected(size, document, first)
        left, right, middle = _divided(document[first:stop], draw)
        first, middle = stop, first + middle
        if not left or not right:
            continue
        label = int(draw.random() < 0.5)
        if label and objective == "next":
            right = _elsewhere(documents, key.row, size - len(left), draw)
            first = middle
        left, right = _shortened(left, right, max_tokens, draw)
        pair = (right, left) if label and objective == "order" else (left, right)
        pairs.append(Pair(np.array(pair[0], np.int64), np.array(pair[1], np.int64), label))
    return pairs


def _collected(num_tokens: int, sentences: Sequence[Sequence[int]], first: int) -> int:
    """Behind which sentence there are so many tokens from the sentence `first` on; the last, if there are fewer."""
    for number in range(first, len(sentences)):
        num_tokens -= len(sentences[number])
        if num_tokens <= 0:
            return number + 1
    return len(sentences)


def _divided(sentences: Sequence[Sequence[int]], draw: np.random.Generator) -> tuple[list[int], list[int], int]:
    """The tokens of the first and of the other sentences, and how many sentences the first part took from."""
    if len(sentences) == 1:
        tokens = list(sentences[0])
        cut = 1 + int(draw.random() * (len(tokens) - 1))
        return tokens[:cut], tokens[cut:], 1
    middle = 1 + int(draw.random() * (len(sentences) - 1))
    left, right = (
        [token for sentence in part for token in sentence] for part in (sentences[:middle], sentences[middle:])
    )
    return left, right, middle


def _elsewhere(
    documents: Sequence[Sequence[Sequence[int]]], number: int, num_tokens: int, draw: np.random.Generator
) -> list[int]:
    """About so many tokens of another document, from a random sentence on."""
    others = len(documents) - 1
    begin = int(draw.random() * others)
    for step in range(others):
        other = documents[(number + 1 + (begin + step) % others) % len(documents)]
        first = int(draw.random() * len(other))
        tokens = [token for sentence in other[first : _collected(num_tokens, other, first)] for token in sentence]
        if tokens:
            return tokens
    raise BadInput("next-sentence prediction needs another document", hint="use objective=order, or more text")


def _shortened(
    left: list[int], right: list[int], max_tokens: int, draw: np.random.Generator
) -> tuple[list[int], list[int]]:
    """Cut the longer one, at a random end, until both together are short enough."""
    spans = [[0, len(left)], [0, len(right)]]
    for _ in range(len(left) + len(right) - max_tokens):
        longer = max(spans, key=lambda span: span[1] - span[0])
        at_front = draw.random() < 0.5
        longer[0 if at_front else 1] += 1 if at_front else -1
    return left[slice(*spans[0])], right[slice(*spans[1])]


def corrupt_spans(
    tokens_T: Ints,
    vocabulary: Vocabulary,
    key: Key,
    *,
    rate: float = 0.15,
    mean_length: float = 3.0,
    end: int | None = None,
) -> tuple[Ints, Ints]:
    """Inputs and targets of T5's span corruption (Raffel et al. 2020).

    In the inputs a sentinel stands for each hidden span; the targets are each sentinel and what it hides. `end`, if
    given, is added to both. Numbers of tokens and spans are those of T5's own code (see `num_noise`); all ways to place
    them are equally likely, except that a text begins with what is kept and a special token divides a span.

    Raises:
        BadInput: more spans than sentinels.
    """
    places_P = np.flatnonzero(vocabulary.is_ordinary[tokens_T])
    hidden_T = np.zeros(len(tokens_T), np.bool_)
    if len(places_P) > 1:
        hidden_T[places_P] = _noise_mask(len(places_P), rate, mean_length, key.generator())
    begins_T = _begins(hidden_T)
    num_spans = int(begins_T.sum())
    if num_spans > len(vocabulary.sentinels):
        raise BadInput(
            f"{num_spans} spans are to be hidden, and there are {len(vocabulary.sentinels)} sentinels",
            hint="shorten the rows, or train a tokenizer with more sentinels",
        )
    sentinels_K = np.array(vocabulary.sentinels[:num_spans], np.int64)
    inputs_T = tokens_T.astype(np.int64)
    inputs_T[begins_T] = sentinels_K
    targets = np.insert(tokens_T[hidden_T].astype(np.int64), np.flatnonzero(begins_T[hidden_T]), sentinels_K)
    ending = [] if end is None else [end]
    return np.append(inputs_T[~hidden_T | begins_T], ending).astype(np.int64), np.append(targets, ending).astype(
        np.int64
    )


def num_noise(num_tokens: int, rate: float = 0.15, mean_length: float = 3.0) -> tuple[int, int]:
    """How many tokens `corrupt_spans` hides, and in how many spans.

    >>> num_noise(568)
    (85, 28)
    """
    noise = min(max(round(num_tokens * rate), 1), num_tokens - 1)
    return noise, min(max(round(noise / mean_length), 1), num_tokens - noise)


def row_lengths(inputs_length: int, rate: float = 0.15, mean_length: float = 3.0) -> tuple[int, int]:
    """How many tokens to corrupt for at most `inputs_length` of inputs, and the length of the targets, ends included.

    >>> row_lengths(512)
    (568, 114)
    """

    def lengths(num_tokens: int) -> tuple[int, int]:
        noise, spans = num_noise(num_tokens, rate, mean_length)
        return num_tokens - noise + spans + 1, noise + spans + 1

    num_tokens = 2
    while lengths(num_tokens + 1)[0] <= inputs_length:
        num_tokens += 1
    return num_tokens, lengths(num_tokens)[1]


def _noise_mask(num_tokens: int, rate: float, mean_length: float, draw: np.random.Generator) -> Bools:
    noise, spans = num_noise(num_tokens, rate, mean_length)
    kept_K, hidden_K = _composition(num_tokens - noise, spans, draw), _composition(noise, spans, draw)
    lengths = np.stack([kept_K, hidden_K], axis=1).ravel()
    return np.repeat(np.arange(2 * spans) % 2 == 1, lengths)


def _composition(total: int, parts: int, draw: np.random.Generator) -> Ints:
    """Positive numbers (parts,) with that sum; all ways to choose them are equally likely."""
    cuts = np.sort(_permutation(total - 1, draw)[: parts - 1]) + 1
    return np.diff(cuts, prepend=0, append=total)


def denoise(
    tokens_T: Ints,
    vocabulary: Vocabulary,
    key: Key,
    *,
    sentence_starts_T: Bools | None = None,
    rate: float = 0.3,
    mean_length: float = 3.0,
) -> tuple[Ints, Ints]:
    """Inputs and targets of BART's denoising (Lewis et al. 2020); the targets are the text itself.

    Sentences are put in a random order, where `sentence_starts_T` says where they begin. Then spans of together
    ceil(rate · P) tokens are each replaced by one mask; their lengths are Poisson numbers, and for a length of 0 a mask
    is inserted. At least one kept token stands between two masks, special tokens stay, and those at either end of the
    text stay there.
    """
    draw = key.generator()
    moved_T = tokens_T if sentence_starts_T is None else _permuted(tokens_T, sentence_starts_T, vocabulary, draw)
    places_P = np.flatnonzero(vocabulary.is_ordinary[moved_T])
    starts_K, lengths_K = _infilled(len(places_P), rate, mean_length, draw)
    hidden_P = np.zeros(len(places_P) + 1, np.int64)
    np.add.at(hidden_P, starts_K, 1)
    np.add.at(hidden_P, starts_K + lengths_K, -1)
    hidden_T = np.zeros(len(moved_T), np.bool_)
    hidden_T[places_P] = np.cumsum(hidden_P)[:-1] > 0
    begins_T = _begins(hidden_T)
    inputs_T = np.where(begins_T, vocabulary.mask_id, moved_T.astype(np.int64))
    inserted = starts_K[lengths_K == 0]
    before = np.append(places_P, places_P[-1:] + 1)[inserted]  # also behind the last
    kept = np.insert(~hidden_T | begins_T, before, True)
    return np.insert(inputs_T, before, vocabulary.mask_id)[kept], tokens_T.astype(np.int64)


def _permuted(tokens_T: Ints, starts_T: Bools, vocabulary: Vocabulary, draw: np.random.Generator) -> Ints:
    places_P = np.flatnonzero(vocabulary.is_ordinary[tokens_T])
    if len(places_P) == 0:
        return tokens_T
    first, stop = int(places_P[0]), int(places_P[-1]) + 1
    sentences = np.split(tokens_T[first:stop], np.flatnonzero(starts_T[first + 1 : stop]) + 1)
    order = _permutation(len(sentences), draw)
    return np.concatenate([tokens_T[:first], *[sentences[number] for number in order], tokens_T[stop:]])


def _infilled(num_tokens: int, rate: float, mean_length: float, draw: np.random.Generator) -> tuple[Ints, Ints]:
    """Where the hidden spans begin, in order, and their lengths, which may be 0."""
    budget = math.ceil(rate * num_tokens)
    lengths_K = np.zeros(0, np.int64)
    while lengths_K.sum() < budget:
        lengths_K = np.append(lengths_K, _poisson(mean_length, budget, draw))
    num_spans = int(np.searchsorted(np.cumsum(lengths_K), budget)) + 1 if budget else 0
    lengths_K = lengths_K[:num_spans]
    lengths_K[-1:] -= lengths_K.sum() - budget
    # Each span has a gap between two kept tokens to itself.
    num_gaps = num_tokens - budget + 1
    lengths_K = lengths_K[_permutation(len(lengths_K), draw)][:num_gaps]
    gaps_K = np.sort(_permutation(num_tokens - int(lengths_K.sum()) + 1, draw)[: len(lengths_K)])
    return gaps_K + np.cumsum(lengths_K) - lengths_K, lengths_K


def _poisson(mean: float, count: int, draw: np.random.Generator) -> Ints:
    most = int(mean + 12 * math.sqrt(mean)) + 12
    logs = [number * math.log(mean) - mean - math.lgamma(number + 1) for number in range(most)]
    return np.searchsorted(np.cumsum(np.exp(logs))[:-1], draw.random(count), side="right")


def replaced_tokens(tokens: Ints, targets: Ints, sampled: Ints) -> tuple[Ints, Ints]:
    """Inputs and labels of replaced-token detection (ELECTRA, Clark et al. 2020), in any one shape.

    `tokens` is the text, `targets` is not `IGNORE` where tokens were masked, and `sampled` is what the generator put
    there. A label is 1 where the text was changed: a sample that happens to be right counts as the original.
    """
    inputs = np.where(targets != IGNORE, sampled, tokens)
    return inputs, (inputs != tokens).astype(np.int64)


def _begins(hidden_T: Bools) -> Bools:
    """Where runs of True begin."""
    begins_T: Bools = hidden_T & ~np.append(False, hidden_T[:-1])
    return begins_T


def _permutation(count: int, draw: np.random.Generator) -> Ints:
    return np.argsort(draw.random(count), kind="stable")
