"""An answer under way: from chosen tokens to deltas of text, and when it ends."""

from __future__ import annotations

import time
from dataclasses import dataclass, field, replace

import torch

from mojiang.generate._detokenize import Detokenizer
from mojiang.generate._heal import Healing
from mojiang.generate._sampler import TokenLogprob, logprob, sample
from mojiang.generate._scheduler import Sequence
from mojiang.generate._stop import StopMatcher
from mojiang.generate._stream import Delta, FinishReason, Generation, Stream


@dataclass
class Answer:
    """A sequence, its stream, and what turns tokens of the one into deltas of the other."""

    stream: Stream
    sequence: Sequence
    detokenizer: Detokenizer
    stops: StopMatcher
    end: frozenset[int]
    room: int
    healing: Healing | None = None
    text: list[str] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    unsent: list[tuple[int, TokenLogprob]] = field(default_factory=list)  # (where the token's text begins, entry)
    num_chars: int = 0
    num_sent: int = 0
    num_repeated: int = 0  # tokens that only spell the end of the prompt again
    admitted: float = 0.0
    first_token: float = 0.0
    _pending: str = ""

    def accept(self, logits_V: torch.Tensor, best: int) -> FinishReason | None:
        """Choose the next token (`best` is the arg-max) and pass on what it makes known.

        Returns the reason if the answer ends here; the caller then frees the slot and calls `finish`.
        """
        request, sequence = self.stream.request, self.sequence
        greedy = request.sampling.temperature == 0.0
        position = len(request.prompt) + len(sequence.output)
        if self.healing is not None and self.healing.active:
            logits_V = self.healing.restrict(logits_V)
            best = int(logits_V.argmax())
        token = best if greedy else sample(logits_V, request.sampling, position)
        sequence.output.append(token)
        if self.healing is not None and self.healing.active and self.healing.take(token):
            # A token that only repeats the prompt is no token of the answer.
            self.num_repeated += 1
            sequence.max_tokens = min(sequence.max_tokens + 1, self.room)
        if token in self.end:
            return "stop"
        if request.logprobs is not None:
            self.unsent.append((self.num_chars, logprob(logits_V, token, request.logprobs)))
        self._show(self.detokenizer.push(token))
        if self.stops.stopped:
            return "stop"
        if len(sequence.output) >= sequence.max_tokens:
            return "length"
        delta = self._delta(None)
        if delta.text or delta.logprobs:
            self.stream.emit(delta)
        return None

    def finish(self, reason: FinishReason) -> None:
        """Give out what was held back, the reason and the result."""
        if not self.stops.stopped:
            self._show(self.detokenizer.flush())
            self._pending += self.stops.flush()
            reason = "stop" if self.stops.stopped and reason == "length" else reason
        last = self._delta(reason)
        now, stream = time.perf_counter(), self.stream
        generation = Generation(
            text="".join(self.text),
            tokens=tuple(self.sequence.output),
            num_repeated=self.num_repeated,
            finish_reason=reason,
            num_prompt_tokens=len(self.sequence.prompt),
            logprobs=tuple(self.logprobs),
            seconds_queued=(self.admitted or now) - stream.created,
            seconds_to_first_token=(self.first_token or now) - stream.created,
            seconds=now - stream.created,
        )
        stream.emit(replace(last, generation=generation))

    def _show(self, text: str) -> None:
        if self.healing is not None:
            text = self.healing.show(text)
        self.num_chars += len(text)
        self._pending += self.stops.push(text)

    def _delta(self, reason: FinishReason | None) -> Delta:
        text, self._pending = self._pending, ""
        # A token waits until its text is out; one whose text a stop string cut off is never shown.
        everything = reason is not None and not self.stops.stopped
        ready = [entry for start, entry in self.unsent if everything or start < self.stops.released]
        self.unsent = self.unsent[len(ready) :]
        self.logprobs.extend(ready)
        self.text.append(text)
        produced = len(self.sequence.output) - self.num_repeated - self.num_sent
        if text or ready or reason:
            self.num_sent += produced
        return Delta(text, produced, tuple(ready), reason)
