"""New models: `transformers` reads every one; continued ones keep their weights, and what does not fit is refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from mojiang.core.errors import BadInput
from mojiang.model.load import save_model
from mojiang.train._families import DECODERS, ENCODERS, SEQ2SEQ, TRAINS, check_family, load_for, new_model
from mojiang.train._plan import Shape

sys.path.insert(0, str(Path(__file__).parent))
import toy_texts

PAIRS = [(objective, family) for objective, (_, families) in TRAINS.items() for family in families]


@pytest.mark.parametrize(("objective", "family"), PAIRS)
def test_a_new_model_is_one_that_transformers_reads(objective: str, family: str, tmp_path: Path) -> None:
    words = toy_texts.tokenizer()
    model: Any = new_model(family, objective, Shape(64, 2), words.vocab_size, 48, words).init_weights(0)
    if objective == "replaced_token":
        model = model.discriminator
    assert len(model.blocks()) == {"albert": 1}.get(family, 4 if family in SEQ2SEQ else 2)
    save_model(model, None, tmp_path)
    name = model.config.architecture
    theirs, report = getattr(transformers, name).from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report.values()), report
    assert theirs.config.model_type == family
    assert theirs.num_parameters() == sum(parameter.numel() for parameter in model.parameters())
    tokens = torch.randint(15, words.vocab_size, (2, 48), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        if family in SEQ2SEQ:
            ours, expected = model.logits(model(tokens, tokens)), theirs(tokens, decoder_input_ids=tokens).logits
        else:
            hidden = model(tokens)
            electra = objective == "replaced_token"
            ours, expected = model.scores(hidden) if electra else model.logits(hidden), theirs.eval()(tokens)[0]
    torch.testing.assert_close(ours, expected, rtol=1e-4, atol=1e-4)


def test_a_mixture_computes_as_much_per_token_as_the_dense_model() -> None:
    words = toy_texts.tokenizer()
    dense, sparse = (
        new_model(family, "causal", Shape(64, 2), words.vocab_size, 48, words) for family in ("qwen3", "qwen3_moe")
    )
    used = sparse.config.num_experts_per_tok * sparse.config.moe_intermediate_size
    assert used == dense.config.intermediate_size
    assert sparse.num_parameters() > 2 * dense.num_parameters()


def test_every_pair_that_is_not_listed_is_refused_with_what_to_take() -> None:
    for objective in TRAINS:
        for family in (*DECODERS, *ENCODERS, *SEQ2SEQ, "vit"):
            if (objective, family) in PAIRS:
                check_family(objective, family)
                continue
            with pytest.raises(BadInput, match=f"{objective} trains .*, not {family}") as caught:
                check_family(objective, family)
            others = [other for other, known in PAIRS if known == family]
            assert all(other in caught.value.hint for other in others)


def saved(objective: str, family: str, folder: Path, context: int = 48) -> Any:
    words = toy_texts.tokenizer()
    model: Any = new_model(family, objective, Shape(64, 2), words.vocab_size, context, words).init_weights(3)
    save_model(getattr(model, "discriminator", model), None, folder)
    return model


def test_a_model_is_continued_with_the_head_of_the_objective(tmp_path: Path) -> None:
    model = saved("masked_nsp", "bert", tmp_path)
    for objective in ("masked", "masked_nsp", "masked_sop"):
        loaded = load_for(objective, tmp_path, toy_texts.tokenizer(), 48, print)
        assert loaded.config.head == TRAINS[objective][0]
        own = model.state_dict()
        assert all(torch.equal(tensor, own[name]) for name, tensor in loaded.state_dict().items())


def test_electra_is_continued_with_its_generator_or_gets_a_new_one(tmp_path: Path) -> None:
    both = saved("replaced_token", "electra", tmp_path)
    said: list[str] = []
    alone: Any = load_for("replaced_token", tmp_path, toy_texts.tokenizer(), 48, said.append)
    assert "without its generator" in said[0]
    assert alone.generator.config.num_hidden_layers == 2
    save_model(both.generator, None, tmp_path / "generator")
    again: Any = load_for("replaced_token", tmp_path, toy_texts.tokenizer(), 48, said.append)
    assert len(said) == 1
    expected, found = both.state_dict(), again.state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)


def test_the_generator_is_a_quarter_as_wide() -> None:
    words = toy_texts.tokenizer()
    model: Any = new_model("electra", "replaced_token", Shape(512, 2), words.vocab_size, 48, words)
    config = model.generator.config
    assert (config.hidden_size, config.num_attention_heads, config.intermediate_size) == (128, 2, 512)
    assert config.embedding_size == model.discriminator.config.embedding_size == 512


@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "bart"])
def test_a_context_beyond_a_models_positions_is_refused(family: str, tmp_path: Path) -> None:
    objective = {"gpt2": "causal", "bart": "denoising"}.get(family, "masked")
    saved(objective, family, tmp_path)
    load_for(objective, tmp_path, toy_texts.tokenizer(), 48, print)
    with pytest.raises(BadInput, match="context is 49, and the model has 48 positions") as caught:
        load_for(objective, tmp_path, toy_texts.tokenizer(), 49, print)
    assert caught.value.hint == "give context=48"


def test_a_tokenizer_with_more_ids_than_the_model_has_embeddings_is_refused(tmp_path: Path) -> None:
    saved("masked", "bert", tmp_path)
    with pytest.raises(BadInput, match="the model embeds 64"):
        load_for("masked", tmp_path, toy_texts.tokenizer(sentinels=60), 48, print)
