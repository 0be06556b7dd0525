"""Token healing: a prompt may end in the middle of what its tokenizer would have made one token.

A tokenizer that is good for code makes the end of `def f(x):`, the line end and the indentation behind it one token.
A prompt that stops after the line end is then cut into other tokens than any text the model was trained on, and what
follows is nonsense. So the last word of the prompt is taken back (`Tokenizer.heal`), and the first tokens of the answer
must spell it: the model chooses how, and may cross the border.

    V vocabulary
"""

from __future__ import annotations

from collections.abc import Sequence

import torch


class Healing:
    """Makes an answer begin with `text`, which is not shown again.

    `token_bytes` are the bytes of every token id; tokens without bytes (special ones) cannot spell anything.
    """

    def __init__(self, token_bytes: Sequence[bytes], text: str) -> None:
        self._token_bytes = token_bytes
        self._left = text.encode()
        self._hidden = len(text)

    @property
    def active(self) -> bool:
        """Whether some of the text is still to be spelled."""
        return bool(self._left)

    def restrict(self, logits_V: torch.Tensor) -> torch.Tensor:
        """The logits with every token at minus infinity that does not go on spelling the text."""
        left = self._left
        fits = [i for i, b in enumerate(self._token_bytes) if b and (b.startswith(left) or left.startswith(b))]
        if not fits:  # a vocabulary without all single bytes cannot spell everything
            self._left = b""
            return logits_V
        restricted = torch.full_like(logits_V, float("-inf"))
        restricted[fits] = logits_V[fits]
        return restricted

    def take(self, token: int) -> bool:
        """A token was chosen; returns whether it only repeats the text and adds nothing."""
        length = len(self._token_bytes[token])
        repeats = length <= len(self._left)
        self._left = self._left[length:]
        return repeats

    def show(self, text: str) -> str:
        """What of the answer's next text is new."""
        shown = text[self._hidden :]
        self._hidden = max(0, self._hidden - len(text))
        return shown
