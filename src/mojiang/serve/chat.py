"""A model in the terminal: `mojiang chat REF` and `mojiang complete REF`, streaming.

Ctrl-C stops the answer; Ctrl-C at the prompt, Ctrl-D or /exit leaves. When stdin is not a terminal its lines are the
turns, and only answers go to stdout, so that both work in a pipe.
"""

from __future__ import annotations

import contextlib
import secrets
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TextIO

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.generate.engine import Generation, GenerationRequest, Sampling, healed_prompt, infill_prompt
from mojiang.serve._models import ServedModel, load_served


def chat(
    source: Artifact | Path,
    *,
    system: str | None = None,
    temperature: float = 0.7,
    top_p: float = 0.95,
    max_tokens: int | None = None,
    seed: int | None = None,
    device: str = "cpu",
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> int:
    """Talk to a model until the input ends; returns the exit code."""
    model = load_served(source, slots=1, device=device)
    talk = Conversation(model, Sampling(temperature, 0, top_p, _seed(seed)), max_tokens, system)
    return talk.loop(stdin or sys.stdin, stdout or sys.stdout)


class Conversation:
    """The turns so far, and the loop that adds to them."""

    def __init__(
        self, model: ServedModel, sampling: Sampling, max_tokens: int | None = None, system: str | None = None
    ) -> None:
        self.model, self.sampling, self.max_tokens = model, sampling, max_tokens
        self._head = [{"role": "system", "content": system}] if system else []
        self.turns: list[dict[str, str]] = []

    def loop(self, stdin: TextIO, stdout: TextIO) -> int:
        """Read turns from `stdin`, write answers to `stdout`."""
        interactive = stdin.isatty()
        if interactive:
            _note(f"{self.model.ref} · /new starts over, /exit or Ctrl-D leaves, Ctrl-C stops an answer")
        with self.model.engine:
            while (line := _read(stdin, interactive)) is not None and line != "/exit":
                if line == "/new":
                    self.turns.clear()
                elif line:
                    self._turn(line, stdout)
        return 0

    def _turn(self, line: str, stdout: TextIO) -> None:
        self.turns.append({"role": "user", "content": line})
        try:
            generation = answer(self.model, self._request(), stdout)
        except BadInput as error:
            self.turns.pop()
            _note(f"{error.message}; {error.hint}")
            return
        self.turns.append({"role": "assistant", "content": generation.text})

    def _request(self) -> GenerationRequest:
        """The longest end of the conversation that leaves room for an answer; what falls away is said."""
        room = min(self.max_tokens or 256, self.model.engine.context // 4)
        while True:
            messages = [*self._head, *self.turns]
            prompt = tuple(self.model.tokenizer.render_chat(messages, add_generation_prompt=True))
            if len(prompt) + room <= self.model.engine.context or len(self.turns) <= 1:
                return GenerationRequest(prompt, self.max_tokens, self.sampling)
            _note(f"(the context of {self.model.engine.context} tokens is full: the oldest turn is forgotten)")
            del self.turns[:2]


def complete(
    source: Artifact | Path,
    *,
    prompt: str | None = None,
    suffix: str | None = None,
    temperature: float = 0.0,
    top_p: float = 1.0,
    max_tokens: int = 128,
    stop: Sequence[str] = (),
    seed: int | None = None,
    device: str = "cpu",
    stdin: TextIO | None = None,
    stdout: TextIO | None = None,
) -> int:
    """Continue `prompt`, or each line of stdin; with `suffix`, fill the hole between both. Returns the exit code."""
    model = load_served(source, slots=1, device=device)
    stdin, stdout = stdin or sys.stdin, stdout or sys.stdout
    sampling = Sampling(temperature, 0, top_p, _seed(seed))
    with model.engine:
        text = prompt
        while text is not None or (prompt is None and (text := _read(stdin, stdin.isatty())) is not None):
            if suffix:
                tokens, begins = infill_prompt(model.tokenizer, text, suffix), ""
            else:
                tokens, begins = healed_prompt(model.tokenizer, text)
            if tokens:
                request = GenerationRequest(tuple(tokens), max_tokens, sampling, tuple(stop), begins=begins)
                answer(model, request, stdout)
            text = None
    return 0


def answer(model: ServedModel, request: GenerationRequest, stdout: TextIO) -> Generation:
    """Stream one answer to `stdout`; Ctrl-C ends it early and keeps what there is, a second one leaves."""
    stream = model.engine.submit(request)
    with _on_interrupt(stream.cancel):
        for delta in stream:
            stdout.write(delta.text)
            stdout.flush()
    stdout.write("\n")
    stdout.flush()
    return stream.result()


@contextlib.contextmanager
def _on_interrupt(action: Callable[[], None]) -> Iterator[None]:
    """Let the first Ctrl-C call `action`. An exception instead could strike between reading and showing a delta."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def first(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        action()

    before = signal.signal(signal.SIGINT, first)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _read(stdin: TextIO, interactive: bool) -> str | None:
    """The next line, None at the end or at Ctrl-C."""
    if interactive:
        print("› ", end="", file=sys.stderr, flush=True)
    try:
        line = stdin.readline()
    except KeyboardInterrupt:
        return None
    return line.rstrip("\r\n") if line else None


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _seed(seed: int | None) -> int:
    return secrets.randbits(63) if seed is None else seed
