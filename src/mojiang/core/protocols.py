"""What a lower package needs of a higher one, said as a shape: data work asks for a `Scorer` or a `Generator`.

The module that makes one is named here by a string and imported when it is asked for, as capabilities are by the
catalog; so `data` knows what it needs and not who gives it.
"""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol, cast

_OPEN_SCORER: Final = "mojiang.evaluate._scorer:open_scorer"
_OPEN_GENERATOR: Final = "mojiang.generate._generator:open_generator"


class Scorer(Protocol):
    """A language model that says how well it would have foretold a text."""

    def bits_per_byte(self, texts: Sequence[str]) -> list[float]:
        """Bits for each byte of each text, read alone from its start to its end."""
        ...


class Generator(Protocol):
    """A model that writes: an instructed model of ours, a translator, or an endpoint."""

    def generate(self, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int) -> list[str]:
        """One answer for each prompt, in their order; the same seed gives the same answers."""
        ...


def _open(target: str, *given: Any) -> Any:
    module, _, name = target.partition(":")
    return getattr(importlib.import_module(module), name)(*given)


def open_scorer(model: Path, device: str) -> Scorer:
    """The language model in a folder, ready to score texts."""
    return cast(Scorer, _open(_OPEN_SCORER, model, device))


def open_generator(model: Path, device: str) -> Generator:
    """The model in a folder, ready to write: causal models answer prompts, encoder-decoders transform them."""
    return cast(Generator, _open(_OPEN_GENERATOR, model, device))
