"""tokenizer.unigram end to end: the pieces and cuts of SentencePiece, T5's frame, repeatable, safe on unspaced text."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data._documents import iter_texts
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.tokenizer import unigram
from mojiang.tokenizer.load import load_tokenizer
from mojiang.tokenizer.unigram import Unigram

spm = pytest.importorskip("sentencepiece", reason="the extra `unigram` is not installed")
Make = Callable[[Recipe], Artifact]


@pytest.fixture
def make(store: Store) -> Make:
    return lambda recipe: execute(recipe, store, circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact


@pytest.fixture
def split(make: Make, texts: Path) -> Artifact:
    return make(Split(data=make(Load(source=str(texts))).ref, validation=0.1))


def test_text_is_cut_as_sentencepiece_cuts_it(make: Make, split: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformers import AutoTokenizer

    kept = {}

    class Keeping(spm.SentencePieceProcessor):  # type: ignore[misc, name-defined]
        def __init__(self, model_proto: bytes) -> None:
            super().__init__(model_proto=model_proto)
            kept["model"] = self

    monkeypatch.setattr(spm, "SentencePieceProcessor", Keeping)
    made = make(Unigram(data=split.ref, vocab_size=1200, sentinels=10))
    tokenizer, peer = load_tokenizer(made.path), AutoTokenizer.from_pretrained(str(made.path))
    for text in [
        *list(iter_texts(split.path, "validation"))[:20],
        "  Two  spaces, 春眠不觉晓，处处闻啼鸟。ＡＢＣ１２ 123",
    ]:
        normal = tokenizer._tokenizer.normalizer.normalize_str(text[:2000])
        ids = tokenizer.encode(text[:2000])
        assert [tokenizer.token(id) for id in ids if id != 2] == [
            piece for piece in kept["model"].encode(normal, out_type=str) if kept["model"].piece_to_id(piece) != 2
        ]
        assert ids == peer.encode(text[:2000], add_special_tokens=False)
        if tokenizer.unk_id not in ids:
            assert tokenizer.decode(ids) == normal


def test_it_frames_like_t5_and_has_its_sentinels(make: Make, split: Artifact) -> None:
    made = make(Unigram(data=split.ref, vocab_size=700, sentinels=10))
    tokenizer = load_tokenizer(made.path)
    a, b = tokenizer.encode("one two"), tokenizer.encode("three")
    assert tokenizer.encode_pair("one two", "three", 99) == ([*a, 1, *b, 1], [0] * (len(a) + len(b) + 2))
    assert (tokenizer.pad_id, tokenizer.eos_id, tokenizer.unk_id) == (0, 1, 2)
    assert {tokenizer.token(id) for id in tokenizer.special_ids} == {
        "<pad>", "</s>", "<unk>", "<s>", "<mask>", *(f"<extra_id_{n}>" for n in range(10))
    }  # fmt: skip
    assert tokenizer.special_ids - {2} == (tokenizer.special_ids - {2}) - set(
        tokenizer.encode("<extra_id_3></s><mask>")
    )
    assert tokenizer.vocab_size == made.metrics["vocab_size"] <= 700
    assert 0 <= float(made.metrics["unknown_share"]) < 0.05
    assert tokenizer.encode("䶵")[-1] == tokenizer.unk_id


def test_the_same_corpus_gives_the_same_bytes(make: Make, split: Artifact) -> None:
    one, other = (make(Unigram(data=split.ref, vocab_size=500, max_sample_bytes=n)) for n in (10**8, 10**8 + 1))
    assert one.ref != other.ref
    assert (one.path / "tokenizer.json").read_bytes() == (other.path / "tokenizer.json").read_bytes()


def test_long_runs_of_chinese_do_not_explode(make: Make, tmp_path: Path) -> None:
    """A quarter of a million characters without a space or a sign: lines stay bounded, none is left out."""
    chance = random.Random(1)
    text = "".join(chr(0x4E00 + int(chance.expovariate(1 / 100)) % 1000) for _ in range(250_000))
    (tmp_path / "c.txt").write_text(text, encoding="utf-8")
    made = make(
        Unigram(data=make(Load(source=str(tmp_path / "c.txt"), max_document_bytes=100_000)).ref, vocab_size=1500)
    )
    tokenizer = load_tokenizer(made.path)
    assert tokenizer.decode(tokenizer.encode(text[:5000])).count(text[100:110]) == 1
    assert max(stop - start for start, stop in tokenizer.encode_with_offsets(text[:5000])[1]) <= 16
    lines = list(unigram._lines([text], sorted(set(text))))
    assert "".join(lines) == text
    assert max(map(len, lines)) * 4 < 4192


def test_a_vocabulary_too_small_for_its_special_tokens_is_refused(make: Make, split: Artifact) -> None:
    with pytest.raises(BadInput, match="300 tokens have no room beside 302 special ones"):
        make(Unigram(data=split.ref, vocab_size=300, sentinels=300))
