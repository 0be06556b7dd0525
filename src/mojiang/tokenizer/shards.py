"""Write a corpus as token shards: tokenised once, with checksums, to be copied to where it is trained from."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe, TokenizerRef
from mojiang.core.report import Report, Table

if TYPE_CHECKING:
    import pyarrow as pa

    from mojiang.core.run import Run
    from mojiang.tokenizer._pack import Sequence
    from mojiang.tokenizer.load import Tokenizer


class TokenShards(Recipe):
    """Tokenise a corpus into shards that are memory-mapped, or read in parts from any URL, and checked by block.

    One folder for each split: `tokens-*.bin` (one number per token, in two bytes where the vocabulary allows),
    `sequences.npy` (length and bytes of text of each document) and `index.json` (files, and a checksum of every
    1 MiB). The same corpus and tokenizer give the same bytes, whatever the number of workers; a stopped run goes on.
    `mojiang.tokenizer._stream.Stream` reads them in an exact, shuffled order from a folder or a URL.

    When not to use: before `train pretrain`, which tokenises by itself and keeps its shards while it runs.
    Source: the layout of Megatron-LM's indexed data sets, with checksums.
    Example:
        >>> TokenShards(data="split", tokenizer="bpe")
        TokenShards(data='split', ...)
    """

    recipe: ClassVar[str] = "tokenizer.shards"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "dataset"

    data: DatasetRef
    """The corpus; one that has been split keeps its splits, any other becomes train."""
    tokenizer: TokenizerRef
    """What cuts the text into tokens."""
    shard_tokens: int = Field(128 * 2**20, ge=1000, le=2**31)
    """Tokens of one file."""

    def run(self, run: Run) -> Metrics:
        """Write train/, validation/ and test/ and the report."""
        from mojiang.data._documents import SPLITS, shard_exists
        from mojiang.tokenizer.load import load_tokenizer

        data = run.input("data").path
        splits = [None] if shard_exists(data) else [name for name in SPLITS if shard_exists(data / name)]
        vocab_size = load_tokenizer(run.input("tokenizer").path).vocab_size
        rows: list[list[str | int | float | None]] = []
        metrics: dict[str, float | int | str] = {}
        for split in splits:
            name = split or "train"
            made = self._write(run, split, name, vocab_size)
            tokens, size = int(made.lengths.sum()), made.num_bytes
            rows.append([name, len(made), tokens, size, round(size / max(1, tokens), 3), len(made.shards)])
            metrics |= {f"{name}_documents": len(made), f"{name}_tokens": tokens, f"{name}_bytes": size}
        columns = ["split", "documents", "tokens", "bytes of text", "bytes per token", "files"]
        verdict = ", ".join(f"{row[0]} {row[2]:,} tokens of {row[1]:,} documents" for row in rows)
        scalars = {name: float(value) for name, value in metrics.items()}
        table = Table(title="shards", columns=columns, rows=rows)
        Report(title=self.recipe, scalars=scalars, tables=[table], verdict=verdict).save(run.out)
        return metrics

    def _write(self, run: Run, split: str | None, name: str, vocab_size: int) -> Any:
        """One split: tokens to the scratch folder batch by batch, from where they are laid out in shards."""
        from mojiang.data._documents import count_documents, row_groups
        from mojiang.data._mapping import of_group
        from mojiang.data._spill import Spill, spill_pass
        from mojiang.tokenizer._pack import write_shards

        data = run.input("data").path
        spill = Spill(run.scratch / f"encoded-{name}", [np.uint32, np.dtype((np.int64, (2,)))])

        def write(encoded: tuple[Any, Any]) -> None:
            spill.append(0, encoded[0])
            spill.append(1, encoded[1])

        groups = row_groups(data, split, columns=["id", "text", "format"])
        function = partial(of_group, partial(encode_batch, run.input("tokenizer").path))
        spill_pass(run, spill, function, groups, write, lambda group: group.rows, count_documents(data, split))
        return write_shards(_laid_out(spill), run.out / name, vocab_size, self.shard_tokens)


def encode_batch(tokenizer: Path, batch: pa.RecordBatch) -> tuple[Any, Any]:
    """Tokens of a batch's documents one after the other, and how many each has and how many bytes it stands for."""
    from mojiang.tokenizer._encode import document_sequences, read_texts

    sequences = list(document_sequences(read_texts([batch]), _loaded(tokenizer)))
    sizes = np.array([(len(s.tokens), s.num_bytes) for s in sequences], np.int64).reshape(-1, 2)
    return np.concatenate([np.zeros(0, np.uint32), *(s.tokens.astype(np.uint32) for s in sequences)]), sizes


@lru_cache(maxsize=1)
def _loaded(path: Path) -> Tokenizer:
    """The tokenizer, loaded once in each worker."""
    from mojiang.tokenizer.load import load_tokenizer

    return load_tokenizer(path)


def _laid_out(spill: Any) -> Iterator[Sequence]:
    """The documents that were written, in order."""
    from mojiang.tokenizer._pack import Sequence

    sizes = spill.read(1)
    if len(sizes) == 0:
        return
    tokens = np.memmap(spill.path(0), np.uint32, "r")
    ends = np.cumsum(sizes[:, 0])
    for stop, (length, num_bytes) in zip(ends.tolist(), sizes.tolist(), strict=True):
        yield Sequence(tokens[stop - length : stop], num_bytes)
