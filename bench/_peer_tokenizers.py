"""The bare `tokenizers` library for `data_tokenizer.py`, as JSON on the last line.

    _peer_tokenizers.py train VOCABULARY FOLDER       as its documentation has it: an iterator of batches of texts;
                                                      then bytes per token on held-out text, which ours reports too
    _peer_tokenizers.py encode THREADS FOLDER         its own threads, without offsets, to one file of tokens

It reads the same Parquet files as our side, and begins with the same untrained tokenizer.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any


def cpu_seconds() -> float:
    """Of this process and the children it waited for."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def batches(folder: str) -> Iterator[list[str]]:
    import pyarrow.parquet as pq

    for path in sorted(Path(folder).glob("documents-*.parquet")):
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(1000, columns=["text"]):
                yield batch.column(0).to_pylist()


def train(vocabulary: int, folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    from tokenizers import Tokenizer, pre_tokenizers, trainers

    clocks = time.perf_counter(), cpu_seconds()
    tokenizer = Tokenizer.from_file(str(folder / "empty.json"))
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, min_frequency=2, special_tokens=about["special"], show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    tokenizer.train_from_iterator(batches(about["corpus"]), trainer)
    tokenizer.save(str(folder / "bare.json"))
    size = tokens = 0
    for texts in batches(about["held_out"]):
        size += sum(len(text.encode()) for text in texts)
        tokens += sum(len(encoding.ids) for encoding in tokenizer.encode_batch_fast(texts, add_special_tokens=False))
    return {
        "bytes_per_token": round(size / tokens, 4),
        "seconds": time.perf_counter() - clocks[0],
        "cpu": cpu_seconds() - clocks[1],
    }


def encode(folder: Path, about: dict[str, Any]) -> dict[str, Any]:
    import numpy as np
    from tokenizers import Tokenizer

    clocks = time.perf_counter(), cpu_seconds()
    tokenizer = Tokenizer.from_file(str(folder / "bare.json"))
    end = tokenizer.token_to_id("<|endoftext|>")
    dtype = np.uint16 if tokenizer.get_vocab_size() <= 2**16 else np.uint32
    with open(folder / "bare.bin", "wb") as file:
        for texts in batches(about["corpus"]):
            encodings = tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ids = [id for encoding in encodings for id in (end, *encoding.ids, end)]
            file.write(np.array(ids, dtype).tobytes())
    spent = {"seconds": time.perf_counter() - clocks[0], "cpu": cpu_seconds() - clocks[1]}
    return {**spent, "sha256": hashlib.sha256((folder / "bare.bin").read_bytes()).hexdigest()}


def main() -> None:
    what, number, folder = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3])
    about = json.loads((folder / "about.json").read_text())
    if what == "encode":
        os.environ |= {"RAYON_NUM_THREADS": str(number), "TOKENIZERS_PARALLELISM": "true"}
    made = train(number, folder, about) if what == "train" else encode(folder, about)
    print(json.dumps(made))


if __name__ == "__main__":
    main()
