"""The inference engine: many requests, one model, one thread that owns all state.

    >>> with Engine(model, tokenizer) as engine:                                   # doctest: +SKIP
    ...     engine.generate(["def add("], max_tokens=16)[0].text

Other threads only submit and cancel; both take effect between two steps. A step enters one chunk of one prompt, then
decodes one token for every running sequence (continuous batching: Yu et al. 2022, Orca). A request gives the same
tokens alone and in any batch (fp32), see `_runner`.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Literal

import torch

from mojiang.core.engine import thread_count
from mojiang.core.errors import BadInput, Unavailable
from mojiang.generate import _scheduler
from mojiang.generate._answer import Answer
from mojiang.generate._detokenize import Detokenizer
from mojiang.generate._heal import Healing
from mojiang.generate._prompt import PromptTokenizer, end_tokens, healed_prompt, infill_prompt
from mojiang.generate._runner import Runner
from mojiang.generate._sampler import Sampling, TokenLogprob
from mojiang.generate._stop import StopMatcher
from mojiang.generate._stream import Delta, EngineStats, FinishReason, Generation, GenerationRequest, Stream
from mojiang.model.network import Network

__all__ = ["Delta", "Engine", "Generation", "GenerationRequest", "PromptTokenizer", "Sampling", "Stream"]
__all__ += ["TokenLogprob", "generate", "healed_prompt", "infill_prompt"]


class Engine:
    """Continuous batching over `slots` sequences of at most `context` tokens each.

    `context` defaults to the model's. At most `max_queue` requests wait; further ones are refused with `Unavailable`.
    `threads` is the number of CPU threads of a step (default: the cores this process may use, at most 16; small
    models gain nothing from more). The engine starts with the first request, or with `start`.
    """

    def __init__(
        self,
        model: Network,
        tokenizer: PromptTokenizer,
        *,
        slots: int = 8,
        context: int | None = None,
        max_queue: int = 64,
        prefill_chunk: int = 256,
        threads: int | None = None,
    ) -> None:
        limit = model.config.max_position_embeddings
        if context is not None and not 2 <= context <= limit:
            raise BadInput(f"context is {context}; this model has {limit} positions", hint=f"use 2 to {limit}")
        if slots < 1 or prefill_chunk < 1 or max_queue < 1:
            raise BadInput(f"slots={slots}, prefill_chunk={prefill_chunk}, max_queue={max_queue}: all must be positive")
        self.context, self.slots, self.max_queue = context or limit, slots, max_queue
        self.vocab_size = model.config.vocab_size
        self.tokenizer = tokenizer
        eos = model.config.eos_token_id
        self.end_tokens = end_tokens(tokenizer) | (frozenset() if eos is None else {eos})
        self.failure: str | None = None
        self._threads = threads or min(16, thread_count())
        self._runner = Runner(model, slots, self.context)
        self._scheduler = _scheduler.Scheduler(slots, prefill_chunk)
        self._active: dict[int, Answer] = {}
        self._keys = itertools.count()
        self._commands: deque[tuple[Literal["add", "cancel"], Stream]] = deque()
        self._wake = threading.Condition()
        self._num_waiting = 0
        self._closing = False
        self._abort = False
        self._num_aborted = 0
        self._thread: threading.Thread | None = None
        self._ready = threading.Event()
        self._totals = [0, 0, 0]  # prompt tokens, generated tokens, steps

    def start(self, wait: bool = True) -> Engine:
        """Start the thread; with `wait`, return when it takes requests."""
        with self._wake:
            if self._thread is None and not self._closing:
                self._thread = threading.Thread(target=self._main, name="mojiang-engine", daemon=True)
                self._thread.start()
        if wait:
            self._ready.wait()
        return self

    def submit(
        self, request: GenerationRequest, on_delta: Callable[[Delta], None] | None = None, wait: bool = False
    ) -> Stream:
        """Queue a request. Thread-safe.

        Without `on_delta` the deltas are read by iterating over the stream; with it they are passed to the function,
        on the engine thread: it must return at once and not raise. A full queue raises `Unavailable`, or with `wait`
        blocks until there is room. An unusable request raises `BadInput`.
        """
        self.check(request)
        self.start(wait=False)
        stream = Stream(next(self._keys), request, self, on_delta)
        with self._wake:
            while wait and self._num_waiting >= self.max_queue and not self._closing and self.failure is None:
                self._wake.wait()
            if self.failure is not None or self._closing:
                reason = f"failed: {self.failure}" if self.failure else "is shutting down"
                raise Unavailable(f"the engine {reason}", hint="start it again")
            if self._num_waiting >= self.max_queue:
                raise Unavailable(f"{self._num_waiting} requests are waiting already", hint="try again later")
            self._num_waiting += 1
            self._commands.append(("add", stream))
            self._wake.notify_all()
        return stream

    def cancel(self, stream: Stream) -> None:
        """Stop a request between two steps. Thread-safe; harmless when it has ended."""
        with self._wake:
            self._commands.append(("cancel", stream))
            self._wake.notify_all()

    def check(self, request: GenerationRequest) -> None:
        """Raise `BadInput` if the request can never run: empty, too long for the context, or with unknown token ids."""
        request.check(self.context, self.vocab_size)

    def generate(self, prompts: Sequence[str | Sequence[int]], **options: object) -> list[Generation]:
        """Continue many prompts, in their order; `options` are the fields of `GenerationRequest` but `prompt`.

        However many there are, only `max_queue` are in flight.
        """
        pairs = [healed_prompt(self.tokenizer, p) if isinstance(p, str) else (list(p), "") for p in prompts]
        requests = [GenerationRequest(tuple(p), begins=begins, **options) for p, begins in pairs]  # type: ignore[arg-type]
        for request in requests:
            self.check(request)
        return [stream.result() for stream in [self.submit(request, wait=True) for request in requests]]

    @property
    def stats(self) -> EngineStats:
        """Numbers for metrics. Thread-safe."""
        return EngineStats(self._num_waiting, len(self._scheduler.running), *self._totals)

    @property
    def healthy(self) -> bool:
        """Whether requests can be served."""
        return self.failure is None and not self._closing

    def close(self, drain: bool = True, timeout: float | None = None) -> bool:
        """Take no more requests; finish those under way (`drain`) or cancel them; stop the thread.

        Whatever is unfinished after `timeout` seconds is cancelled. True if nothing had to be.
        """
        with self._wake:
            self._closing = True
            self._wake.notify_all()
        if self._thread is None:
            return True
        if drain:
            self._thread.join(timeout)
        with self._wake:
            self._abort = True  # the thread ends after its current step and cancels what is left
            self._wake.notify_all()
        self._thread.join()
        return self._num_aborted == 0

    def __enter__(self) -> Engine:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.close(drain=kind is None)

    # What follows runs on the engine thread.

    def _main(self) -> None:
        try:
            torch.set_num_threads(self._threads)
            self._runner.calibrate()
            self._ready.set()
            with torch.inference_mode():
                while self._take_commands():
                    self._step()
        except Exception as error:
            # Whatever it was, no client may wait for ever: everybody is told, and `healthy` turns false.
            self.failure = f"{type(error).__name__}: {error}"
        finally:
            self._ready.set()
            self._end_all()

    def _take_commands(self) -> bool:
        """Apply what other threads asked; sleep while there is nothing to do. False when it is time to end."""
        with self._wake:
            while not self._abort and not self._commands and self._scheduler.idle:
                if self._closing:
                    return False
                self._wake.wait()
            if self._abort:
                return False
            commands, self._commands = self._commands, deque()
        for kind, stream in commands:
            if kind == "add":
                self._add(stream)
            elif stream.key in self._active:
                self._finish(self._active[stream.key], "cancelled")
        return True

    def _add(self, stream: Stream) -> None:
        request = stream.request
        room = self.context - len(request.prompt)
        sequence = _scheduler.Sequence(stream.key, request.prompt, min(request.max_tokens or room, room))
        end = self.end_tokens if request.stop_tokens is None else request.stop_tokens
        detokenizer, stops = Detokenizer(self.tokenizer), StopMatcher(request.stop)
        healing = Healing(self.tokenizer.token_bytes, request.begins) if request.begins else None
        self._active[stream.key] = Answer(stream, sequence, detokenizer, stops, end, room, healing)
        self._scheduler.add(sequence)

    def _step(self) -> None:
        self._totals[2] += 1
        admitted = [self._active[sequence.key] for sequence in self._scheduler.admit()]
        if admitted:
            now = time.perf_counter()
            for answer in admitted:
                answer.admitted = now
            self._leave_queue(len(admitted))
        # Those that were ready before this step: a sequence whose prompt is completed now decodes from the next on.
        decoding = self._scheduler.decoding()
        chunk = self._scheduler.next_chunk()
        if chunk is not None:
            self._prefill(*chunk)
        if decoding:
            logits_BV = self._runner.decode({_slot(s): (s.output[-1], s.position) for s in decoding})
            best_B = logits_BV.argmax(-1).tolist()
            for sequence in decoding:
                row = _slot(sequence)
                self._accept(self._active[sequence.key], logits_BV[row], best_B[row])

    def _prefill(self, sequence: _scheduler.Sequence, tokens: list[int]) -> None:
        logits_V = self._runner.prefill(_slot(sequence), tokens, sequence.cached)
        sequence.cached += len(tokens)
        self._totals[0] += len(tokens)
        if sequence.prefilled:
            answer = self._active[sequence.key]
            answer.first_token = time.perf_counter()
            self._accept(answer, logits_V, int(logits_V.argmax()))

    def _accept(self, answer: Answer, logits_V: torch.Tensor, best: int) -> None:
        reason = answer.accept(logits_V, best)
        self._totals[1] += 1
        if reason is not None:
            self._finish(answer, reason)

    def _finish(self, answer: Answer, reason: FinishReason) -> None:
        key, was_waiting = answer.sequence.key, answer.sequence.slot is None
        self._scheduler.remove(key)
        del self._active[key]
        if was_waiting:
            self._leave_queue(1)
        answer.finish(reason)

    def _leave_queue(self, count: int) -> None:
        with self._wake:
            self._num_waiting -= count
            self._wake.notify_all()

    def _end_all(self) -> None:
        """At the end of the thread nobody is left without an answer."""
        reason: FinishReason = "error" if self.failure else "cancelled"
        with self._wake:
            self._closing = True
            commands, self._commands = self._commands, deque()
            self._wake.notify_all()
        for kind, stream in commands:
            if kind == "add":
                self._add(stream)
        self._num_aborted = len(self._active)
        for answer in list(self._active.values()):
            self._finish(answer, reason)


def _slot(sequence: _scheduler.Sequence) -> int:
    assert sequence.slot is not None, "only a sequence with a slot is computed"
    return sequence.slot


def generate(
    model: Network, tokenizer: PromptTokenizer, prompts: Sequence[str | Sequence[int]], **options: object
) -> list[Generation]:
    """Continue many prompts with one engine and close it; `options` as for `Engine.generate`."""
    with Engine(model, tokenizer) as engine:
        return engine.generate(prompts, **options)
