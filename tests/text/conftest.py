"""A corpus whose neighbours are known: words of one topic occur together."""

from __future__ import annotations

import json
import random
from collections.abc import Callable

import pytest

from mojiang.core.artifact import Artifact
from mojiang.core.store import Store
from mojiang.data.load import Load
from mojiang.text._vectors import WordVectors

TOPICS = {
    "animals": ["cat", "dog", "horse", "cow", "sheep", "goat", "pig", "duck"],
    "weather": ["rain", "snow", "wind", "storm", "cloud", "sun", "frost", "hail"],
    "numbers": ["one", "two", "three", "four", "five", "six", "seven", "eight"],
    "水果": ["苹", "梨", "桃", "李", "杏", "枣", "瓜", "橘"],
}


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Artifact]:
    folder = tmp_path_factory.mktemp("topics")
    drawn = random.Random(0)
    lines = []
    for _ in range(3000):
        words = drawn.choice(list(TOPICS.values()))
        lines.append(" ".join(drawn.choices(words, k=8)))
    texts = [{"text": "\n\n".join(lines[at : at + 50])} for at in range(0, len(lines), 50)]
    (folder / "texts.jsonl").write_text("\n".join(map(json.dumps, texts)), encoding="utf-8")
    store = Store(folder / "workspace")
    return store, Load(source=str(folder / "texts.jsonl")).execute(store, name="topics")


@pytest.fixture(scope="session")
def topics_found() -> Callable[[WordVectors], float]:
    """The share of each word's seven nearest that are of its topic."""

    def share(vectors: WordVectors) -> float:
        hits = [
            other in words
            for words in TOPICS.values()
            for word in words
            for other, _ in vectors.neighbours(word, len(words) - 1)
        ]
        return sum(hits) / len(hits)

    return share
