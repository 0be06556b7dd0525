"""Greedy and beam decoding of encoder–decoder models, many sources at once, with a key/value cache.

A source's target does not depend on what else is in the batch: every row decodes on its own, padding is masked, and a
row leaves the batch when it is done. (In fp32 a near-tie of two scores, within rounding, is the exception.)

Beam search is that of `transformers` with its default `early_stopping=False`: a target's score is the sum of its
tokens' log-probabilities, the end included, divided by (number of tokens, the end included) ** length_penalty; a source
is done when its best `beams` targets so far all score at least what its best open beam scores at its present length.

Tensor names: B sources · R = B × K decoder rows · K beams · S source positions · V vocabulary
"""

from __future__ import annotations

import torch
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.model._seq2seq import DecoderCache, Seq2Seq

ROWS_AT_ONCE = 128
"""Decoder rows of a batch: enough to fill matrix units, few enough that caches stay small."""

NEVER = float("-inf")


@torch.inference_mode()
def translate_tokens(
    model: Seq2Seq, sources: list[list[int]], max_tokens: int, beams: int = 1, length_penalty: float = 1.0
) -> list[list[int]]:
    """What `model` writes for each source: token ids without start and end.

    Args:
        sources: token ids as the model was trained on them, with the end token where it expects one.
        max_tokens: tokens written at most, the end included.
        beams: 1 is greedy.
        length_penalty: above 0 favours long targets, below 0 short ones; used with several beams only.

    Raises:
        BadInput: an empty source, or more positions than the model has.
    """
    _check(model, sources, max_tokens, beams)
    targets: dict[int, list[int]] = {}
    # Sources of like length together: little padding to compute.
    order = sorted(range(len(sources)), key=lambda number: -len(sources[number]))
    step = max(1, ROWS_AT_ONCE // beams)
    for first in range(0, len(order), step):
        numbers = order[first : first + step]
        batch = _Batch(model, [sources[number] for number in numbers], max_tokens, beams)
        written = _greedy(batch) if beams == 1 else _beam_search(batch, length_penalty)
        targets.update(zip(numbers, written, strict=True))
    return [targets[number] for number in range(len(sources))]


def _check(model: Seq2Seq, sources: list[list[int]], max_tokens: int, beams: int) -> None:
    if max_tokens < 1 or beams < 1:
        raise BadInput(f"max_tokens is {max_tokens} and beams {beams}", hint="both are at least 1")
    if empty := [number for number, source in enumerate(sources) if not source]:
        raise BadInput(f"source {empty[0]} has no tokens", hint="leave empty sources out")
    limit = getattr(model.config, "max_position_embeddings", None)
    longest = max([max_tokens, *map(len, sources)])
    if limit is not None and longest > limit:
        raise BadInput(
            f"{longest} positions are asked of a model that has {limit}", hint="shorten the sources or max_tokens"
        )


class _Batch:
    """Sources that are decoded together: those still open, their memory and their cache."""

    def __init__(self, model: Seq2Seq, sources: list[list[int]], max_tokens: int, beams: int) -> None:
        self.model, self.max_tokens, self.beams = model, max_tokens, beams
        self.open = list(range(len(sources)))
        """The source of each row of the batch (with beams: of `beams` rows)."""
        self.ends = set(model.end_tokens)
        self.cache = DecoderCache(max_tokens)
        longest, padding = max(map(len, sources)), model.config.pad_token_id
        tokens = [[*source, *[padding] * (longest - len(source))] for source in sources]
        lengths_B1 = torch.tensor([[len(source)] for source in sources])
        mask_BS = torch.arange(longest) < lengths_B1
        self.mask = None if bool(mask_BS.all()) else mask_BS[:, None, None].to(model.device)
        self.memory_BSD = model.encode(torch.tensor(tokens, device=model.device), self.mask)

    @property
    def written(self) -> int:
        """Tokens written so far."""
        return self.cache.length

    def log_probabilities(self, inputs: list[int]) -> Tensor:
        """Of the token behind each row's newest one, (R, V) in fp32; -inf for what may not be written."""
        inputs_RT = torch.tensor(inputs, device=self.memory_BSD.device)[:, None]
        hidden_RTD = self.model.decode(inputs_RT, self.memory_BSD, self.mask, cache=self.cache)
        log_RV = self.model.logits(hidden_RTD[:, -1]).float().log_softmax(dim=-1)
        log_RV[:, list(self.model.never_written)] = NEVER
        forced = getattr(self.model.config, "forced_eos_token_id", None)
        if forced is not None and self.written == self.max_tokens:
            log_RV.fill_(NEVER)
            log_RV[:, forced] = 0.0
        return log_RV

    def keep(self, rows: list[int], places: list[int]) -> None:
        """Go on with these rows of the batch, which belong to the sources at these places of it."""
        device = self.memory_BSD.device
        rows_R = torch.tensor(rows, device=device)
        if len(places) == len(self.open):
            if rows != list(range(len(rows))):
                self.cache.select(rows_R)
            return
        places_B = torch.tensor(places, device=device)
        self.cache.select(rows_R, places_B)
        self.memory_BSD = self.memory_BSD[places_B]
        self.mask = None if self.mask is None else self.mask[places_B]
        self.open = [self.open[place] for place in places]


def _greedy(batch: _Batch) -> list[list[int]]:
    """The likeliest token at every step."""
    targets: list[list[int]] = [[] for _ in batch.open]
    inputs = [batch.model.start_token] * len(targets)
    while inputs and batch.written < batch.max_tokens:
        tokens = batch.log_probabilities(inputs).argmax(dim=-1).tolist()
        places = [place for place, token in enumerate(tokens) if token not in batch.ends]
        inputs = [tokens[place] for place in places]
        for place, token in zip(places, inputs, strict=True):
            targets[batch.open[place]].append(token)
        if inputs:
            batch.keep(places, places)
    return targets


Candidate = tuple[float, int, int]
"""Sum of log-probabilities, the row that is continued, and the token it is continued with."""


def _beam_search(batch: _Batch, length_penalty: float) -> list[list[int]]:
    """The best target of each source, of `beams` that are written side by side."""
    K, device = batch.beams, batch.memory_BSD.device
    finished = [_Finished(K, length_penalty) for _ in batch.open]
    inputs = [batch.model.start_token] * (len(finished) * K)
    written: list[list[int]] = [[] for _ in inputs]
    # All beams of a source begin equal: only the first may be continued, or they would stay equal.
    scores_BK = torch.tensor([[0.0, *[NEVER] * (K - 1)]] * len(finished), device=device)
    while inputs:
        log_RV = batch.log_probabilities(inputs)
        V = log_RV.shape[1]
        total_BC = (scores_BK[:, :, None] + log_RV.view(-1, K, V)).flatten(1)
        # So many that enough are left to go on with even if the best of them end.
        best = total_BC.topk(min(max(2, 1 + len(batch.ends)) * K, K * V), dim=1)
        going: dict[int, list[Candidate]] = {}
        for place, (scores, indices) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            ranked = [(score, place * K + at // V, at % V) for score, at in zip(scores, indices, strict=True)]
            if left := finished[batch.open[place]].sort_out(ranked, written, batch):
                going[place] = left
        chosen = [candidate for left in going.values() for candidate in left]
        inputs = [token for _, _, token in chosen]
        written = [[*written[row], token] for _, row, token in chosen]
        scores_BK = torch.tensor([score for score, _, _ in chosen], device=device).view(-1, K)
        if inputs:
            batch.keep([row for _, row, _ in chosen], list(going))
    return [source.targets[0][1] for source in finished]


class _Finished:
    """The best targets of one source that have ended."""

    def __init__(self, beams: int, length_penalty: float) -> None:
        self.beams, self.length_penalty = beams, length_penalty
        self.targets: list[tuple[float, list[int]]] = []
        """(Score, tokens), the best first."""

    def sort_out(self, ranked: list[Candidate], written: list[list[int]], batch: _Batch) -> list[Candidate]:
        """Keep what ends of the candidates; returns the `beams` best that go on, none when the source is done.

        Only what ends among the first `beams` counts: the rest is there for something to be left to go on with.
        """
        full = batch.written == batch.max_tokens
        length = batch.written**self.length_penalty
        for score, row, token in ranked[: self.beams]:
            if (full or token in batch.ends) and score > NEVER:
                self.targets.append((score / length, [*written[row], *([] if token in batch.ends else [token])]))
        self.targets.sort(key=lambda target: -target[0])
        del self.targets[self.beams :]
        going = [candidate for candidate in ranked if candidate[2] not in batch.ends][: self.beams]
        better = len(self.targets) < self.beams or going[0][0] / length > self.targets[-1][0]
        return going if better and not full else []
