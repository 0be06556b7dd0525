"""tokenizer.compare: its figures are those of the peers' own libraries on the same documents."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from pathlib import Path

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput, BadUsage, NotFound
from mojiang.core.recipe import Recipe
from mojiang.core.report import Report
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data._documents import iter_texts
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.tokenizer import _others
from mojiang.tokenizer._format import LETTER_BYTES
from mojiang.tokenizer.bpe import BPE
from mojiang.tokenizer.char import Char
from mojiang.tokenizer.compare import Compare
from mojiang.tokenizer.load import load_tokenizer

Make = Callable[[Recipe], Artifact]


@pytest.fixture
def make(store: Store) -> Make:
    return lambda recipe: execute(recipe, store, circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact


@pytest.fixture
def split(make: Make, texts: Path) -> Artifact:
    return make(Split(data=make(Load(source=str(texts))).ref, validation=0.2))


def test_figures_are_those_of_counting(make: Make, split: Artifact) -> None:
    bpe, char = make(BPE(data=split.ref, vocab_size=600)), make(Char(data=split.ref, coverage=1.0))
    made = make(Compare(data=split.ref, tokenizers=(bpe.ref, char.ref)))
    texts = list(iter_texts(split.path, "validation"))
    size = sum(len(text.encode()) for text in texts)
    tokens = sum(len(ids) for ids in load_tokenizer(bpe.path).encode_batch(texts))
    assert made.metrics["bytes_per_token_bpe"] == pytest.approx(size / tokens, abs=1e-3)
    assert made.metrics["bytes_per_token_char"] == pytest.approx(size / sum(map(len, texts)), abs=1e-3)
    report = Report.load(made.path)
    assert report.tables[0].rows[0][4] == "100.0%"
    assert "bpe needs the fewest tokens" in report.verdict
    assert any(sample.title == "en: char" and sample.text.startswith("T|h|e") for sample in report.samples)


def test_tiktoken_ranks_are_read_and_cut_as_tiktoken_cuts(tmp_path: Path, split: Artifact) -> None:
    tiktoken = pytest.importorskip("tiktoken", reason="tiktoken is not installed")
    from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

    # Independent truth: a byte-level BPE that the tokenizers library has trained, with GPT-2's own pattern.
    peer = Tokenizer(models.BPE())
    pattern = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
    cut = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
    peer.pre_tokenizer = pre_tokenizers.Sequence(
        [cut, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]
    )
    peer.decoder = decoders.ByteLevel()
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=700, initial_alphabet=letters, show_progress=False)
    peer.train_from_iterator(iter_texts(split.path, "train"), trainer)
    file = tmp_path / "gpt2-like.tiktoken"
    lines = [
        base64.b64encode(bytes(LETTER_BYTES[letter] for letter in token)) + b" " + str(id).encode()
        for token, id in sorted(peer.get_vocab().items(), key=lambda item: item[1])
    ]
    file.write_bytes(b"\n".join(lines))
    texts = list(iter_texts(split.path, "validation"))
    ours = _others.open_tokenizer(file)
    assert ours.encode_batch(texts) == [encoding.ids for encoding in peer.encode_batch(texts)]
    assert [ours.decode(ids) for ids in ours.encode_batch(texts)] == texts
    assert tiktoken.__version__


def test_a_sentencepiece_model_is_read(tmp_path: Path, make: Make, split: Artifact) -> None:
    spm = pytest.importorskip("sentencepiece", reason="the extra `unigram` is not installed")
    model = io.BytesIO()
    spm.SentencePieceTrainer.train(
        sentence_iterator=iter_texts(split.path, "train"), model_writer=model, vocab_size=600, hard_vocab_limit=False,
        minloglevel=2,
    )  # fmt: skip
    file = tmp_path / "peer.model"
    file.write_bytes(model.getvalue())
    made = make(Compare(data=split.ref, files=(str(file),)))
    peer = spm.SentencePieceProcessor(model_proto=model.getvalue())
    texts = list(iter_texts(split.path, "validation"))
    expected = sum(len(text.encode()) for text in texts) / sum(len(peer.encode(text)) for text in texts)
    assert made.metrics["bytes_per_token_peer"] == pytest.approx(expected, abs=1e-3)


def test_another_content_is_another_comparison(make: Make, tmp_path: Path, split: Artifact) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    first, second = make(BPE(data=split.ref, vocab_size=600)), make(BPE(data=split.ref, vocab_size=700))
    (folder / "tokenizer.json").write_bytes((first.path / "tokenizer.json").read_bytes())
    recipe = Compare(data=split.ref, files=(str(folder),))
    before = recipe.fingerprint({}, 0)
    (folder / "tokenizer.json").write_bytes((second.path / "tokenizer.json").read_bytes())
    assert recipe.fingerprint({}, 0) != before


@pytest.mark.parametrize("content", [b"not base64 at all\n", b"YQ== 0\n", b"YQ== zero\n"])
def test_broken_ranks_are_refused(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "broken.tiktoken"
    file.write_bytes(content)
    with pytest.raises(BadInput, match="broken.tiktoken"):
        _others.open_tokenizer(file)


def test_what_is_not_there_or_no_tokenizer_is_said(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="there is no"):
        _others.open_tokenizer(tmp_path / "none")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(BadInput, match="no tokenizer known here"):
        _others.open_tokenizer(tmp_path / "notes.txt")
    from mojiang.core.config import decode

    with pytest.raises(BadUsage, match="at least one"):
        decode(Compare, {"data": "split"}, "tokenizer.compare")
