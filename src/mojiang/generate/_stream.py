"""What goes into the engine and what comes out: a request, its stream of deltas, the finished generation."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal, Protocol

from mojiang.core.errors import BadInput, RunFailed
from mojiang.generate._sampler import Sampling, TokenLogprob

logger = logging.getLogger(__name__)

FinishReason = Literal["stop", "length", "cancelled", "error"]


@dataclass(frozen=True)
class GenerationRequest:
    """One prompt and how to continue it.

    `max_tokens` None means up to the context. `stop` strings end the answer and are not part of it; `stop_tokens`
    None means the tokenizer's own end tokens, an empty set means never. `logprobs` None gives none, N gives the
    chosen token's log-probability and the N likeliest alternatives. `begins` is text that the answer has to begin
    with and that is not shown again: the end of the prompt, taken back by `Tokenizer.heal`.
    """

    prompt: tuple[int, ...]
    max_tokens: int | None = None
    sampling: Sampling = Sampling()
    stop: tuple[str, ...] = ()
    stop_tokens: frozenset[int] | None = None
    logprobs: int | None = None
    begins: str = ""

    def check(self, context: int, vocab_size: int) -> None:
        """Raise `BadInput` if this can never run: empty, too long for the context, or with unknown token ids."""
        length = len(self.prompt)
        if length == 0:
            raise BadInput("the prompt is empty", hint="give at least one token")
        if length >= context:
            raise BadInput(
                f"the prompt has {length} tokens; the context is {context}, and an answer needs at least one",
                hint=f"shorten the prompt to at most {context - 1} tokens",
            )
        unknown = [token for token in self.prompt if not 0 <= token < vocab_size]
        if unknown:
            raise BadInput(
                f"token id {unknown[0]} is not in the vocabulary of {vocab_size}",
                hint="encode the prompt with this model's tokenizer",
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise BadInput(f"max_tokens is {self.max_tokens}", hint="ask for at least one token")


@dataclass(frozen=True)
class Delta:
    """What became known since the last one. The last delta of a stream has a `finish_reason`.

    `logprobs` belong to tokens whose text begins in this or an earlier delta (text may wait for a stop string).
    """

    text: str = ""
    num_tokens: int = 0
    logprobs: tuple[TokenLogprob, ...] = ()
    finish_reason: FinishReason | None = None
    generation: Generation | None = None
    """The whole answer, in the last delta."""


@dataclass(frozen=True)
class Generation:
    """A finished answer. `tokens` are all that were generated, the ones of a stop string too."""

    text: str
    tokens: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    num_repeated: int
    """How many of `tokens` only spell the end of the prompt again (token healing)."""
    logprobs: tuple[TokenLogprob, ...]
    seconds_queued: float
    seconds_to_first_token: float
    seconds: float


@dataclass(frozen=True)
class EngineStats:
    """A snapshot for metrics: sequences waiting and running, and totals since the start."""

    waiting: int
    running: int
    prompt_tokens: int
    generated_tokens: int
    steps: int


OnDelta = Callable[[Delta], None]


class StreamOwner(Protocol):
    """What a stream needs from its engine."""

    @property
    def failure(self) -> str | None:
        """Why the engine stopped, if it failed."""
        ...

    def cancel(self, stream: Stream) -> None:
        """Stop a request."""
        ...


class Stream:
    """A request under way: iterate over its deltas, or take the whole `result()`, or `cancel()`."""

    def __init__(self, key: int, request: GenerationRequest, engine: StreamOwner, on_delta: OnDelta | None) -> None:
        self.key, self.request = key, request
        self._engine, self._on_delta = engine, on_delta
        self._deltas: queue.SimpleQueue[Delta] = queue.SimpleQueue()
        self._done = threading.Event()
        self._generation: Generation | None = None
        self.created = time.perf_counter()

    def __iter__(self) -> Iterator[Delta]:
        while True:
            delta = self._deltas.get()
            yield delta
            if delta.finish_reason is not None:
                return

    @property
    def done(self) -> bool:
        """Whether the answer is complete."""
        return self._done.is_set()

    def result(self, timeout: float | None = None) -> Generation:
        """Wait for the end. Raises `RunFailed` if the engine failed, `TimeoutError` after `timeout` seconds."""
        if not self._done.wait(timeout):
            raise TimeoutError(f"no result after {timeout} s")
        assert self._generation is not None
        if self._generation.finish_reason == "error":
            raise RunFailed(f"generation failed: {self._engine.failure}", hint="the engine has stopped; start it again")
        return self._generation

    def cancel(self) -> None:
        """Stop generating; the stream ends with finish_reason `cancelled`. Does nothing after the end."""
        self._engine.cancel(self)

    def emit(self, delta: Delta) -> None:
        """Pass on a delta (engine thread)."""
        if delta.generation is not None:
            self._generation = delta.generation
            self._done.set()
        if self._on_delta is None:
            self._deltas.put(delta)
            return
        try:
            self._on_delta(delta)
        except Exception:
            # One broken consumer must not stop the others' answers.
            logger.exception("the consumer of request %d failed; it is cancelled", self.key)
            self._on_delta = _discard
            self.cancel()


def _discard(delta: Delta) -> None:
    """Take the rest of an answer that nobody reads any more."""
