"""Texts of a few words, and a tokenizer of these: what is hidden in them follows from the rest."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import models, pre_tokenizers, processors

from mojiang.tokenizer._pack import Shards, write_shards
from mojiang.tokenizer._special import SpecialTokens
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._corruption import RATES, Noise

ROLES = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
WORDS = 24
CONTEXT = 24
Text = tuple[str, str, bool]


def tokenizer(sentinels: int = 10, framed: bool = True, mask: bool = True) -> Tokenizer:
    """Ids: the special tokens, the sentinels, then the words w0, w1, …"""
    roles = {role: token for role, token in ROLES.items() if mask or role != "mask"}
    special = [*roles.values(), *(f"<extra_id_{number}>" for number in range(sentinels))]
    words = [*special, *(f"w{number}" for number in range(WORDS))]
    made = HuggingFaceTokenizer(models.WordLevel({word: id for id, word in enumerate(words)}, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if framed:
        ends = [(token, special.index(token)) for token in ("[CLS]", "[SEP]")]
        pair = "[CLS] $A [SEP] $B:1 [SEP]:1"
        made.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", pair=pair, special_tokens=ends)
    made.add_special_tokens(special)
    return Tokenizer(made, None, SpecialTokens({**roles, "eos": "[SEP]"}))


def counting(count: int, seed: int = 0, longest: int = 16) -> Iterator[Text]:
    """Documents that count upwards from a random number."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        first, length = int(rng.integers(0, WORDS - longest)), int(rng.integers(8, longest))
        yield str(number), " ".join(f"w{first + step}" for step in range(length)), False


def halves(count: int, seed: int = 0) -> Iterator[Text]:
    """Documents of one word, then of its partner, and a last word that all have."""
    rng = np.random.default_rng(seed)
    for number in range(count):
        word, times = int(rng.integers(0, 11)), int(rng.integers(4, 8))
        yield str(number), " ".join([f"w{word}"] * times + [f"w{word + 11}"] * times + ["w23"]), False


def noise(objective: str, words: Tokenizer | None = None, context: int = CONTEXT, rate: float | None = None) -> Noise:
    return Noise(objective, words or tokenizer(), context, rate or RATES[objective])


def shards(noise: Noise, folder: Path, texts: Iterator[Text] | None = None) -> Shards:
    return write_shards(noise.sequences(texts or counting(40)), folder, noise.tokenizer.vocab_size)
