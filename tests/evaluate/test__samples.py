"""Openings, and that a long prompt is cut on the left to fit."""

from typing import Any

import torch

from mojiang.evaluate._samples import continue_openings, opening
from mojiang.generate.engine import Sampling
from mojiang.model.load import load_model
from mojiang.tokenizer.load import load_tokenizer


def test_an_opening_ends_after_a_line_and_leaves_something_to_write() -> None:
    text = "first line\nsecond line\nthird line\nfourth\n"
    assert opening(text, 25) == "first line\n"
    assert opening("没有换行的长句子" * 10, 8) == "没有换行的长句子"
    assert len(opening("ab")) == 1


def test_long_openings_are_cut_on_the_left(world: Any) -> None:
    model, tokenizer = load_model(world.model.path), load_tokenizer(world.model.path)
    long, seen = "import os\n" * 200, []
    short = tokenizer.decode(tokenizer.encode(long)[-(128 - 8 - 1) :])
    first, second = continue_openings(model, tokenizer, [long, short], 8, Sampling(), seen.append)
    assert first.tokens == second.tokens
    assert first.num_prompt_tokens == 128 - 8 - len(tokenizer.encode(tokenizer.heal(long)[1]))
    assert seen == [1, 2]
    assert continue_openings(model, tokenizer, [], 8, Sampling()) == []


def test_generation_agrees_with_a_plain_loop(world: Any) -> None:
    model, tokenizer = load_model(world.model.path), load_tokenizer(world.model.path)
    written = continue_openings(model, tokenizer, ["def "], 6, Sampling())[0].tokens
    ids = [tokenizer.eos_id, *tokenizer.encode("def ")]
    for token in written:
        with torch.no_grad():
            assert int(model.logits(model(torch.tensor([ids]))[0, -1]).argmax()) == token
        ids.append(token)
