"""Token healing: the answer spells the end of the prompt, and the whole reads as one text."""

from __future__ import annotations

import torch
from hypothesis import given
from hypothesis import strategies as st

from mojiang.generate._heal import Healing

VOCABULARY = [b"", b"a", b"b", b"ab", b"abc", b"bc", b"c", b"\xe4\xbd", b"\xa0", "你好".encode()]


def allowed(healing: Healing) -> set[int]:
    return set(torch.isfinite(healing.restrict(torch.zeros(len(VOCABULARY)))).nonzero().flatten().tolist())


def test_only_tokens_that_spell_the_text_are_left() -> None:
    healing = Healing(VOCABULARY, "ab")
    assert allowed(healing) == {1, 3, 4}  # a (then b), ab, abc (which crosses the border)
    assert healing.take(1)
    assert allowed(healing) == {2, 5}
    assert not healing.take(5)  # it adds a c
    assert not healing.active
    assert healing.show("abc") == "c"
    assert healing.show("next") == "next"


def test_a_character_may_be_spelled_in_bytes() -> None:
    healing = Healing(VOCABULARY, "你")
    assert allowed(healing) == {7, 9}
    healing.take(7)
    assert allowed(healing) == {8}
    healing.take(8)
    assert not healing.active


@given(st.text(alphabet="abc", min_size=1, max_size=6), st.data())
def test_whatever_is_chosen_the_answer_begins_with_the_text(text: str, data: st.DataObject) -> None:
    healing, chosen = Healing(VOCABULARY, text), b""
    while healing.active:
        token = data.draw(st.sampled_from(sorted(allowed(healing))))
        healing.take(token)
        chosen += VOCABULARY[token]
    assert chosen.decode().startswith(text)
    assert healing.show(chosen.decode()) == chosen.decode()[len(text) :]
