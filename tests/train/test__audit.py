from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mojiang.core.errors import BadInput
from mojiang.tokenizer._pack import Sequence, Shards, write_shards
from mojiang.train._audit import audit_conversations

START, END, NEWLINE = 1, 2, 10
HEADERS = {"user": [20, NEWLINE], "assistant": [21, NEWLINE]}


class Tokens:
    """`assistant` and `user` are one token each."""

    def token_id(self, token: str) -> int:
        return {"<|im_start|>": START, "<|im_end|>": END}[token]

    def encode(self, text: str) -> list[int]:
        return HEADERS[text.strip()]


def conversation() -> tuple[list[int], list[int]]:
    """user: 50 51 · assistant: 60 61 62 · user: 52 · assistant: 63; and what must be trained on."""
    ids: list[int] = []
    trained: list[int] = []
    for role, text in (("user", [50, 51]), ("assistant", [60, 61, 62]), ("user", [52]), ("assistant", [63])):
        own = int(role == "assistant")
        ids += [START, *HEADERS[role], *text, END, NEWLINE]
        trained += [0] * 3 + [own] * (len(text) + 1) + [0]
    return ids, trained


def shards(folder: Path, ids: list[int], trained: list[int]) -> Shards:
    return write_shards([Sequence(np.array(ids), 0, np.array(trained, bool))] * 3, folder, 100)


def test_right_labels_pass_and_are_counted(tmp_path: Path) -> None:
    ids, trained = conversation()
    audit = audit_conversations(shards(tmp_path, ids, trained), Tokens())
    assert (audit.conversations, audit.tokens, audit.trained, audit.stops) == (3, 3 * len(ids), 3 * 6, 3 * 2)


def test_every_single_wrong_label_is_caught(tmp_path: Path) -> None:
    ids, trained = conversation()
    for at in range(len(ids)):
        wrong = list(trained)
        wrong[at] = 1 - wrong[at]
        with pytest.raises(BadInput, match=f"token {at} of conversation 0"):
            audit_conversations(shards(tmp_path / str(at), ids, wrong), Tokens())


def test_an_untrained_stop_token_is_called_by_name(tmp_path: Path) -> None:
    ids, trained = conversation()
    trained[ids.index(62) + 1] = 0
    with pytest.raises(BadInput, match="the stop token"):
        audit_conversations(shards(tmp_path, ids, trained), Tokens())


def test_conversations_without_an_answer_are_refused(tmp_path: Path) -> None:
    ids = [START, *HEADERS["user"], 50, END, NEWLINE]
    with pytest.raises(BadInput, match="no assistant turn"):
        audit_conversations(shards(tmp_path, ids, [0] * len(ids)), Tokens())
