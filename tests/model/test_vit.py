"""ViT against transformers on the same weights."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mojiang.core.errors import BadInput
from mojiang.model._layers import Dropout, set_dropout_keys
from mojiang.model.vit import ViT, ViTConfig

transformers = pytest.importorskip("transformers")

SHAPE = {
    "hidden_size": 16, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 32, "image_size": 12,
    "patch_size": 4, "layer_norm_eps": 1e-3, "hidden_dropout_prob": 0.11, "attention_probs_dropout_prob": 0.12,
}  # fmt: skip
# In memory transformers 5 has other names than in the files that it writes.
RENAMED = {
    "vit.layers.": "vit.encoder.layer.", ".attention.q_proj.": ".attention.attention.query.",
    ".attention.k_proj.": ".attention.attention.key.", ".attention.v_proj.": ".attention.attention.value.",
    ".attention.o_proj.": ".attention.output.dense.", ".mlp.fc1.": ".intermediate.dense.",
    ".mlp.fc2.": ".output.dense.",
}  # fmt: skip


def tiny(**changes: Any) -> ViT:
    return ViT(ViTConfig(**{**SHAPE, "head": "image_classification", **changes})).init_weights(0)


def pixels(config: Any, num_images: int = 3) -> torch.Tensor:
    size = config.image_size if isinstance(config.image_size, list) else [config.image_size] * 2
    return torch.randn(num_images, config.num_channels, *size, generator=torch.Generator().manual_seed(1))


def in_files(name: str) -> str:
    for memory, file in RENAMED.items():
        name = name.replace(memory, file)
    return name


def test_defaults_are_those_of_transformers(parity: ModuleType) -> None:
    parity.assert_equal_defaults(ViTConfig(pooler_output_size=768), transformers.ViTConfig())


@pytest.mark.parametrize(
    "changes", [{}, {"image_size": [8, 12], "num_channels": 1, "qkv_bias": False}], ids=["square", "oblong"]
)
def test_the_classifier_is_that_of_transformers(parity: ModuleType, tmp_path: Path, changes: dict[str, Any]) -> None:
    config = transformers.ViTConfig(**{**SHAPE, **changes}, num_labels=4)
    ours, theirs = parity.peers(tmp_path / "theirs", "ViTForImageClassification", config)
    images, labels = pixels(config), torch.tensor([3, 0, 1])
    expected = theirs(images, labels=labels)
    scores = ours.scores(ours(images))
    torch.testing.assert_close(scores, expected.logits, rtol=1e-5, atol=1e-5)
    loss = F.cross_entropy(scores, labels)
    torch.testing.assert_close(loss, expected.loss)
    loss.backward()
    expected.loss.backward()
    gradients = {in_files(name): parameter.grad for name, parameter in theirs.named_parameters()}
    assert gradients.keys() == {name for name, _ in ours.named_parameters()}
    parity.assert_equal_gradients(dict(ours.named_parameters()), gradients)
    dropped = parity.dropout_calls(theirs, torch.nn.Dropout, lambda: theirs(images))
    assert parity.dropout_calls(ours, Dropout, lambda: ours.scores(ours(images))) == dropped == [0.11] * 7
    again = parity.assert_transformers_reads(tmp_path / "ours", ours, "ViTForImageClassification")
    torch.testing.assert_close(again(images).logits, expected.logits, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("pooler", [{}, {"pooler_act": "relu", "pooler_output_size": 6}], ids=["default", "other"])
def test_a_model_without_a_head_is_that_of_transformers(
    parity: ModuleType, tmp_path: Path, pooler: dict[str, Any]
) -> None:
    config = transformers.ViTConfig(**SHAPE, **pooler)
    ours, theirs = parity.peers(tmp_path / "theirs", "ViTModel", config)
    again = parity.assert_transformers_reads(tmp_path / "ours", ours, "ViTModel")
    with torch.no_grad():
        hidden = ours(pixels(config))
        for peer in (theirs, again):
            expected = peer(pixels(config))
            torch.testing.assert_close(hidden, expected.last_hidden_state, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(ours.pooled(hidden), expected.pooler_output, rtol=1e-5, atol=1e-5)


def test_images_of_another_size_are_refused() -> None:
    with pytest.raises(BadInput, match=r"\(3, 8, 8\)"):
        tiny()(torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("change", [{"patch_size": 5}, {"hidden_act": "swiglu"}, {"num_attention_heads": 3}])
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        ViT.from_hf({**tiny().config.to_hf(), **change})


def test_half_precision_is_near_and_leaves_the_masters_alone() -> None:
    model = tiny()
    images = pixels(model.config)
    expected = model.scores(model(images))
    model.compute_dtype = torch.bfloat16
    hidden = model(images)
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(model.scores(hidden).float(), expected, rtol=0.05, atol=0.02)


def test_dropout_of_an_image_does_not_depend_on_its_micro_batch() -> None:
    model = tiny(hidden_dropout_prob=0.3).train()
    images, keys = pixels(model.config), torch.tensor([11, 22, 33])

    def scores(rows: list[int]) -> torch.Tensor:
        set_dropout_keys(model, keys[rows])
        return model.scores(model(images[rows]))

    together = scores([0, 1, 2])
    torch.testing.assert_close(together, torch.cat([scores([row]) for row in range(3)]))
    set_dropout_keys(model, None)
    assert not torch.allclose(model.scores(model(images)), together, atol=1e-4)


def test_layers_compile_to_one_graph() -> None:
    from torch._dynamo.testing import CompileCounter

    model, counter = tiny(), CompileCounter()
    with torch.no_grad():
        expected = model(pixels(model.config))
        for block in model.blocks():
            block.compile(backend=counter, fullgraph=True)
        torch.testing.assert_close(model(pixels(model.config)), expected)
    assert counter.frame_count == 1
    torch._dynamo.reset()
