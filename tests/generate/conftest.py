"""Models for the engine: random, and trained for a moment so that its logits are those of a language model."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

SCRIPT = Path(__file__).parents[1] / "tiny_serving.py"


@pytest.fixture(scope="session")
def tiny() -> ModuleType:
    """tests/tiny_serving.py as a module."""
    spec = importlib.util.spec_from_file_location("tiny_serving", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def tokenizer(tiny: ModuleType) -> Any:
    return tiny.TinyTokenizer()


@pytest.fixture(scope="session")
def random_model(tiny: ModuleType, tokenizer: Any) -> Any:
    return tiny.tiny_model(tokenizer.vocab_size)


@pytest.fixture(scope="session")
def trained_model(tiny: ModuleType, tokenizer: Any) -> Any:
    """A few hundred steps on four sentences: sharp logits, and near-ties where texts branch."""
    torch.manual_seed(0)
    model = tiny.tiny_model(tokenizer.vocab_size, seed=1, eos=True)
    ids = [tokenizer.eos_id, *(i for text in tiny.TEXT for i in [*tokenizer.encode(text), tokenizer.eos_id])]
    tokens_BT = torch.tensor([ids])
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for _ in range(60):
        logits = model.logits(model(tokens_BT[:, :-1]))
        loss = F.cross_entropy(logits[0], tokens_BT[0, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.5
    return model
