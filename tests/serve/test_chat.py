"""The terminal: turns from a pipe, Ctrl-C, a conversation longer than the context."""

from __future__ import annotations

import io
import signal
import threading
import time
from typing import Any

import pytest

from mojiang.generate.engine import GenerationRequest, Sampling
from mojiang.serve.chat import Conversation, answer


def test_lines_of_a_pipe_are_turns(tiny: Any) -> None:
    model, out = tiny.served(), io.StringIO()
    talk = Conversation(model, Sampling(), max_tokens=12, system="be brief")
    assert talk.loop(io.StringIO("def add\n\n学而\n/exit\nnever\n"), out) == 0
    assert [turn["role"] for turn in talk.turns] == ["user", "assistant"] * 2
    assert out.getvalue() == "".join(turn["content"] + "\n" for turn in talk.turns if turn["role"] == "assistant")
    prompt = model.tokenizer.render_chat([{"role": "system", "content": "be brief"}, talk.turns[0]], True)
    again = tiny.served()
    with again.engine:
        assert again.engine.generate([prompt], max_tokens=12)[0].text == talk.turns[1]["content"]


def test_new_starts_over(tiny: Any) -> None:
    talk = Conversation(tiny.served(), Sampling(), max_tokens=4)
    talk.loop(io.StringIO("one\n/new\ntwo\n"), io.StringIO())
    assert [turn["content"] for turn in talk.turns if turn["role"] == "user"] == ["two"]


def test_oldest_turns_are_forgotten_aloud(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Conversation(tiny.served(context=96), Sampling(), max_tokens=16)
    assert talk.loop(io.StringIO("学而时习之\n" * 6), io.StringIO()) == 0
    assert len(talk.turns) < 12
    assert talk.turns[-1]["role"] == "assistant"
    assert "oldest turn is forgotten" in capsys.readouterr().err


def test_a_turn_that_cannot_fit_is_explained(tiny: Any, capsys: pytest.CaptureFixture[str]) -> None:
    talk = Conversation(tiny.served(context=96), Sampling(), max_tokens=8)
    assert talk.loop(io.StringIO("字" * 200 + "\nshort\n"), io.StringIO()) == 0
    assert [turn["content"] for turn in talk.turns if turn["role"] == "user"] == ["short"]
    assert "the context is 96" in capsys.readouterr().err


def test_ctrl_c_stops_the_answer_and_keeps_what_there_is(tiny: Any) -> None:
    model, out = tiny.served(), io.StringIO()
    with model.engine:
        tiny.slow_down(model.engine, 0.02)
        threading.Thread(target=lambda: (time.sleep(0.3), signal.raise_signal(signal.SIGINT))).start()
        generation = answer(model, GenerationRequest((9,), 200), out)
    assert generation.finish_reason == "cancelled"
    assert 0 < len(generation.tokens) < 100
    assert out.getvalue() == generation.text + "\n"
