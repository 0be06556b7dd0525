"""Train a WordPiece tokenizer, as BERT's, on the train split, and measure it on text it has not seen."""

from __future__ import annotations

import unicodedata
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from mojiang.core.run import Run

SPECIAL_TOKENS: Final = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")  # ids 0 to 4
_PREFIX: Final = "##"


class WordPiece(Recipe):
    """Learn a WordPiece vocabulary, for BERT and other encoders that are pre-trained from scratch.

    Words are cut at white space and punctuation, every Chinese character is a word of its own, and "##" marks the
    pieces that go on with a word. Comes with [CLS], [SEP], [MASK], [PAD] and [UNK], and frames one text or two.

    When not to use: for models that write text; WordPiece forgets spaces and, by default, capitals.
    Source: Schuster & Nakajima 2012; Devlin et al. 2019 (BERT); pieces are joined by frequency, as in `tokenizers`.
    Example:
        >>> WordPiece(data="split", vocab_size=8192)
        WordPiece(data='split', ...)
    """

    recipe: ClassVar[str] = "tokenizer.wordpiece"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "tokenizer"

    data: DatasetRef
    """The split corpus; only its train part is learned from."""
    vocab_size: int | None = Field(None, ge=256, le=262_144)
    """Number of tokens, special ones included. By default from the size of the corpus (12 MB: 8192)."""
    lowercase: bool = True
    """Read capitals as small letters, and letters without their accents."""
    coverage: float = Field(0.9995, gt=0.5, le=1)
    """Share of the text's characters that the alphabet covers; rarer ones become [UNK]."""
    max_sample_bytes: int = Field(200_000_000, ge=1000, le=2_000_000_000)
    """Text to learn from; a larger corpus is sampled by document. Bounds memory to about 10 times this."""
    min_frequency: int = Field(2, ge=1)
    """A pair of pieces is joined if it was seen this often."""

    def run(self, run: Run) -> Metrics:
        """Train, save and measure; writes tokenizer.json, tokenizer_config.json and the report."""
        from mojiang.tokenizer._format import save_tokenizer
        from mojiang.tokenizer._train import Corpus, alphabet, auto_vocab_size, write_report
        from mojiang.tokenizer.load import load_tokenizer

        corpus = Corpus(run.input("data").path, self.max_sample_bytes)
        vocab_size = self.vocab_size or auto_vocab_size(corpus.sampled_size)
        run.log(f"learning {vocab_size:,} tokens from {corpus.sampled_size / 1e6:,.1f} MB")
        empty = _tokenizer(self.lowercase)
        # At most half the vocabulary, since most letters need two tokens: at the beginning of a word and inside one.
        letters = alphabet(corpus, empty.normalizer.normalize_str, self.coverage, (vocab_size - 5) // 2)
        corpus.check()
        run.check_stop()
        tokenizer = _tokenizer(self.lowercase, _learn(empty, corpus, letters, vocab_size, self.min_frequency))
        run.check_stop()
        save_tokenizer(tokenizer, run.out, _settings(self.lowercase))
        metrics = write_report(run, self.recipe, load_tokenizer(run.out), corpus)
        return {**metrics, "alphabet": len(letters)}


def _tokenizer(lowercase: bool, vocab: dict[str, int] | None = None) -> Tokenizer:
    """BERT's way to cut and frame text, around a vocabulary."""
    from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    vocab = vocab or {token: id for id, token in enumerate(SPECIAL_TOKENS)}
    tokenizer = Tokenizer(models.WordPiece(vocab, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix=_PREFIX)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[(token, vocab[token]) for token in ("[CLS]", "[SEP]")],
    )
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _learn(empty: Tokenizer, corpus: Any, letters: list[str], vocab_size: int, min_frequency: int) -> dict[str, int]:
    """The vocabulary: special tokens, letters, letters inside words, and the pieces joined from them.

    `tokenizers` numbers the letters inside words in the order of a hash table and breaks ties by number, so that two
    runs would differ: here they are given, sorted, before it begins.
    """
    from tokenizers import Tokenizer, models, trainers

    inside = [f"{_PREFIX}{letter}" for letter in letters if not _stands_alone(letter)]
    learner = Tokenizer(models.BPE(continuing_subword_prefix=_PREFIX))
    learner.normalizer, learner.pre_tokenizer = empty.normalizer, empty.pre_tokenizer
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size, min_frequency=min_frequency, show_progress=False,
        special_tokens=[*SPECIAL_TOKENS, *inside], initial_alphabet=letters, limit_alphabet=len(letters),
        continuing_subword_prefix=_PREFIX,
    )  # fmt: skip
    learner.train_from_iterator(iter(corpus), trainer)
    learned = learner.get_vocab()
    return {token: id for id, token in enumerate(sorted(learned, key=lambda token: learned[token]))}


def _stands_alone(letter: str) -> bool:
    """Whether BERT makes a word of the character, so that it is never inside one: punctuation and Chinese."""
    ascii_sign = letter.isascii() and not letter.isalnum()
    return ascii_sign or unicodedata.category(letter).startswith("P") or "CJK" in unicodedata.name(letter, "")


def _settings(lowercase: bool) -> dict[str, Any]:
    names = {"pad": "[PAD]", "unk": "[UNK]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]"}
    tokens = {f"{role}_token": text for role, text in names.items()}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return {**tokens, "do_lower_case": lowercase, "clean_up_tokenization_spaces": True, "model_input_names": inputs}
