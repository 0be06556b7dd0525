"""The table against what is importable and against transformers' names."""

from __future__ import annotations

import subprocess
import sys
from importlib import import_module

import pytest
import torch
import transformers

from mojiang.core.errors import BadInput
from mojiang.model.architectures import ARCHITECTURES, MODEL_TYPES, build, resolve
from mojiang.model.network import HEADS, Network

LLAMA = {
    "model_type": "llama", "architectures": ["LlamaForCausalLM"], "vocab_size": 50, "hidden_size": 32,
    "num_hidden_layers": 1, "num_attention_heads": 4, "intermediate_size": 48, "max_position_embeddings": 16,
    "id2label": {"0": "no", "1": "yes", "2": "maybe"},
}  # fmt: skip


THEIRS = sorted(name for name in ARCHITECTURES if not name.startswith("Mojiang"))


@pytest.mark.parametrize("name", sorted(ARCHITECTURES))
def test_every_entry_names_a_network_and_a_class_of_transformers(name: str) -> None:
    where, head = ARCHITECTURES[name]
    module, _, cls = where.partition(":")
    network = getattr(import_module(module), cls)
    assert issubclass(network, Network)
    assert callable(network.from_hf)
    assert head in HEADS
    if name.startswith("Mojiang"):  # ours alone
        return
    if name in THEIRS:
        assert MODEL_TYPES[getattr(transformers, name).config_class.model_type][0] == where
    else:
        assert not hasattr(transformers, name)


def test_the_head_of_a_type_is_among_those_it_has() -> None:
    for where, head in MODEL_TYPES.values():
        assert (where, head) in ARCHITECTURES.values()
    named = {getattr(transformers, name).config_class.model_type for name in THEIRS}
    assert named <= MODEL_TYPES.keys()


def test_a_config_is_built_with_its_head_or_another() -> None:
    assert resolve({**LLAMA, "architectures": None}) == MODEL_TYPES["llama"]
    with torch.device("meta"):
        assert build(LLAMA).config.head == "causal_lm"
        classifier = build(LLAMA, "sequence_classification")
        assert classifier.config.id2label == {0: "no", 1: "yes", 2: "maybe"}
        assert classifier.score.weight.shape == (3, 32)
        fewer = build(LLAMA, "token_classification", num_labels=2)
        assert (fewer.config.num_labels, fewer.config.id2label) == (2, None)
        assert build({**LLAMA, "architectures": ["LlamaForTokenClassification"]}).config.num_labels == 3


@pytest.mark.parametrize(
    ("change", "head", "message"),
    [
        ({"model_type": "mamba"}, None, "mamba"),
        ({"model_type": None}, None, "None"),
        ({"architectures": ["LlamaForMultipleChoice"]}, None, "LlamaForMultipleChoice"),
        ({}, "masked_lm", "masked_lm"),
        ({}, "regression", "regression"),
    ],
)
def test_what_is_not_there_is_refused_by_name(change: dict[str, object], head: str | None, message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        build({**LLAMA, **change}, head)  # type: ignore[arg-type]
    assert caught.value.hint


def test_reading_the_table_imports_no_family() -> None:
    code = "import sys, mojiang.model.architectures; print([m for m in sys.modules if 'model.decoder' in m])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
