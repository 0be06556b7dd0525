"""A language model as the `Scorer` that data work asks for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mojiang.core.protocols import Scorer
from mojiang.evaluate._loading import load_for_scoring
from mojiang.evaluate._scoring import document_nats


class ModelScorer:
    """Bits for each byte under a decoder of ours."""

    def __init__(self, path: Path, device: str) -> None:
        self._model, self._tokenizer, _ = load_for_scoring(path, device, "float32")

    def bits_per_byte(self, texts: Sequence[str]) -> list[float]:
        """Bits for each byte of each text, read alone from its start to its end; 0 for an empty one."""
        nats = document_nats(
            self._model, self._tokenizer.encode_batch(texts), start=self._tokenizer.borders[0],
            end=self._tokenizer.borders[1], context=self._model.config.max_position_embeddings,
        )  # fmt: skip
        return [n / math.log(2) / max(1, len(text.encode())) for n, text in zip(nats, texts, strict=True)]


def open_scorer(path: Path, device: str) -> Scorer:
    """The model in a folder as a scorer."""
    return ModelScorer(path, device)
