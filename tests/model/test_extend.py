"""model.extend: old ids and scores stay, new tokens are what brute force would join, transformers reads the result."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers

from mojiang.core.artifact import Artifact
from mojiang.core.engine import LocalEngine
from mojiang.core.errors import BadInput
from mojiang.core.recipe import Recipe
from mojiang.core.run import Circumstance, execute
from mojiang.core.store import Store
from mojiang.data._documents import iter_texts
from mojiang.data.load import Load
from mojiang.data.split import Split
from mojiang.model.extend import Extend
from mojiang.model.load import load_causal_lm
from mojiang.tokenizer._continued import extended, learn
from mojiang.tokenizer.bpe import BPE
from mojiang.tokenizer.load import load_tokenizer
from mojiang.train.pretrain import Pretrain

Make = Callable[[Recipe], Artifact]


@pytest.fixture
def make(store: Store) -> Make:
    return lambda recipe: execute(recipe, store, circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact


@pytest.fixture
def split(make: Make, texts: Path) -> Artifact:
    return make(Split(data=make(Load(source=str(texts))).ref, validation=0.1))


def letters_only() -> Tokenizer:
    """A BPE that knows the letters a to e and one merge."""
    vocab = {letter: id for id, letter in enumerate("abcde")} | {"ab": 5}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[("a", "b")]))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    return tokenizer


def brute_force(words: list[list[str]], known: set[str], number: int) -> list[tuple[str, str]]:
    """The most frequent pair, counted anew each time."""
    found = []
    while len(found) < number:
        counts = Counter(pair for word in words for pair in zip(word, word[1:], strict=False))
        left = [(-count, pair) for pair, count in counts.items() if count >= 2 and "".join(pair) not in known]
        if not left:
            break
        pair = min(left)[1]
        found.append(pair)
        known.add("".join(pair))
        joined = []
        for word in words:
            new: list[str] = []
            for piece in word:
                if new and (new[-1], piece) == pair:
                    new[-1] += piece
                else:
                    new.append(piece)
            joined.append(new)
        words = joined
    return found


def test_the_merges_are_those_of_brute_force() -> None:
    import random

    draw = random.Random(0)
    texts = [" ".join("".join(draw.choices("abcde", (4, 3, 2, 1, 1), k=draw.randint(1, 9))) for _ in range(40))
             for _ in range(20)]  # fmt: skip
    tokenizer = letters_only()
    words = [[token.value for token in tokenizer.model.tokenize(word)] for text in texts for word in text.split()]
    expected = brute_force(words, set(tokenizer.get_vocab()), 30)
    assert [token.pair for token in learn(tokenizer, texts, 30)] == expected
    assert len(expected) == 30


def test_old_merges_come_first_and_ids_without_new_tokens_stay(make: Make, split: Artifact) -> None:
    raw = Tokenizer.from_file(str(make(BPE(data=split.ref, vocab_size=600)).path / "tokenizer.json"))
    found = learn(raw, iter_texts(split.path, "train"), 100)
    longer = extended(raw, found)
    new = {token.text for token in found}
    assert len(new) == 100
    for text in list(iter_texts(split.path, "validation"))[:10]:
        before, after = raw.encode(text), longer.encode(text)
        assert len(after.ids) < len(before.ids)
        # Taken apart again, each new token is the old ones that stood there.
        again = [piece for token in after.tokens for piece in ([token] if token not in new else _apart(token, found))]
        assert again == before.tokens


def _apart(token: str, found: list) -> list[str]:  # type: ignore[type-arg]
    made = {each.text: each.pair for each in found}
    return [piece for part in made[token] for piece in (_apart(part, found) if part in made else [part])]


def test_a_model_says_what_it_said_and_transformers_agrees(make: Make, split: Artifact) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    base = make(
        Pretrain(data=split.ref, tokenizer=make(BPE(data=split.ref, vocab_size=600)).ref, steps=3, width=64, depth=2,
                 context=128, batch_tokens=512, precision="fp32", compile="off")
    )  # fmt: skip
    made = make(Extend(model=base.ref, data=split.ref, tokens=64))
    assert made.metrics["new_tokens"] == 64
    assert made.metrics["bytes_per_token"] > made.metrics["bytes_per_token_before"]  # type: ignore[operator]
    old, new = load_causal_lm(base.path), load_causal_lm(made.path)
    ids = torch.arange(40)[None]
    size = load_tokenizer(base.path).vocab_size  # rows beyond it belong to nothing, and are the first to be used
    torch.testing.assert_close(new.logits(new(ids))[..., :size], old.logits(old(ids))[..., :size])
    tokenizer, theirs = load_tokenizer(made.path), AutoTokenizer.from_pretrained(str(made.path))
    text = next(iter_texts(split.path, "validation"))[:500]
    tokens = tokenizer.encode(text)
    assert tokens == theirs.encode(text, add_special_tokens=False)
    assert max(tokens) >= tokenizer.vocab_size - 64
    assert tokenizer.decode(tokens) == text
    peer = AutoModelForCausalLM.from_pretrained(str(made.path))
    batch = torch.tensor([tokens])
    torch.testing.assert_close(new.logits(new(batch)), peer(batch).logits, atol=1e-4, rtol=1e-4)
    # The row of a new token is the mean of its pieces' rows.
    shorter = load_tokenizer(base.path)
    first = tokenizer.vocab_size - 64
    pieces = shorter.encode(tokenizer.decode([first]))
    embeddings = [model.backbone.embed_tokens.weight for model in (old, new)]  # type: ignore[union-attr, operator]
    torch.testing.assert_close(embeddings[1][first], embeddings[0][pieces].mean(dim=0))  # type: ignore[index]


def test_other_tokenizers_are_refused() -> None:
    words = Tokenizer(models.WordLevel({"a": 0, "<unk>": 1}, unk_token="<unk>"))
    with pytest.raises(BadInput, match="a WordLevel tokenizer cannot be given more merges"):
        learn(words, ["a"], 1)
    whole = Tokenizer(models.BPE(vocab={"a": 0}, merges=[]))
    with pytest.raises(BadInput, match="does not cut words"):
        learn(whole, ["a"], 1)
