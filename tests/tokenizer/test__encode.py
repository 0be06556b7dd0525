from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from mojiang.tokenizer._encode import conversation_sequences, document_sequences, draw, infill_windows, split_for_infill


class Letters:
    """A tokenizer whose tokens are code points, specials below 10."""

    eos_id = 0
    start_ids: list[int] = []

    def encode_batch(self, texts: list[str]) -> list[list[int]]:
        return [[ord(c) for c in text] for text in texts]

    def encode_arrays(self, texts: list[str]) -> list[NDArray[np.uint32]]:
        return [np.array(ids, np.uint32) for ids in self.encode_batch(texts)]

    def token_id(self, token: str) -> int:
        return {"<|fim_prefix|>": 4, "<|fim_middle|>": 5, "<|fim_suffix|>": 6}[token]

    def chat_sequences(
        self, messages: list[dict[str, str]], tools: list[dict[str, str]] | None = None
    ) -> list[tuple[list[int], list[bool]]]:
        shown = [{"role": "tools", "content": tool["name"]} for tool in tools or []] + messages
        ids = [ord(c) for m in shown for c in m["content"]]
        return [(ids, [m["role"] == "assistant" for m in shown for _ in m["content"]])]


TEXT = "def f(x):\n    return x\n" * 40


def test_a_document_stands_between_two_end_tokens_and_counts_its_bytes() -> None:
    (sequence,) = document_sequences([("a", "模ab", False)], Letters())
    assert sequence.tokens.tolist() == [0, ord("模"), ord("a"), ord("b"), 0]
    assert sequence.num_bytes == 5
    assert sequence.trained is None


def test_rearranged_code_holds_the_same_text_and_fits_a_window() -> None:
    made = list(document_sequences([("a", TEXT, True)], Letters(), fim_rate=1.0, fim_characters=100))
    texts = []
    for sequence in made:
        tokens = sequence.tokens.tolist()
        suffix, middle = tokens.index(6), tokens.index(5)
        assert tokens[0] == 4
        assert tokens[-1] == 0
        assert sequence.num_bytes == 0
        assert len(tokens) <= 100 + 4
        texts.append("".join(map(chr, tokens[1:suffix] + tokens[middle + 1 : -1] + tokens[suffix + 1 : middle])))
    assert "".join(texts) == TEXT


def test_rearranging_touches_about_its_share_of_code_and_no_prose() -> None:
    documents = [(str(n), "x = 1\n", True) for n in range(2000)]
    share = np.mean([s.tokens[0] == 4 for s in document_sequences(documents, Letters(), fim_rate=0.3)])
    assert abs(share - 0.3) < 0.04
    prose = [(key, text, False) for key, text, _ in documents]
    assert all(s.tokens[0] == 0 for s in document_sequences(prose, Letters(), fim_rate=1.0))


def test_draws_depend_on_seed_and_key_only_and_are_uniform() -> None:
    values = [draw(3, n) for n in range(4000)]
    assert values == [draw(3, n) for n in range(4000)]
    assert np.abs(np.histogram(values, 10, (0, 1))[0] - 400).max() < 100
    assert split_for_infill("abcdef", 0, "k") == split_for_infill("abcdef", 0, "k")
    assert "".join(infill_windows(TEXT, 90)) == TEXT


def test_only_the_assistants_tokens_of_a_conversation_are_trained_on() -> None:
    messages = [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "yo!"}]
    (sequence,) = conversation_sequences([messages], Letters())
    assert sequence.trained is not None
    assert sequence.trained.tolist() == [False, False, True, True, True]
