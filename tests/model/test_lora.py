from __future__ import annotations

from pathlib import Path

import pytest
import torch
from peft import LoraConfig as PeftConfig
from peft import PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

from mojiang.core.errors import BadInput, NotFound
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.load import load_model, save_model
from mojiang.model.lora import (
    LoraConfig,
    adapted,
    adapter_off,
    add_adapter,
    load_adapter,
    merge_adapter,
    save_adapter,
    use_adapter,
)

# peft 0.21 asks transformers 5.23 by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")

CONFIG = DecoderConfig(64, 32, 2, 4, 2, 48, 8, model_type="llama")
TOKENS = torch.arange(12)[None] * 5 % 64
KINDS = {"lora": {}, "rslora": {"use_rslora": True}, "dora": {"use_dora": True}}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A base model with weights that are not zero anywhere."""
    model = Decoder(CONFIG).init_weights(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.05)
    save_model(model, None, tmp_path / "base")
    return tmp_path / "base"


def logits(model: Decoder) -> torch.Tensor:
    return model.logits(model(TOKENS)).detach()


def trained(folder: Path, config: LoraConfig, name: str = "default", seed: int = 0) -> Decoder:
    """The base with an adapter whose weights are as after some training."""
    model = load_model(folder)
    add_adapter(model, config, seed, name)
    with torch.no_grad():
        generator = torch.Generator().manual_seed(seed)
        for layer in adapted(model).values():
            adapter = layer.adapters[name]
            adapter.lora_B.weight.normal_(0, 0.1, generator=generator)
            if adapter.lora_magnitude_vector is not None:
                adapter.lora_magnitude_vector.mul_(1.1)
    return model


@pytest.mark.parametrize("kind", KINDS)
def test_peft_reads_our_adapter_and_computes_the_same(folder: Path, tmp_path: Path, kind: str) -> None:
    config = LoraConfig(4, 12.0, ("q_proj", "v_proj", "down_proj"), **KINDS[kind])
    ours = trained(folder, config)
    save_adapter(ours, config, tmp_path / "adapter", str(folder))
    theirs = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder), tmp_path / "adapter").eval()
    with torch.no_grad():
        assert torch.allclose(theirs(TOKENS).logits, logits(ours), atol=1e-5)
        assert not torch.allclose(logits(load_model(folder)), logits(ours), atol=1e-2)


@pytest.mark.parametrize("kind", KINDS)
def test_we_read_pefts_adapter_and_its_gradients_are_ours(folder: Path, tmp_path: Path, kind: str) -> None:
    settings = PeftConfig(r=4, lora_alpha=8, target_modules=["k_proj", "up_proj"], task_type="CAUSAL_LM", **KINDS[kind])
    theirs = get_peft_model(AutoModelForCausalLM.from_pretrained(folder), settings)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.1)
    theirs.save_pretrained(tmp_path / "adapter")
    ours = load_model(folder)
    load_adapter(ours, tmp_path / "adapter")
    theirs(TOKENS, labels=TOKENS).loss.backward()
    scores = ours.logits(ours(TOKENS))
    torch.nn.functional.cross_entropy(scores[0, :-1], TOKENS[0, 1:]).backward()
    expected = {n: p.grad for n, p in theirs.named_parameters() if p.requires_grad}
    found = {n: p.grad for n, p in ours.named_parameters() if p.requires_grad}
    assert len(expected) == len(found) == 8 + (4 if kind == "dora" else 0)
    for name, gradient in found.items():
        assert gradient is not None
        path, _, leaf = name.partition(".adapters.default.")
        their = next(g for n, g in expected.items() if n.startswith(f"base_model.model.{path}.{leaf.split('.')[0]}"))
        assert torch.allclose(gradient, their, rtol=1e-4, atol=1e-6), name


@pytest.mark.parametrize("kind", KINDS)
def test_merged_is_applied_and_an_ordinary_model(folder: Path, kind: str) -> None:
    model = trained(folder, LoraConfig(4, 12.0, **KINDS[kind]))
    applied = logits(model)
    merged = merge_adapter(model)
    assert torch.allclose(logits(merged), applied, atol=1e-5)
    assert set(merged.state_dict()) == set(load_model(folder).state_dict())


def test_a_fresh_adapter_changes_nothing_and_only_it_is_trained(folder: Path) -> None:
    model = load_model(folder)
    before = logits(model)
    names = add_adapter(model, LoraConfig(4, use_dora=True))
    assert len(names) == 2 * 7, "every projection of every block"
    assert torch.allclose(logits(model), before, atol=1e-6)
    assert all(".adapters." in name for name, p in model.named_parameters() if p.requires_grad)


def test_several_adapters_on_one_base(folder: Path, tmp_path: Path) -> None:
    config = LoraConfig(4, targets=("q_proj",))
    expected = {}
    for seed, name in enumerate(("french", "law")):
        alone = trained(folder, config, name, seed + 1)
        expected[name] = logits(alone)
        save_adapter(alone, config, tmp_path / name, str(folder), name)
    model = load_model(folder)
    base = logits(model)
    for name in expected:
        load_adapter(model, tmp_path / name, name)
    for name, values in expected.items():
        use_adapter(model, name)
        assert torch.allclose(logits(model), values, atol=1e-6)
        with adapter_off(model):
            assert torch.allclose(logits(model), base, atol=1e-6)
    with pytest.raises(NotFound, match="no adapter 'cooking'"):
        use_adapter(model, "cooking")


def test_what_does_not_fit_is_refused_by_name(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no projection called q_prj") as caught:
        add_adapter(load_model(folder), LoraConfig(4, targets=("q_prj",)))
    assert "q_proj" in caught.value.hint
    config = LoraConfig(4)
    save_adapter(trained(folder, config), config, tmp_path / "adapter", "base")
    other = Decoder(DecoderConfig(64, 32, 1, 4, 2, 48, 8)).init_weights(0)
    with pytest.raises(BadInput, match=r"layers\.1\.mlp"):
        load_adapter(other, tmp_path / "adapter")
    with pytest.raises(NotFound, match="holds no adapter"):
        load_adapter(other, folder)
