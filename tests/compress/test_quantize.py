"""The int8 folder as other tools load it, and the parity report recomputed."""

import json
import warnings
from typing import Any, ClassVar, Literal

import pytest
import torch
from safetensors.torch import load_file

from mojiang.compress.quantize import Quantize
from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.recipe import Metrics, Recipe
from mojiang.core.report import Report
from mojiang.core.run import Run
from mojiang.model.architectures import build
from mojiang.model.decoder import Decoder
from mojiang.model.int8 import Int8Linear
from mojiang.model.load import load_model, save_model

SMALL = {"parity_bytes": 4000, "prompts": 3, "tokens": 8, "precision": "float32"}


@pytest.fixture(scope="module")
def quantized(world: Any) -> Artifact:
    return Quantize(model=world.model.ref, data=world.data.ref, **SMALL).execute(world.store, device="cpu")


def _logits(model: Decoder, tokens: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.logits(model(tokens))


def test_transformers_loads_it_and_logits_agree(quantized: Artifact) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("compressed_tensors")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # about itself; what is loaded is checked below
        peer = transformers.AutoModelForCausalLM.from_pretrained(quantized.path, dtype=torch.float32).eval()
        tokenizer = transformers.AutoTokenizer.from_pretrained(quantized.path)
    tokens = torch.tensor([tokenizer("def area(self):\n    return 墨匠\n")["input_ids"]])
    with torch.no_grad():
        theirs = peer(tokens).logits
    ours = _logits(load_model(quantized.path), tokens)
    assert (ours - theirs).abs().max() < 1e-4
    stored = load_file(quantized.path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight"
    assert torch.equal(peer.state_dict()[name], stored[name].float() * stored[f"{name}_scale"])


def test_what_is_stored(world: Any, quantized: Artifact) -> None:
    before = load_file(world.model.path / "model.safetensors")
    after = load_file(quantized.path / "model.safetensors")
    for name, tensor in before.items():
        if name.endswith("_proj.weight"):
            stored = after[name].float() * after[f"{name}_scale"]
            assert after[name].dtype == torch.int8
            assert ((stored - tensor).abs() <= 0.5001 * after[f"{name}_scale"]).all()
        elif "embed" in name:
            assert torch.equal(after[name], tensor.bfloat16())
        else:
            assert torch.equal(after[name], tensor)
    config = json.loads((quantized.path / "config.json").read_text())
    assert config["quantization_config"]["format"] == "int-quantized"
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (quantized.path / name).read_bytes() == (world.model.path / name).read_bytes()


def test_loads_as_int8_layers_that_stay_close(world: Any, quantized: Artifact) -> None:
    before, after = load_model(world.model.path), load_model(quantized.path)
    layers = [m for m in after.modules() if isinstance(m, Int8Linear)]
    assert len(layers) == 14
    tokens = torch.arange(60)[None]
    difference = (_logits(before, tokens) - _logits(after, tokens)).abs().max()
    assert 0 < difference < 0.25


def test_the_report_agrees_with_the_files_and_with_the_heldout_recipe(world: Any, quantized: Artifact) -> None:
    from mojiang.evaluate.heldout import Baselines, HeldOut

    metrics = quantized.metrics
    files = [(a.path / "model.safetensors").stat().st_size for a in (world.model, quantized)]
    assert (metrics["weight_bytes_before"], metrics["weight_bytes"]) == tuple(files)
    assert metrics["bits_per_byte"] == pytest.approx(
        metrics["bits_per_byte_before"] * (1 + metrics["bits_per_byte_increase"])
    )
    assert abs(metrics["bits_per_byte_increase"]) < 0.005
    common = {"data": world.data.ref, "max_bytes": 4000, "precision": "float32", "samples": 0}
    for artifact, name in ((world.model, "bits_per_byte_before"), (quantized, "bits_per_byte")):
        recipe = HeldOut(model=artifact.ref, baselines=Baselines(ngram_order=0), **common)
        assert recipe.execute(world.store, device="cpu").metrics["bits_per_byte"] == pytest.approx(metrics[name])
    report = Report.load(quantized.path)
    assert report.scalars["top1_agreement"] > 0.9
    assert 0 <= report.scalars["greedy_agreement"] <= 1
    assert 0 <= report.scalars["mean_kl_nats"] < 0.01


def test_tables_can_stay_float32(world: Any) -> None:
    recipe = Quantize(model=world.model.ref, data=world.data.ref, embeddings="float32", **SMALL)
    stored = load_file(recipe.execute(world.store, device="cpu").path / "model.safetensors")
    original = load_file(world.model.path / "model.safetensors")
    assert torch.equal(stored["model.embed_tokens.weight"], original["model.embed_tokens.weight"])


def test_an_untied_head_stays_float_and_loads_in_transformers(untied_world: Any) -> None:
    transformers = pytest.importorskip("transformers")
    recipe = Quantize(model=untied_world.model.ref, data=untied_world.data.ref, **SMALL)
    folder = recipe.execute(untied_world.store, device="cpu").path
    assert load_file(folder / "model.safetensors")["lm_head.weight"].dtype == torch.bfloat16
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    tokens = torch.arange(20)[None]
    with torch.no_grad():
        assert (peer(tokens).logits - _logits(load_model(folder), tokens)).abs().max() < 1e-4


class MakeModel(Recipe):
    """A model of one of the architectures, with arbitrary weights."""

    recipe: ClassVar[str] = "train.pretrain"
    makes: ClassVar[Literal["model"]] = "model"
    model_type: str

    def run(self, run: Run) -> Metrics:
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_experts": 2, "n_embd": 12}
        config = {"model_type": self.model_type, "vocab_size": 40, "intermediate_size": 16, **sizes}
        save_model(build(config).init_weights(0), None, run.out)
        return {}


@pytest.mark.parametrize(
    ("model_type", "reason"), [("qwen3_moe", "mixture"), ("gpt2", "no linear"), ("bert", "masked_lm")]
)
def test_what_cannot_be_quantised_is_refused(world: Any, model_type: str, reason: str) -> None:
    model = MakeModel(model_type=model_type).execute(world.store, device="cpu")
    with pytest.raises(BadInput, match=reason):
        Quantize(model=model.ref, data=world.data.ref, **SMALL).execute(world.store, device="cpu")
