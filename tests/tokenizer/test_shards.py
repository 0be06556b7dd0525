"""Token shards of a corpus: they say what it says, the same in every run, and a stopped run goes on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import Interrupted
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data import _documents, _spill
from mojiang.data._documents import iter_texts
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.tokenizer._pack import Shards
from mojiang.tokenizer._stream import Stream
from mojiang.tokenizer.bpe import BPE
from mojiang.tokenizer.load import load_tokenizer
from mojiang.tokenizer.shards import TokenShards


class Counting(LocalEngine):
    """Counts items, and stops the run at one of them."""

    def __init__(self, at: int = 10**9) -> None:
        super().__init__(workers=1)
        self.at, self.items = at, 0

    def map(self, function: Any, items: Any, workers: int | None = None) -> Iterator[Any]:
        for item in items:
            if self.items == self.at:
                raise Interrupted("stopped")
            self.items += 1
            yield function(item)


def make(store: Store, recipe: Recipe, engine: LocalEngine | None = None) -> Artifact:
    return execute(recipe, store, circumstance=Circumstance(engine=engine or LocalEngine(workers=1))).artifact


@pytest.fixture
def refs(store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, str]:
    """A split corpus of both languages in batches of 20 documents, and a tokenizer."""
    monkeypatch.setattr(_documents, "ROW_GROUP_ROWS", 20)
    texts = [f"Document {n} is about rivers and bridges {n * n}. 第{n}篇文章讲的是河流与桥梁。" for n in range(300)]
    path = tmp_path / "a.jsonl"
    path.write_text("\n".join(json.dumps({"text": text}, ensure_ascii=False) for text in texts), encoding="utf-8")
    split = make(store, Split(data=make(store, Load(source=str(path))).ref, validation=0.1, test=0.1))
    return split.ref, make(store, BPE(data=split.ref, vocab_size=600)).ref


def test_they_say_what_the_corpus_says(store: Store, refs: tuple[str, str]) -> None:
    made = make(store, TokenShards(data=refs[0], tokenizer=refs[1], shard_tokens=2000))
    tokenizer = load_tokenizer(store.get(refs[1]).path)
    for split in ("train", "validation", "test"):
        shards = Shards(made.path / split)
        shards.verify()
        texts = list(iter_texts(store.get(refs[0]).path, split))
        assert len(shards) == len(texts) == made.metrics[f"{split}_documents"]
        for number, text in enumerate(texts):
            tokens = shards.sequence(number)[0].tolist()
            assert tokens[0] == tokens[-1] == tokenizer.eos_id
            assert tokenizer.decode(tokens[1:-1]) == text
            assert shards.bytes_of[number] == len(text.encode())
    assert len(Shards(made.path / "train").shards) > 2
    streamed = {s.num_bytes for s in Stream(made.path / "train", 0).sequences(LocalEngine(1), epochs=1)}
    assert streamed == set(Shards(made.path / "train").bytes_of.tolist())


def test_a_stopped_run_goes_on_and_gives_the_same_bytes(
    store: Store, refs: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_spill, "_MARK_SECONDS", 0)
    recipe = TokenShards(data=refs[0], tokenizer=refs[1])
    engine = Counting()
    whole = make(store, recipe, engine)
    expected = {name: entry.sha256 for name, entry in whole.manifest.files.items()}
    store.remove(whole, force=True)
    with pytest.raises(Interrupted):
        make(store, recipe, Counting(at=9))
    again = Counting()
    made = make(store, recipe, again)
    assert again.items == engine.items - 9
    assert {name: entry.sha256 for name, entry in made.manifest.files.items()} == expected


def test_several_workers_give_the_same_bytes(store: Store, refs: tuple[str, str]) -> None:
    recipe = TokenShards(data=refs[0], tokenizer=refs[1])
    one = make(store, recipe)
    expected = {name: entry.sha256 for name, entry in one.manifest.files.items()}
    store.remove(one, force=True)
    engine = LocalEngine(workers=2)
    try:
        made = make(store, recipe, engine)
    finally:
        engine.close()
    assert {name: entry.sha256 for name, entry in made.manifest.files.items()} == expected
