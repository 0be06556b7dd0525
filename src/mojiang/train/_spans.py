"""Finding the answer to a question in a text: windows over long texts, the loss, and how well it goes.

A window is `[CLS] question [SEP] part of the text [SEP]`. Its answer begins and ends inside that part, or, if the part
holds none, at the window's first token.

Tensor names: B windows · T positions
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from mojiang.core.errors import BadInput
from mojiang.model.network import Network
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._batches import Examples
from mojiang.train._classification import text_scores
from mojiang.train._losses import span_ce
from mojiang.train._objective import Losses
from mojiang.train._scores import answer_scores
from mojiang.train._supervised import Measured


@dataclass(frozen=True)
class Windows:
    """How texts are cut, in tokens."""

    context: int
    stride: int
    """What a window shares with the one before."""
    question: int
    """Longest question."""


def encode_spans(rows: Sequence[Mapping[str, Any]], tokenizer: Tokenizer, windows: Windows) -> tuple[Examples, int]:
    """Questions with their texts as windows, and how many questions had to be cut.

    Columns: tokens, segments; `first` and `stop` of the text in the window; `begin` and `end` (the first and the last
    token of the answer, 0 both where there is none); `row`, the number of the question, `text` and `answers`, its text
    and all its answers; `places`, the characters [start, stop) of each of the window's text tokens.
    """
    columns: dict[str, list[Any]] = {}
    framed, _ = tokenizer.frame([-1], [-2])
    between, cut = framed.index(-2) - 1, 0  # special tokens before the text
    for number, row in enumerate(rows):
        question = tokenizer.encode(row["question"])
        cut += len(question) > windows.question
        question = question[: windows.question]
        ids, places = tokenizer.encode_with_offsets(row["context"])
        answer = answer_tokens(row["answers"], places)
        room = windows.context - tokenizer.frame_size(True) - len(question)
        for start, stop in cuts(len(ids), room, windows.stride):
            tokens, segments = tokenizer.frame(question, ids[start:stop])
            first = between + len(question)
            inside = answer is not None and start <= answer[0] and answer[1] < stop
            begin, end = (first + at - start for at in answer) if inside and answer else (0, 0)
            values = {
                "tokens": np.array(tokens, np.int64), "segments": np.array(segments, np.int64), "first": first,
                "stop": first + stop - start, "begin": begin, "end": end, "row": number, "places": places[start:stop],
                "text": row["context"], "answers": [answer["text"] for answer in row["answers"]],
            }  # fmt: skip
            for name, value in values.items():
                columns.setdefault(name, []).append(value)
    if not columns:
        raise BadInput("there is no text to find answers in", hint="look at the dataset's report")
    counted = {name: np.array(columns[name], np.int64) for name in ("first", "stop", "begin", "end", "row")}
    return Examples({**columns, **counted}, tokens="tokens"), cut


def answer_tokens(answers: Sequence[Mapping[str, Any]], places: Sequence[tuple[int, int]]) -> tuple[int, int] | None:
    """The first and the last token of the first answer; None if there is none, or no token stands for it.

    >>> answer_tokens([{"text": "red fox", "start": 4}], [(0, 3), (4, 7), (8, 11), (12, 16)])
    (1, 2)
    """
    for answer in answers[:1]:
        start, stop = answer["start"], answer["start"] + len(answer["text"])
        touched = [number for number, (first, last) in enumerate(places) if first < stop and last > start]
        if touched:
            return touched[0], touched[-1]
    return None


def cuts(length: int, room: int, stride: int) -> Iterable[tuple[int, int]]:
    """Windows [start, stop) of at most `room` tokens, each sharing `stride` with the one before; they cover all.

    >>> list(cuts(10, 6, 2)), list(cuts(3, 6, 2))
    ([(0, 6), (4, 10)], [(0, 3)])

    Raises:
        BadInput: a window that is no longer than what it shares.
    """
    if room <= stride:
        raise BadInput(
            f"beside the question {room} tokens are left for the text, and windows share {stride} of them",
            hint="allow longer windows (context), shorter questions, or a smaller stride",
        )
    start = 0
    while start + room < length:
        yield start, start + room
        start += room - stride
    yield start, length


@dataclass
class Extraction(Measured):
    """Cross-entropy of where the answer begins and where it ends."""

    pad_id: int
    longest: int = 30
    """Tokens of the longest answer that is given."""
    unanswerable: bool = True
    """Whether giving no answer is possible; windows without the answer are trained to give none in any case."""
    validation: Examples | None = None
    better: str = "higher"

    def counts(self, batch: Examples) -> dict[str, float]:
        """Windows."""
        return {"loss": len(batch)}

    def losses(self, model: Network, batch: Examples) -> Losses:
        """Nats of the first and of the last token of the answer, the mean of both, summed."""
        return {"loss": self._loss(text_scores(model, batch, self.pad_id), batch)}

    def _loss(self, scores_BT2: Tensor, batch: Examples) -> Tensor:
        begins_B, ends_B = (torch.from_numpy(batch[name]).to(scores_BT2.device) for name in ("begin", "end"))
        return span_ce(scores_BT2, begins_B, ends_B, allowed(batch, scores_BT2))

    @torch.no_grad()
    def measure(self, model: Network, examples: Examples, micro: int) -> dict[str, float]:
        """F1 of words and share of exact answers, over questions, and the loss of windows."""
        found: dict[int, tuple[float, str]] = {}
        nothing: dict[int, float] = {}
        loss = 0.0
        for rows in examples.micro(micro):
            part = examples.take(rows)
            scores_BT2 = text_scores(model, part, self.pad_id)
            loss += float(self._loss(scores_BT2, part))
            for at, scores_T2 in enumerate(scores_BT2.double().cpu().numpy()):
                row = int(part["row"][at])
                score, text = best_answer(scores_T2, part.take([at]), self.longest)
                found[row] = max(found.get(row, (-np.inf, "")), (score, text))
                # A text holds no answer only where none of its windows does.
                nothing[row] = min(nothing.get(row, np.inf), float(scores_T2[0].sum()))
        answers = dict(zip(examples["row"].tolist(), examples["answers"], strict=True))
        scores = []
        for row, (score, text) in found.items():
            given = "" if self.unanswerable and nothing[row] > score else text
            scores.append(answer_scores(given, answers[row]))
        exact, f1 = np.mean(scores, axis=0)
        return {"f1": float(f1), "exact_match": float(exact), "loss": loss / len(examples)}


def allowed(batch: Examples, scores_BT2: Tensor) -> Tensor:
    """Where an answer may begin and end, (B, T): in the text, and at the first token, which stands for none."""
    places_T = torch.arange(scores_BT2.shape[1], device=scores_BT2.device)
    firsts_B1, stops_B1 = (torch.from_numpy(batch[name]).to(places_T.device)[:, None] for name in ("first", "stop"))
    return ((places_T >= firsts_B1) & (places_T < stops_B1)) | (places_T == 0)


def best_answer(scores_T2: NDArray[np.float64], window: Examples, longest: int) -> tuple[float, str]:
    """Score and text of a window's best answer of at most `longest` tokens."""
    first, stop = int(window["first"][0]), int(window["stop"][0])
    if first == stop:
        return -np.inf, ""
    begins_T1, ends_T = scores_T2[first:stop, 0, None], scores_T2[first:stop, 1]
    orderly_TT = np.triu(np.tril(np.ones((stop - first, stop - first), bool), longest - 1))
    sums_TT = np.where(orderly_TT, begins_T1 + ends_T, -np.inf)
    begin, end = np.unravel_index(int(sums_TT.argmax()), sums_TT.shape)
    places = window["places"][0]
    return float(sums_TT[begin, end]), window["text"][0][places[begin][0] : places[end][1]].strip()
