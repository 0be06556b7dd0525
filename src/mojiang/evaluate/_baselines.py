"""Baselines scored on exactly the documents the model is scored on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from mojiang.evaluate._compressors import COMPRESSORS, compressed_bits
from mojiang.evaluate._held_out import Document, select_documents
from mojiang.evaluate._ngram import KneserNey
from mojiang.tokenizer.load import Tokenizer


def compressor_bits(documents: Sequence[Document]) -> dict[str, list[float]]:
    """Bits of each document by each compressor."""
    return {name: [float(compressed_bits(name, d.data)) for d in documents] for name in COMPRESSORS}


def ngram_bits(
    dataset: Path, documents: Sequence[Sequence[int]], tokenizer: Tokenizer, order: int, max_train_bytes: int
) -> tuple[list[float], int]:
    """Bits of each document, given as token ids, by a Kneser-Ney model; and the bytes of the training split it read."""
    train = select_documents(dataset, "train", max_train_bytes)
    ids = tokenizer.encode_batch([document.text for document in train.documents])
    model = KneserNey(ids, order=order, vocab_size=tokenizer.vocab_size, boundary=tokenizer.eos_id)
    return [-float(model.log_probabilities(d).sum()) / math.log(2) for d in documents], train.bytes
