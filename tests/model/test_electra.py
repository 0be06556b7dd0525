"""ELECTRA against transformers on the same weights: generator, discriminator, and the embeddings that they share."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
import torch

from mojiang.core.errors import BadInput
from mojiang.model.electra import Electra, ElectraConfig

transformers = pytest.importorskip("transformers")

NAMES = ["ElectraForMaskedLM", "ElectraForPreTraining", "ElectraForSequenceClassification",
         "ElectraForTokenClassification", "ElectraForQuestionAnswering"]  # fmt: skip


def tiny(head: str = "embedding", width: int = 16, embedding_size: int = 8) -> Electra:
    shape = {"max_position_embeddings": 24, "embedding_size": embedding_size}
    return Electra(ElectraConfig(50, width, 3, 2, 2 * width, head=head, **shape)).init_weights(0)  # type: ignore[arg-type]


def test_defaults_are_those_of_transformers(parity: ModuleType) -> None:
    parity.assert_equal_defaults(ElectraConfig(), transformers.ElectraConfig())


@pytest.mark.parametrize("embedding_size", [8, 16])
@pytest.mark.parametrize("name", NAMES)
def test_every_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path, name: str, embedding_size: int) -> None:
    """With word vectors smaller than hidden states there is a projection between them, with as large ones none."""
    config = transformers.ElectraConfig(**parity.SHAPE, embedding_size=embedding_size)
    ours, theirs = parity.peers(tmp_path / "theirs", name, config)
    x = parity.inputs(pad=0)
    parity.assert_equal_outputs(ours, theirs, x)
    parity.assert_equal_step(ours, theirs, x)
    parity.assert_equal_dropout(ours, theirs, x)
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, name), x)
    parity.assert_packed_equals_alone(ours)


def test_a_model_without_a_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path) -> None:
    config = transformers.ElectraConfig(**parity.SHAPE, embedding_size=8)
    ours, theirs = parity.peers(tmp_path / "theirs", "ElectraModel", config)
    x = parity.inputs(pad=0)
    parity.assert_equal_outputs(ours, theirs, x)
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, "ElectraModel"), x)
    parity.assert_head_can_be_changed(tmp_path / "theirs", ours)


def test_generator_and_discriminator_can_share_their_embeddings() -> None:
    discriminator, generator = tiny("pretraining"), tiny("masked_lm", width=4)
    apart = generator.num_parameters() + discriminator.num_parameters()
    discriminator.share_embeddings(generator)
    together = {id(p): p.numel() for network in (generator, discriminator) for p in network.parameters()}
    embeddings = sum(p.numel() for p in discriminator.trunk.embeddings.parameters())
    assert sum(together.values()) == apart - embeddings
    tokens = torch.arange(10)[None]
    generator.logits(generator(tokens)).sum().backward()
    discriminator.scores(discriminator(tokens)).sum().backward()
    words = discriminator.trunk.embeddings.word_embeddings.weight
    assert generator.head.weight is words
    assert generator.trunk.embeddings.word_embeddings.weight is words
    assert words.grad is not None
    assert words.grad[20:].abs().sum() > 0  # of words that were not read: the generator's vocabulary projection


def test_networks_of_another_vocabulary_cannot_share_embeddings() -> None:
    with pytest.raises(BadInput, match="word_embeddings"):
        tiny("pretraining").share_embeddings(tiny("masked_lm", embedding_size=4))


def test_layers_compile_to_one_graph(parity: ModuleType) -> None:
    parity.assert_compiled_once(tiny())
