"""tokenizer.bpe end to end: learned from train alone, repeatable, sampled within its cap, measured honestly."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.recipe import Recipe
from mojiang.core.report import Report
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data._documents import count_bytes, iter_texts
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.tokenizer._train import auto_vocab_size, sample_texts
from mojiang.tokenizer.bpe import BPE
from mojiang.tokenizer.load import load_tokenizer

Make = Callable[[Recipe], Artifact]


@pytest.fixture
def make(store: Store) -> Make:
    return lambda recipe: execute(recipe, store, circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact


@pytest.fixture
def split(make: Make, tmp_path: Path) -> Artifact:
    english = [
        "The work of a tokenizer is to cut text into pieces a model can count. " * 3 + f"Number {i}." for i in range(80)
    ]
    chinese = ["分词器的工作是把文本切成模型可以数的小块，这样模型才能学习。" * 3 + f"第{i}篇。" for i in range(80)]
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in english + chinese]
    (tmp_path / "a.jsonl").write_text("\n".join(lines), encoding="utf-8")
    return make(Split(data=make(Load(source=str(tmp_path / "a.jsonl"))).ref))


def test_the_report_measures_held_out_text_by_language(make: Make, split: Artifact) -> None:
    made = make(BPE(data=split.ref, vocab_size=600))
    tokenizer = load_tokenizer(made.path)
    held_out = list(iter_texts(split.path, "validation"))
    tokens = sum(len(tokenizer.encode(text)) for text in held_out)
    size = sum(len(text.encode()) for text in held_out)
    assert made.metrics["bytes_per_token"] == pytest.approx(size / tokens, abs=1e-3)
    assert made.metrics["held_out_bytes"] == size
    assert made.metrics["round_trip_failures"] == 0
    assert made.metrics["vocab_size"] == tokenizer.vocab_size <= 600
    rows = {row[0]: row for row in Report.load(made.path).table("fertility by language").rows}
    words = sum(len(text.split()) for text in held_out if text.startswith("The"))
    english = sum(len(tokenizer.encode(text)) for text in held_out if text.startswith("The"))
    assert rows["en"][4] == pytest.approx(english / words, abs=1e-3)
    assert rows["en"][5] is None
    assert rows["zh"][4] is None
    assert 0 < float(rows["zh"][5] or 0) < 1  # repeated Chinese is learned: fewer tokens than characters


def test_the_same_corpus_gives_the_same_bytes(make: Make, split: Artifact) -> None:
    one, other = make(BPE(data=split.ref, vocab_size=600)), make(BPE(data=split.ref, vocab_size=600, min_frequency=2,
                                                                     max_sample_bytes=199_999_999))  # fmt: skip
    assert one.ref != other.ref
    assert (one.path / "tokenizer.json").read_bytes() == (other.path / "tokenizer.json").read_bytes()


def test_only_the_train_split_is_learned_from(make: Make, split: Artifact) -> None:
    made = make(BPE(data=split.ref, vocab_size=600))
    assert made.metrics["sampled_bytes"] == count_bytes(split.path, "train") == split.metrics["train_bytes"]


def test_sampling_keeps_its_cap_and_agrees_with_itself(split: Artifact) -> None:
    size = count_bytes(split.path, "train")
    sample = list(sample_texts(split.path, "train", size, size // 4))
    assert 0.1 * size < sum(len(text.encode()) for text in sample) <= size // 4
    assert sample == list(sample_texts(split.path, "train", size, size // 4))
    assert set(sample) < set(iter_texts(split.path, "train"))
    assert list(sample_texts(split.path, "train", size, size)) == list(iter_texts(split.path, "train"))


def test_an_unsplit_corpus_is_used_with_a_warning(make: Make, tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("one two three four five six seven\n" * 100)
    made = make(BPE(data=make(Load(source=str(tmp_path / "b.txt"))).ref))
    assert "not split" in Report.load(made.path).findings[0].text


def test_vocabulary_grows_with_the_corpus() -> None:
    sizes = [auto_vocab_size(10**n) for n in range(1, 13)]
    assert sizes == sorted(sizes)
    assert (sizes[0], auto_vocab_size(11_000_000), sizes[-1]) == (1024, 8192, 65536)


def test_long_runs_of_chinese_do_not_explode(make: Make, tmp_path: Path) -> None:
    """Half a million characters without a space: pieces stay bounded, so training ends quickly and round-trips."""
    import random

    chance = random.Random(1)
    text = "".join(chr(0x4E00 + int(chance.expovariate(1 / 300)) % 3000) for _ in range(500_000))
    (tmp_path / "c.txt").write_text(text, encoding="utf-8")
    made = make(BPE(data=make(Load(source=str(tmp_path / "c.txt"), max_document_bytes=100_000)).ref, vocab_size=2000))
    tokenizer = load_tokenizer(made.path)
    assert tokenizer.decode(tokenizer.encode(text[:10_000])) == text[:10_000]
