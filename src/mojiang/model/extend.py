"""Give a language model more tokens, learned from a corpus: for a language that its tokenizer cuts to bits."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe

if TYPE_CHECKING:
    from pathlib import Path

    from mojiang.core.run import Run
    from mojiang.model.network import Network
    from mojiang.tokenizer._continued import NewToken


class Extend(Recipe):
    """Continue the merges of a model's tokenizer on a corpus, and begin each new token as the mean of its pieces.

    What the model knew it still says: texts without new tokens keep their ids and their scores. Texts of the corpus get
    shorter, so more fits into the context and each answer takes fewer steps. Go on with `train pretrain --model`: until
    the new rows are trained, such texts are predicted worse than before.

    When not to use: for a few names or control words; and not without training afterwards.
    Source: Koto et al. 2021 (mean of the pieces); Cui et al. 2023 (Chinese-LLaMA: extended, then trained on).
    Example:
        >>> Extend(model="smollm2", data="zh", tokens=4000).tokens
        4000
    """

    recipe: ClassVar[str] = "model.extend"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"

    model: ModelRef
    """The language model, with a BPE tokenizer."""
    data: DatasetRef
    """The corpus; of a split one only the train part is learned from."""
    tokens: int = Field(4000, ge=1, le=200_000)
    """How many tokens to add, at most."""
    min_frequency: int = Field(5, ge=2)
    """A new token must have been seen this often."""
    max_sample_bytes: int = Field(50_000_000, ge=1000, le=2_000_000_000)
    """Text to learn from; a larger corpus is sampled by document. Bounds memory to about 20 times this."""

    def run(self, run: Run) -> Metrics:
        """Learn the tokens, widen the model, save both and measure the text that was not learned from."""
        from mojiang.model.load import load_causal_lm, save_model
        from mojiang.tokenizer._continued import extended, learn
        from mojiang.tokenizer._train import Corpus, measure
        from mojiang.tokenizer.load import load_tokenizer

        folder = run.input("model").path
        model, tokenizer = load_causal_lm(folder), load_tokenizer(folder)
        corpus = Corpus(run.input("data").path, self.max_sample_bytes)
        raw = _file(folder)
        run.log(f"learning {self.tokens:,} more tokens from {corpus.sampled_size / 1e6:,.1f} MB")
        found = learn(raw, corpus, self.tokens, self.min_frequency)
        corpus.check()
        if not found:
            raise BadInput("no pair of tokens is frequent enough to become one", hint="lower --min-frequency")
        run.check_stop()
        widened = widen(model, raw.get_vocab(), found, tokenizer.vocab_size)
        save_model(widened, folder, run.out)
        copied = run.out / "tokenizer.json"
        copied.unlink(missing_ok=True)
        extended(raw, found).save(str(copied), pretty=False)
        longer = load_tokenizer(run.out)
        split = "validation" if corpus.is_split else None
        costs = [measure(each, corpus.source, split) for each in (tokenizer, longer)]
        size = sum(cost.bytes for cost in costs[0].values())
        before, after = (size / max(1, sum(cost.tokens for cost in each.values())) for each in costs)
        return {
            "parameters": widened.num_parameters(), "vocab_size": longer.vocab_size, "new_tokens": len(found),
            "rarest_new_token": found[-1].count, "bytes_per_token_before": round(before, 4),
            "bytes_per_token": round(after, 4), "held_out_bytes": size,
        }  # fmt: skip


def _file(folder: Path) -> Any:
    """The tokenizer as the file has it: what is changed is its file."""
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(folder / "tokenizer.json"))


def widen(model: Network, vocab: dict[str, int], found: list[NewToken], first: int) -> Network:
    """A model with rows for new tokens from id `first` on, each the mean of the rows of the old tokens it is made of.

    Rows that the model has beyond its tokenizer's ids are used before any are added.
    """
    import torch

    from mojiang.model._layers import Embedding

    config = model.config
    rows = max(config.vocab_size, first + len(found))
    wide: Network = type(model)(replace(config, vocab_size=rows))  # type: ignore[call-arg]
    names = {
        f"{name}.{part}"
        for name, module in model.named_modules()
        for part, _ in module.named_parameters(recurse=False)
        if (isinstance(module, Embedding) and module.num_embeddings == config.vocab_size) or module is model.head
    }
    members = pieces_of(vocab, found)
    state = model.state_dict()
    for name in names & set(state):
        old = state[name]
        new = torch.zeros(rows, *old.shape[1:], dtype=old.dtype)
        new[: len(old)] = old.cpu()
        for id, ids in enumerate(members, first):
            new[id] = old[ids].float().mean(dim=0).to(old.dtype)
        state[name] = new
    wide.load_state_dict(state)
    wide.compute_dtype = model.compute_dtype
    return wide


def pieces_of(vocab: dict[str, int], found: list[NewToken]) -> list[list[int]]:
    """For each new token, the ids of the old ones it is made of, in order.

    >>> from mojiang.tokenizer._continued import NewToken
    >>> pieces_of({"a": 0, "b": 1}, [NewToken(("a", "b"), 9), NewToken(("ab", "b"), 5)])
    [[0, 1], [0, 1, 1]]
    """
    made: dict[str, list[int]] = {}
    for token in found:
        made[token.text] = [id for part in token.pair for id in (made[part] if part in made else [vocab[part]])]
    return [made[token.text] for token in found]
