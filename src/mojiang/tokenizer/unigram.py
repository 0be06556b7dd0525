"""Train a Unigram tokenizer, as T5's, on the train split, and measure it on text it has not seen."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput, Unavailable
from mojiang.core.recipe import DatasetRef, Metrics, Recipe

if TYPE_CHECKING:
    from tokenizers import Tokenizer

    from mojiang.core.run import Run

PAD, EOS, UNK, BOS, MASK = "<pad>", "</s>", "<unk>", "<s>", "<mask>"
_THREADS: Final = 8  # a constant: sums of parts come out differently for another number
_LINE: Final = 1000  # characters; SentencePiece leaves out lines of more than 4192 bytes
_SENTENCE: Final = re.compile(r"(?<=[。！？；\n.!?;])\s*")


class Unigram(Recipe):
    """Learn a Unigram vocabulary, for T5, BART and other encoder-decoders that are pre-trained from scratch.

    Pieces are chosen so that the text is most probable under a model that draws each by itself. "▁" is the space
    before a word; a piece never crosses one, nor the border between two scripts. Comes with </s>, <pad>, <unk>, <s>,
    <mask> and the sentinels <extra_id_0>, … of span corruption.

    When not to use: for code, since runs of white space become one space; tokenizer.bpe keeps them.
    Source: Kudo 2018; Raffel et al. 2020 (T5); the `sentencepiece` library does the counting.
    Example:
        >>> Unigram(data="split", vocab_size=8192).sentinels
        100
    """

    recipe: ClassVar[str] = "tokenizer.unigram"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "tokenizer"

    data: DatasetRef
    """The split corpus; only its train part is learned from."""
    vocab_size: int | None = Field(None, ge=256, le=262_144)
    """Number of tokens, special ones included. By default from the size of the corpus (12 MB: 8192)."""
    sentinels: int = Field(100, ge=0, le=1000)
    """How many tokens <extra_id_N> there are for the holes of span corruption."""
    nfkc: bool = True
    """Write characters that mean the same alike, such as full-width letters and punctuation."""
    coverage: float = Field(0.9995, gt=0.5, le=1)
    """Share of the text's characters that the alphabet covers; rarer ones become <unk>."""
    max_sample_bytes: int = Field(50_000_000, ge=1000, le=2_000_000_000)
    """Text to learn from; a larger corpus is sampled by document. Bounds memory to about 40 times this."""

    def run(self, run: Run) -> Metrics:
        """Train, save and measure; writes tokenizer.json, tokenizer_config.json and the report."""
        from mojiang.tokenizer._format import save_tokenizer
        from mojiang.tokenizer._train import Corpus, alphabet, auto_vocab_size, write_report
        from mojiang.tokenizer.load import load_tokenizer

        corpus = Corpus(run.input("data").path, self.max_sample_bytes)
        vocab_size = self.vocab_size or auto_vocab_size(corpus.sampled_size)
        extra = [BOS, MASK, *(f"<extra_id_{number}>" for number in range(self.sentinels))]
        room = vocab_size - len(extra)
        if room < 64:
            raise BadInput(
                f"{vocab_size} tokens have no room beside {len(extra)} special ones", hint="raise vocab_size"
            )
        normaliser = _tokenizer([], extra, self.nfkc).normalizer
        letters = alphabet(corpus, normaliser.normalize_str, self.coverage, room // 2)
        corpus.check()
        run.log(f"learning {vocab_size:,} tokens from {corpus.sampled_size / 1e6:,.1f} MB")
        pieces = _learn(_lines(map(normaliser.normalize_str, corpus), letters), room)
        run.check_stop()
        save_tokenizer(_tokenizer(pieces, extra, self.nfkc), run.out, _settings(extra))
        metrics = write_report(run, self.recipe, load_tokenizer(run.out), corpus)
        return {**metrics, "alphabet": len(letters)}


def _tokenizer(pieces: list[tuple[str, float]], extra: list[str], nfkc: bool) -> Tokenizer:
    """SentencePiece's way to cut text, around pieces and their log-probabilities."""
    from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

    pieces = [*(pieces or [(PAD, 0.0), (EOS, 0.0), (UNK, 0.0)]), *((token, 0.0) for token in extra)]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    spaces = [normalizers.Replace(Regex(r"\s+"), " "), normalizers.Strip()]
    tokenizer.normalizer = normalizers.Sequence([*([normalizers.NFKC()] if nfkc else []), *spaces])
    # A sentence of Chinese is one "word": its length is bounded, or a book without punctuation would be one.
    cut = pre_tokenizers.Split(Regex(r"\p{Han}{1,64}|[^\p{Han}]{1,256}"), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Metaspace(), cut])
    tokenizer.decoder = decoders.Metaspace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", pair=f"$A {EOS} $B {EOS}", special_tokens=[(EOS, 1)]
    )
    tokenizer.add_special_tokens([PAD, EOS, UNK, *extra])
    return tokenizer


def _lines(texts: Iterable[str], letters: list[str]) -> Iterator[str]:
    """Sentences of bounded length, every character outside the alphabet a space, so that it gets no piece."""
    keep = {*letters, " "}
    for text in texts:
        for sentence in _SENTENCE.split(text):
            known = "".join(letter if letter in keep else " " for letter in sentence)
            for start in range(0, len(known), _LINE):
                yield known[start : start + _LINE]


def _learn(lines: Iterator[str], size: int) -> list[tuple[str, float]]:
    """Pieces with their log-probabilities, beginning with <pad>, </s> and <unk>; fewer than `size` for a small text."""
    try:
        import sentencepiece
    except ModuleNotFoundError as error:
        raise Unavailable(
            "tokenizer.unigram needs the package sentencepiece", hint="pip install 'mojiang[unigram]'"
        ) from error
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=lines, model_writer=model, model_type="unigram", vocab_size=size, hard_vocab_limit=False,
        character_coverage=1.0, normalization_rule_name="identity", num_threads=_THREADS, minloglevel=2,
        pad_id=0, eos_id=1, unk_id=2, bos_id=-1, pad_piece=PAD, eos_piece=EOS, unk_piece=UNK,
    )  # fmt: skip
    made = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    return [(made.id_to_piece(id), made.get_score(id)) for id in range(made.get_piece_size())]


def _settings(extra: list[str]) -> dict[str, Any]:
    names = {"pad": PAD, "eos": EOS, "unk": UNK, "bos": BOS, "mask": MASK}
    tokens = {f"{role}_token": text for role, text in names.items()}
    return {**tokens, "additional_special_tokens": extra[2:], "clean_up_tokenization_spaces": False}
