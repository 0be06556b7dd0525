"""Make a tokenizer whose tokens are the characters of the train split, and measure it on text it has not seen."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.recipe import DatasetRef, Metrics, Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from mojiang.core.run import Run

UNK = "<unk>"


class Char(Recipe):
    """Take every character as a token: the alphabet of the train split, without those that are too rare.

    Nothing has to be learned, and nothing is hidden in a token: good for poems, spelling, names, and for teaching.
    White space and capitals are characters like others. What is not in the alphabet becomes <unk>.

    When not to use: for prose in an alphabetic script, which gets three to five times as long as with tokenizer.bpe.
    Source: Karpathy 2015 (character-level models); the file is Hugging Face's `WordLevel`.
    Example:
        >>> Char(data="split").coverage
        0.9999
    """

    recipe: ClassVar[str] = "tokenizer.char"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "tokenizer"

    data: DatasetRef
    """The split corpus; only its train part is looked at."""
    coverage: float = Field(0.9999, gt=0.5, le=1)
    """Share of the text's characters that the alphabet covers; rarer ones become <unk>."""
    max_sample_bytes: int = Field(200_000_000, ge=1000, le=20_000_000_000)
    """Text to look at; a larger corpus is sampled by document. Memory does not depend on it."""

    def run(self, run: Run) -> Metrics:
        """Count, save and measure; writes tokenizer.json, tokenizer_config.json and the report."""
        from mojiang.tokenizer._format import SPECIAL_TOKENS, save_tokenizer
        from mojiang.tokenizer._train import Corpus, alphabet, write_report
        from mojiang.tokenizer.load import load_tokenizer

        corpus = Corpus(run.input("data").path, self.max_sample_bytes)
        letters = alphabet(corpus, str, self.coverage, most=0x110000, spaces=True)
        corpus.check()
        run.check_stop()
        save_tokenizer(_tokenizer([*SPECIAL_TOKENS, UNK, *letters]), run.out, _settings())
        return write_report(run, self.recipe, load_tokenizer(run.out), corpus)


def _tokenizer(tokens: list[str]) -> Tokenizer:
    """Cut before every character, look each up, and join them again."""
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

    from mojiang.tokenizer._format import SPECIAL_TOKENS

    tokenizer = Tokenizer(models.WordLevel({token: id for id, token in enumerate(tokens)}, unk_token=UNK))
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"[\s\S]"), behavior="isolated")
    tokenizer.decoder = decoders.Fuse()
    tokenizer.add_special_tokens([*SPECIAL_TOKENS, UNK])
    return tokenizer


def _settings() -> dict[str, object]:
    from mojiang.tokenizer._format import CHAT_TEMPLATE, END_OF_TEXT, PAD, SPECIAL_TOKENS

    return {
        "eos_token": END_OF_TEXT, "pad_token": PAD, "unk_token": UNK, "clean_up_tokenization_spaces": False,
        "additional_special_tokens": list(SPECIAL_TOKENS[2:]), "chat_template": CHAT_TEMPLATE,
    }  # fmt: skip
