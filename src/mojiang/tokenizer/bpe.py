"""Train a byte-level BPE tokenizer on the train split, and measure it on text it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe

if TYPE_CHECKING:
    from mojiang.core.run import Run


class BPE(Recipe):
    """Learn a byte-level BPE vocabulary from the train split.

    Any text round-trips exactly, since bytes are the alphabet. Words are cut by a pattern that bounds runs of Chinese
    (which has no spaces), keeps indentation in one token, and sets digits in groups of three. Comes with the ChatML
    template and the tokens for fill-in-the-middle.

    When not to use: to continue training an existing model, which needs its own tokenizer.
    Source: Sennrich et al. 2016; Radford et al. 2019 (bytes); the `tokenizers` library does the counting.
    Example:
        >>> BPE(data="split", vocab_size=8192)
        BPE(data='split', ...)
    """

    recipe: ClassVar[str] = "tokenizer.bpe"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "tokenizer"

    data: DatasetRef
    """The split corpus; only its train part is learned from."""
    vocab_size: int | None = Field(None, ge=512, le=262_144)
    """Number of tokens, special ones included. By default from the size of the corpus (12 MB: 8192)."""
    max_sample_bytes: int = Field(200_000_000, ge=1000, le=2_000_000_000)
    """Text to learn from; a larger corpus is sampled by document. Bounds memory to about 10 times this."""
    min_frequency: int = Field(2, ge=1)
    """A merge must have been seen this often."""

    def run(self, run: Run) -> Metrics:
        """Train, save and measure; writes tokenizer.json, tokenizer_config.json and the report."""
        from tokenizers import pre_tokenizers, trainers

        from mojiang.tokenizer._format import SPECIAL_TOKENS, empty_tokenizer, save_tokenizer
        from mojiang.tokenizer._train import Corpus, auto_vocab_size, write_report
        from mojiang.tokenizer.load import Tokenizer

        corpus = Corpus(run.input("data").path, self.max_sample_bytes)
        vocab_size = self.vocab_size or auto_vocab_size(corpus.sampled_size)
        trainer = trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=self.min_frequency,
            special_tokens=list(SPECIAL_TOKENS),
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        )
        raw = empty_tokenizer()
        run.log(f"learning {vocab_size:,} tokens from {corpus.sampled_size / 1e6:,.1f} MB")
        raw.train_from_iterator(corpus.batches(), trainer)
        corpus.check()
        run.check_stop()
        save_tokenizer(raw, run.out)
        return write_report(run, self.recipe, Tokenizer(raw), corpus)
