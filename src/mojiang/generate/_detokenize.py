"""From tokens to text while they arrive.

A token may end inside a UTF-8 character (a Chinese character is three bytes, often two tokens), and a decoder may put
a space in front of a word depending on the token before it. So a window of tokens is decoded in context, and only what
later tokens cannot change is given out. The pieces always join to `decode(all tokens)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

_INCOMPLETE = "\ufffd"


class TextDecoder(Protocol):
    """What is needed from a tokenizer here."""

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; bytes that are no UTF-8 become U+FFFD."""
        ...


class Detokenizer:
    """The text of one sequence, token by token."""

    def __init__(self, tokenizer: TextDecoder) -> None:
        self._tokenizer = tokenizer
        self._context: list[int] = []  # tokens whose text is out, kept because decoding needs the left neighbour
        self._context_text = ""
        self._window: list[int] = []  # tokens since then
        self._given = 0  # characters of the window's text that are out

    def push(self, token: int) -> str:
        """Text that is now final, possibly empty."""
        self._window.append(token)
        text = self._tokenizer.decode([*self._context, *self._window])[len(self._context_text) :]
        if text.endswith(_INCOMPLETE):
            # Only the last character can still change: all before it ended when it began.
            final = text[self._given : -1]
            self._given += len(final)
            return final
        final = text[self._given :]
        if text:
            self._context, self._window, self._given = self._window, [], 0
            self._context_text = self._tokenizer.decode(self._context)
        return final

    def flush(self) -> str:
        """The rest: an unfinished character comes out as U+FFFD, as `decode` of the whole would show it."""
        text = self._tokenizer.decode([*self._context, *self._window])[len(self._context_text) :]
        final = text[self._given :]
        self._context, self._window, self._given = self._window, [], 0
        self._context_text = self._tokenizer.decode(self._context)
        return final
