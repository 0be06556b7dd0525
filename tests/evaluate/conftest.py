"""A small world on real text: standard-library modules, a tokenizer and a briefly trained model, in a store.

tests/compress and tests/trust load this file too.
"""

from __future__ import annotations

import inspect
import json
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import ClassVar, Literal

import pytest
import torch
from safetensors.torch import save_file
from tokenizers import trainers
from torch.nn import functional as F

import mojiang
from mojiang.core.artifact import Artifact
from mojiang.core.recipe import DatasetRef, Metrics, Recipe
from mojiang.core.run import Run
from mojiang.core.store import Store
from mojiang.data._documents import ShardWriter, document_id
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.tokenizer._format import SPECIAL_TOKENS, empty_tokenizer, save_tokenizer

MODULES = (  # noqa: SIM905 - twenty-nine quoted words would be harder to read
    "bisect heapq textwrap colorsys fnmatch glob shlex stat string struct token keyword linecache contextlib copy "
    "queue reprlib sched secrets abc calendar cmd code codeop csv filecmp fractions getopt getpass"
).split()
CHINESE = (
    "墨匠把原始文本变成可用的语言模型。每一步都留下证据：数据从哪里来，用了什么许可，模型在没有见过的文档上表现如何。\n"
)


class MakeDocuments(Recipe):
    """A split dataset of Python modules, with Chinese prose among them or alone."""

    recipe: ClassVar[str] = "data.split"
    makes: ClassVar[Literal["dataset"]] = "dataset"
    python: bool = True
    licence: str = "PSF-2.0"

    def run(self, run: Run) -> Metrics:
        texts = [(f"{name}.py", inspect.getsource(import_module(name))) for name in MODULES] if self.python else []
        texts += [(f"文档{i}.txt", CHINESE * (3 + i % 7) + f"第{i}篇到此为止。\n") for i in range(20)]
        for i, (path, text) in enumerate(texts):
            split = ("train", "train", "train", "validation", "test")[i % 5]
            kind = ("python", "code") if path.endswith(".py") else ("zh", "txt")
            with ShardWriter(run.out / split, f"documents-{i:03d}") as writer:
                writer.add(
                    {
                        "id": document_id("tests", path, 0), "path": path, "source": "tests", "licence": self.licence,
                        "language": kind[0], "format": kind[1], "bytes": len(text.encode()), "text": text,
                    }
                )  # fmt: skip
        return {"documents": len(texts)}


class MakeModel(Recipe):
    """A tiny decoder trained for a moment on the training split, as a Hugging Face folder with its tokenizer."""

    recipe: ClassVar[str] = "train.pretrain"
    makes: ClassVar[Literal["model"]] = "model"
    data: DatasetRef
    steps: int = 40
    tied: bool = True

    def run(self, run: Run) -> Metrics:
        from mojiang.data._documents import iter_texts

        text = list(iter_texts(run.input("data").path, "train"))
        tokenizer = empty_tokenizer()
        alphabet = sorted(chr(c) for c in range(33, 127))
        tokenizer.train_from_iterator(
            text,
            trainers.BpeTrainer(
                vocab_size=700, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
                initial_alphabet=[*alphabet, *_byte_letters()],
            ),
        )  # fmt: skip
        save_tokenizer(tokenizer, run.out)
        eos = tokenizer.token_to_id("<|endoftext|>")
        config = DecoderConfig(
            tokenizer.get_vocab_size(), 64, 2, 4, 2, 128, 16, max_position_embeddings=128, eos_token_id=eos,
            tie_word_embeddings=self.tied,
        )  # fmt: skip
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # so small a model only waits for other threads
        model = Decoder(config).init_weights(seed=0)
        stream = torch.tensor([id for t in text for id in [eos, *tokenizer.encode(t).ids]])
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        generator = torch.Generator().manual_seed(0)
        for step in range(self.steps):
            starts = torch.randint(len(stream) - 65, (8,), generator=generator)
            batch = torch.stack([stream[s : s + 65] for s in starts])
            logits = model.logits(model(batch[:, :-1]))
            loss = F.cross_entropy(logits.flatten(0, 1), batch[:, 1:].flatten())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            run.metrics(step, loss=loss.item())
        torch.set_num_threads(threads)
        run.metrics(self.steps, validation_bits_per_byte=2.5)
        tensors = {k: v for k, v in model.state_dict().items() if k != "lm_head.weight" or not self.tied}
        save_file(tensors, run.out / "model.safetensors", metadata={"format": "pt"})
        (run.out / "config.json").write_text(json.dumps(config.to_hf()))
        return {"loss": loss.item(), "tokens": self.steps * 512}


def _byte_letters() -> list[str]:
    from tokenizers import pre_tokenizers

    return sorted(pre_tokenizers.ByteLevel.alphabet())


@dataclass(frozen=True)
class World:
    """A store with a dataset and a model trained on it."""

    store: Store
    data: Artifact
    model: Artifact


def make_world(folder: Path, *, python: bool = True, tied: bool = True) -> World:
    """Make the artifacts in a store of their own."""
    store = mojiang.open(folder / "workspace")
    data = MakeDocuments(python=python).execute(store, name="corpus")
    return World(store, data, MakeModel(data=data.ref, tied=tied).execute(store, name="base", device="cpu"))


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Python and Chinese documents, and a model of them; shared, so tests only add to it."""
    return make_world(tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="session")
def prose_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """Chinese documents only."""
    return make_world(tmp_path_factory.mktemp("prose"), python=False)


@pytest.fixture(scope="session")
def untied_world(tmp_path_factory: pytest.TempPathFactory) -> World:
    """A model whose output head has weights of its own."""
    return make_world(tmp_path_factory.mktemp("untied"), python=False, tied=False)
