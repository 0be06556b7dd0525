"""Figures of predictions, for validation during training: pure functions of what is right and what was predicted."""

from __future__ import annotations

import math
import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def confusion(right: Sequence[int], predicted: Sequence[int], num_labels: int) -> NDArray[np.int64]:
    """How often each right label (row) was predicted as each label (column).

    >>> confusion([0, 0, 1], [0, 1, 1], 2).tolist()
    [[1, 1], [0, 1]]
    """
    counts = np.zeros((num_labels, num_labels), np.int64)
    np.add.at(counts, (np.asarray(right, np.int64), np.asarray(predicted, np.int64)), 1)
    return counts


def accuracy(counts: NDArray[np.int64]) -> float:
    """Share of a confusion matrix that is on its diagonal."""
    return float(np.trace(counts) / max(1, counts.sum()))


def macro_f1(counts: NDArray[np.int64]) -> float:
    """F1 of each label that occurs or was predicted, averaged without regard to its frequency.

    >>> macro_f1(confusion([0, 0, 1], [0, 1, 1], 2)) == 2 / 3
    True
    """
    hits = np.diag(counts)
    both = counts.sum(0) + counts.sum(1)
    return float(np.mean(2 * hits[both > 0] / both[both > 0])) if both.any() else 0.0


Entity = tuple[int, int, str]
"""First word, the word behind the last, and type."""


def entities(tags: Sequence[str]) -> set[Entity]:
    """What a row of tags marks (BIO, BIOES or BMES; letters alone are of one type), by the rules of conlleval.

    A tag that goes on with nothing begins something: `I-PER` after `O` or after `B-LOC`.

    >>> sorted(entities(["B-PER", "I-PER", "O", "I-LOC", "B-LOC"]))
    [(0, 2, 'PER'), (3, 4, 'LOC'), (4, 5, 'LOC')]
    """
    found: set[Entity] = set()
    start, letter_before, type_before = -1, "O", ""
    for at, tag in enumerate([*tags, "O"]):
        letter, _, kind = tag.partition("-")
        goes_on = letter in ("I", "M", "E") and letter_before in ("B", "I", "M") and kind == type_before
        if start >= 0 and not goes_on:
            found.add((start, at, type_before))
            start = -1
        if letter != "O" and not goes_on:
            start = at
        letter_before, type_before = letter, kind
    return found


def entity_f1(right: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float]:
    """F1, precision and recall of entities over all rows: right is what has the same words and the same type.

    >>> entity_f1([["B-A", "O", "B-B"]], [["B-A", "O", "O"]])["precision"]
    1.0
    """
    hits = wanted = found = 0
    for tags, guesses in zip(right, predicted, strict=True):
        true, marked = entities(tags), entities(guesses)
        hits, wanted, found = hits + len(true & marked), wanted + len(true), found + len(marked)
    return {
        "f1": 2 * hits / max(1, wanted + found), "precision": hits / max(1, found), "recall": hits / max(1, wanted)
    }  # fmt: skip


_CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORDS = re.compile(rf"[{_CJK}]|[^\W{_CJK}]+|[^\w\s]")


def words(text: str) -> list[str]:
    """Words and signs; each Chinese or Japanese character is a word of its own.

    >>> words("Hello, 世界!")
    ['Hello', ',', '世', '界', '!']
    """
    return _WORDS.findall(text)


def answer_words(text: str) -> list[str]:
    """What counts of an answer, as in SQuAD (Rajpurkar et al. 2016): no case, punctuation or English articles.

    As in its multilingual successors (Lewis et al. 2020, MLQA) punctuation is that of any script, and a Chinese or
    Japanese character is a word.

    >>> answer_words("The  Eiffel-Tower!"), answer_words("在北京。")
    (['eiffeltower'], ['在', '北', '京'])
    """
    kept = (c for c in text.lower() if c not in string.punctuation and not unicodedata.category(c).startswith("P"))
    spaced = re.sub(r"\b(a|an|the)\b", " ", "".join(kept))
    return re.sub(f"([{_CJK}])", r" \1 ", spaced).split()


def answer_scores(predicted: str, answers: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1 of words, each with the answer it fits best; no answers: right is to give none.

    >>> answer_scores("the red fox", ["red fox", "fox"]), answer_scores("", [])
    ((1.0, 1.0), (1.0, 1.0))
    """
    found = answer_words(predicted)
    exact, best = 0.0, 0.0
    for right in [answer_words(answer) for answer in answers] or [[]]:
        exact = max(exact, float(found == right))
        shared = sum((Counter(found) & Counter(right)).values())
        best = max(best, 2 * shared / (len(found) + len(right)) if found and right else float(found == right))
    return exact, best


def _ngrams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[at : at + n]) for at in range(len(tokens) - n + 1))


def _overlap(right: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], n: int) -> tuple[int, int, int]:
    """N-grams in common, of the predicted and of the right rows."""
    shared = found = wanted = 0
    for wish, guess in zip(right, predicted, strict=True):
        there, made = _ngrams(wish, n), _ngrams(guess, n)
        shared, found, wanted = shared + (there & made).total(), found + made.total(), wanted + there.total()
    return shared, found, wanted


def bleu(right: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]], longest: int = 4) -> float:
    """Corpus BLEU of tokens, 0 to 100; a length without matches counts as half a match, the next as a quarter.

    Source: Papineni et al. 2002; smoothing of NIST's mteval-v13a, which is sacrebleu's too (Post 2018).

    >>> round(bleu(["the cat sat on the mat".split()], ["the cat sat on a mat".split()]), 2)
    53.73
    """
    logs, smooth = 0.0, 1.0
    for n in range(1, longest + 1):
        shared, found, _ = _overlap(right, predicted, n)
        if found == 0 or (n == 1 and shared == 0):
            return 0.0
        smooth = smooth if shared else 2 * smooth
        logs += math.log((shared or 1 / smooth) / found)
    lengths = sum(map(len, predicted)), sum(map(len, right))
    return 100 * math.exp(logs / longest + min(0.0, 1 - lengths[1] / lengths[0]))


def chrf(right: Sequence[str], predicted: Sequence[str], longest: int = 6, beta: float = 2.0) -> float:
    """Corpus chrF of texts, 0 to 100: F-score of character n-grams, spaces left out (Popović 2015, chrF2).

    As in sacrebleu, n-grams of a text count only where the right one is long enough to have some.
    """
    precisions, recalls = [], []
    pairs = [("".join(r.split()), "".join(p.split())) for r, p in zip(right, predicted, strict=True)]
    for n in range(1, longest + 1):
        long = [pair for pair in pairs if len(pair[0]) >= n]
        shared, found, wanted = _overlap([r for r, _ in long], [p for _, p in long], n)
        if found and wanted:
            precisions.append(shared / found)
            recalls.append(shared / wanted)
    if not precisions or not any(precisions):
        return 0.0
    precision, recall = float(np.mean(precisions)), float(np.mean(recalls))
    return 100 * (1 + beta**2) * precision * recall / (beta**2 * precision + recall)
