"""A tiny random model with a real byte-level BPE, and a server process around it.

Run as a script it serves until SIGTERM and prints its URL: `python tests/tiny_serving.py '{"slots": 2}'`.
"""

from __future__ import annotations

import json
import sys
from typing import Any

import torch
from tokenizers import Tokenizer as Backend
from tokenizers import decoders, models, pre_tokenizers, trainers

from mojiang.generate.engine import Engine
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.serve._models import ServedModel
from mojiang.serve.server import Server
from mojiang.tokenizer.load import Tokenizer

SPECIAL = [f"<|{name}|>" for name in ("endoftext", "pad", "im_start", "im_end")]
SPECIAL += [f"<|fim_{name}|>" for name in ("prefix", "middle", "suffix")]
TEXT = [
    "def add(a, b):\n    return a + b\n",
    "The quick brown fox jumps over the lazy dog.",
    "学而时习之，不亦说乎？",
    "🙂 🚀",
]


class TinyTokenizer(Tokenizer):
    """A real tokenizer on a vocabulary of a few hundred tokens."""

    def __init__(self) -> None:
        backend = Backend(models.BPE())
        backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        backend.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=320, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
        )
        backend.train_from_iterator(TEXT * 3, trainer)
        super().__init__(backend)


def tiny_model(vocab_size: int, seed: int = 0, context: int = 256, eos: bool = False) -> Decoder:
    """Random weights, scaled so that logits differ clearly; without `eos` the end tokens are never likeliest."""
    config = DecoderConfig(vocab_size, 64, 2, 4, 2, 96, 16, context, tie_word_embeddings=False)
    model = Decoder(config)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) * 2 * parameter.shape[1] ** -0.5)
        if not eos:
            model.lm_head.weight[: len(SPECIAL)] = 0
    return model


def served(name: str = "tiny", seed: int = 0, context: int = 256, **options: Any) -> ServedModel:
    tokenizer = TinyTokenizer()
    engine = Engine(tiny_model(tokenizer.vocab_size, seed, context), tokenizer, threads=1, **options)
    return ServedModel(name, f"{name}@3", "0123456789abcdef" * 4, "run-7", 1_700_000_000, engine, tokenizer)


def slow_down(engine: Engine, seconds: float) -> None:
    """Make every decode step take at least this long, so that a test can act in between."""
    import time

    decode = engine._runner.decode

    def slow(step: dict[int, tuple[int, int]]) -> torch.Tensor:
        time.sleep(seconds)
        return decode(step)

    engine._runner.decode = slow  # type: ignore[method-assign]


def main() -> None:
    options = json.loads(sys.argv[1]) if len(sys.argv) > 1 else {}
    delay, drain = options.pop("delay", 0.0), options.pop("drain", 30.0)
    model = served(**options)
    slow_down(model.engine, delay)
    Server([model], port=0, drain_seconds=drain).run(on_ready=lambda server: print(server.url, flush=True))


if __name__ == "__main__":
    main()
