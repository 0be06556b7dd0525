"""Byte-pair merges learned on top of those that a tokenizer has: the old ones run first, and nothing they make changes.

A pair is joined only where the old merges have stopped, so a text without new tokens keeps its ids, and each new token
is a string of old ones: that is what its embedding can begin from.
"""

from __future__ import annotations

import heapq
import json
from collections import Counter, defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

from mojiang.core.errors import BadInput

Pair = tuple[str, str]


@dataclass(frozen=True)
class NewToken:
    """A merge that was learned."""

    pair: Pair
    count: int
    """How often it was seen in the text."""

    @property
    def text(self) -> str:
        """The token, as the vocabulary writes it."""
        return "".join(self.pair)


def learn(tokenizer: Tokenizer, texts: Iterable[str], num_tokens: int, min_frequency: int = 2) -> list[NewToken]:
    """The `num_tokens` merges that come next on these texts; fewer when no pair is left that is frequent enough.

    Raises:
        BadInput: the tokenizer is no BPE, or does not cut text into words, so that merges would cross sentences.
    """
    spec = json.loads(tokenizer.to_str())
    if (spec.get("model") or {}).get("type") != "BPE" or tokenizer.pre_tokenizer is None:
        kind = (spec.get("model") or {}).get("type", "unknown")
        raise BadInput(
            f"a {kind} tokenizer{'' if kind != 'BPE' else ' that does not cut words'} cannot be given more merges",
            hint="extend a byte-level BPE model (SmolLM2, Llama 3, Qwen, GPT-2, or one of tokenizer.bpe)",
        )
    words = _words(tokenizer, texts)
    return _merges(words, set(tokenizer.get_vocab(with_added_tokens=True)), num_tokens, min_frequency)


def extended(tokenizer: Tokenizer, found: list[NewToken]) -> Tokenizer:
    """The tokenizer with these merges after its own; new ids follow the largest there is."""
    spec: dict[str, Any] = json.loads(tokenizer.to_str())
    model = spec["model"]
    first = 1 + max(tokenizer.get_vocab(with_added_tokens=True).values())
    as_text = bool(model["merges"]) and isinstance(model["merges"][0], str)
    for id, token in enumerate(found, first):
        model["vocab"][token.text] = id
        model["merges"].append(" ".join(token.pair) if as_text else list(token.pair))
    return Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))


def _words(tokenizer: Tokenizer, texts: Iterable[str]) -> list[tuple[list[str], int]]:
    """Each different word as the old merges leave it, with the number of times it is there."""
    counts: Counter[str] = Counter()
    for text in texts:
        normal = text if tokenizer.normalizer is None else tokenizer.normalizer.normalize_str(text)
        counts.update(word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(normal))
    split = ((word, [token.value for token in tokenizer.model.tokenize(word)]) for word in counts)
    return [(pieces, counts[word]) for word, pieces in split if len(pieces) > 1]


def _merges(words: list[tuple[list[str], int]], known: set[str], num_tokens: int, min_frequency: int) -> list[NewToken]:
    """Join the most frequent pair, again and again; ties go to the pair that sorts first."""
    counts: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for number, (pieces, times) in enumerate(words):
        for pair in zip(pieces, pieces[1:], strict=False):
            counts[pair] += times
            where[pair].add(number)
    heap = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(heap)
    found: list[NewToken] = []
    while heap and len(found) < num_tokens:
        minus, pair = heapq.heappop(heap)
        if -minus != counts[pair]:  # it has become rarer since
            if counts[pair] >= min_frequency:
                heapq.heappush(heap, (-counts[pair], pair))
            continue
        if -minus < min_frequency:
            break
        # A token that there is already would set off old merges that follow it, which were not foreseen here.
        if "".join(pair) in known:
            continue
        known.add("".join(pair))
        found.append(NewToken(pair, -minus))
        grown = set()
        for number in where.pop(pair):
            grown |= _join(words, number, pair, counts, where)
        for changed in grown:
            heapq.heappush(heap, (-counts[changed], changed))
    return found


def _join(
    words: list[tuple[list[str], int]], number: int, pair: Pair, counts: Counter[Pair], where: dict[Pair, set[int]]
) -> set[Pair]:
    """Join a pair in one word and keep the books; returns the pairs that have become more frequent."""
    pieces, times = words[number]
    for before in zip(pieces, pieces[1:], strict=False):
        counts[before] -= times
    joined: list[str] = []
    for piece in pieces:
        if joined and (joined[-1], piece) == pair:
            joined[-1] += piece
        else:
            joined.append(piece)
    words[number] = (joined, times)
    now = set(zip(joined, joined[1:], strict=False))
    for after in zip(joined, joined[1:], strict=False):
        counts[after] += times
    for after in now:
        where[after].add(number)
    return now
