"""Products in 8 bits, against the values that 8 bits stand for; on a CPU PyTorch computes the same products."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from mojiang.core.errors import BadUsage
from mojiang.model._layers import Linear
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.gpt2 import GPT2, GPT2Config
from mojiang.model.lora import LoraConfig, add_adapter
from mojiang.train._float8 import Float8Linear, check_float8, matrices, obstacle, pays, quantized, use_float8
from mojiang.train._session import precision_of
from mojiang.train._settings import Compute

sys.path.insert(0, str(Path(__file__).parent))
import tiny_run

E4M3, E5M2 = torch.float8_e4m3fn, torch.float8_e5m2
CONFIG = DecoderConfig(64, 32, 2, 2, 2, 64, 16)


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("dtype", [E4M3, E5M2])
def test_numbers_become_the_nearest_that_8_bits_can_say(dtype: torch.dtype) -> None:
    every = torch.arange(256, dtype=torch.uint8).view(dtype).float()
    every = every[every.isfinite()]
    x = normal(500) * torch.logspace(-3, 2, 500)
    q, scale = quantized(x, dtype)
    distances = (x / scale)[:, None] - every[None]
    assert torch.equal((q.float() - x / scale).abs(), distances.abs().amin(1))
    assert float(q.float().abs().max()) == torch.finfo(dtype).max  # the whole range is used


def test_what_is_not_finite_is_not_hidden() -> None:
    for bad in (float("nan"), float("inf")):
        q, scale = quantized(torch.tensor([1.0, bad]), E4M3)
        assert not (q.float() * scale).isfinite().all()
    q, scale = quantized(torch.zeros(3), E4M3)
    assert torch.equal(q.float() * scale, torch.zeros(3))


def meant(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    q, scale = quantized(x, dtype)
    return q.double() * scale.double()


@pytest.mark.parametrize("rows", [(32,), (3, 7)])
@pytest.mark.parametrize("bias", [False, True])
def test_the_three_products_are_those_of_the_rounded_numbers(rows: tuple[int, ...], bias: bool) -> None:
    layer = Float8Linear(48, 64, bias)
    with torch.no_grad():
        layer.weight.copy_(normal(64, 48, seed=1))
    x, gradient = normal(*rows, 48).requires_grad_(), normal(*rows, 64, seed=2)
    y = layer(x)
    y.backward(gradient)
    x8, weight8 = meant(x.detach().flatten(0, -2), E4M3), meant(layer.weight.detach(), E4M3)
    gradient8 = meant(gradient.flatten(0, -2), E5M2)
    shift = layer.bias.detach().double() if bias else 0.0
    assert y.shape == (*rows, 64)
    assert torch.allclose(y.detach().flatten(0, -2).double(), x8 @ weight8.T + shift, atol=1e-3, rtol=1e-4)
    assert x.grad is not None
    assert layer.weight.grad is not None
    assert torch.allclose(x.grad.flatten(0, -2).double(), gradient8 @ weight8, atol=1e-3, rtol=1e-4)
    assert torch.allclose(layer.weight.grad.double(), gradient8.T @ x8, atol=1e-3, rtol=1e-4)
    if bias:
        assert torch.allclose(layer.bias.grad, gradient.flatten(0, -2).sum(0), atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_they_are_near_those_of_the_exact_numbers(dtype: torch.dtype) -> None:
    layer, plain = Float8Linear(128, 96), Linear(128, 96)
    plain.load_state_dict(layer.state_dict())
    found = []
    for one in (layer, plain):
        x = normal(64, 128).to(dtype).requires_grad_()
        y = one(x)
        y.backward(normal(64, 96, seed=2).to(dtype))
        assert y.dtype == dtype
        assert one.weight.grad.dtype == torch.float32
        found.append((y.detach().float(), x.grad.float(), one.weight.grad))  # type: ignore[union-attr]
    # 3 bits of mantissa err by 2^-4 at most and 2.6 % in the mean, 2 bits by twice that; two factors add in squares.
    for (short, exact), most in zip(zip(*found, strict=True), (0.045, 0.07, 0.07), strict=True):
        assert 0.01 < (short - exact).norm() / exact.norm() < most


def test_measured_it_is_an_ordinary_projection() -> None:
    layer = Float8Linear(32, 32).eval()
    x = normal(5, 32)
    assert torch.equal(layer(x), F.linear(x, layer.weight))


def test_the_matrices_inside_the_blocks_are_exchanged_and_nothing_else() -> None:
    model = Decoder(replace(CONFIG, intermediate_size=72)).init_weights(0)
    before = dict(model.state_dict())
    use_float8(model)
    swapped = {name for name, module in model.named_modules() if isinstance(module, Float8Linear)}
    # 72 is no multiple of 16
    assert swapped == {f"model.layers.{n}.self_attn.{p}_proj" for n in range(2) for p in "qkvo"}
    assert all(model.state_dict()[name].data_ptr() == tensor.data_ptr() for name, tensor in before.items())


def test_a_model_learns_as_with_bf16(tmp_path: Path) -> None:
    losses = {}
    for precision in ("bf16", "fp8"):
        settings = replace(tiny_run.SETTINGS, precision=precision, num_steps=60)
        training, result = tiny_run.train(tmp_path / precision, settings)
        assert isinstance(training.model.blocks()[0].mlp.up_proj, Float8Linear) == (precision == "fp8")  # type: ignore[union-attr]
        losses[precision] = result.validation["bits_per_byte"], training.run.points[0]["loss"], result.loss  # type: ignore[attr-defined]
    assert losses["bf16"][2] < 0.5 * losses["bf16"][1]
    assert losses["fp8"][0] == pytest.approx(losses["bf16"][0], rel=0.1)
    assert losses["fp8"][0] != losses["bf16"][0]


@pytest.mark.parametrize("kind", ["full", "selective"])
def test_recomputed_activations_give_the_same_gradient(kind: str, tmp_path: Path) -> None:
    found = []
    for checkpointing in ("none", kind):
        settings = replace(tiny_run.SETTINGS, precision="fp8", checkpointing=checkpointing)
        training = tiny_run.begin(tmp_path, settings)
        rows = tiny_run.rows(tmp_path).rows(range(3))
        training._accumulate(rows, range(3), training.objective.counts(rows))
        found.append(torch.cat([p.grad.flatten() for p in training.model.parameters() if p.grad is not None]))
    assert torch.equal(found[0], found[1])


class OnDevice:
    """The part of a Run that says where it is."""

    def __init__(self, device: str, scratch: Path) -> None:
        self.device, self.scratch = device, scratch


def test_it_is_refused_where_the_hardware_cannot(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    run: Any = OnDevice("cpu", tmp_path)
    with pytest.raises(BadUsage, match="capability 8.9 or more, and this is cpu") as refused:
        precision_of(run, Compute(precision="fp8"))
    assert "--precision bf16" in refused.value.hint
    assert precision_of(run, Compute(precision="auto")) in ("fp32", "bf16")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (8, 6))
    with pytest.raises(BadUsage, match=r"this one has 8\.6"):
        check_float8("cuda")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (9, 0))
    model = Decoder(CONFIG)
    assert obstacle("cuda", model) is None
    assert precision_of(OnDevice("cuda", tmp_path), Compute(precision="fp8")) == "fp8"  # type: ignore[arg-type]
    with pytest.raises(BadUsage, match="--parallel tensor cuts the matrices"):
        check_float8("cuda", model, "tensor")
    with pytest.raises(BadUsage, match="GPT2 has no projections"):
        check_float8("cuda", GPT2(GPT2Config(64, 16, 32, 2, 4)))
    add_adapter(model, LoraConfig(16), 0)
    with pytest.raises(BadUsage, match="an adapter's matrices are too narrow"):
        check_float8("cuda", model)


def test_it_pays_when_all_matrices_together_are_faster() -> None:
    model = Decoder(CONFIG)
    asked = []

    def seconds(rows: int, inputs: int, outputs: int, float8: bool) -> float:
        asked.append((rows, inputs, outputs, float8))
        if float8:  # only the matrices of the feed-forward gain
            return 1.0 if 64 in (inputs, outputs) else slower
        return 2.0

    slower = 2.0  # in each block 4 matrices (32, 32), 3 of (32, 64) and (64, 32): 14 beside 4 · 2 + 3
    assert pays(model, 100, seconds)
    slower = 2.5  # 14 beside 13: less than a tenth is gained
    assert not pays(model, 100, seconds)
    assert {shape[:3] for shape in asked} == {(112, 32, 32), (112, 32, 64), (112, 64, 32)}
    assert len(matrices(model)) == 14


@pytest.mark.gpu
@pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 9),
    reason="there is no CUDA device that multiplies 8-bit floats",
)
def test_a_gpu_gives_the_products_of_a_processor(tmp_path: Path) -> None:
    layers = [Float8Linear(256, 128), Float8Linear(256, 128).to("cuda")]
    layers[1].load_state_dict(layers[0].state_dict())
    found = []
    for layer, device in zip(layers, ("cpu", "cuda"), strict=True):
        x = normal(100, 256).to(device, torch.bfloat16).requires_grad_()
        y = layer(x)
        y.backward(normal(100, 128, seed=2).to(device, torch.bfloat16))
        assert x.grad is not None
        assert layer.weight.grad is not None
        found.append([tensor.detach().float().cpu() for tensor in (y, x.grad, layer.weight.grad)])
    for here, there in zip(*found, strict=True):
        assert (there - here).norm() <= 0.01 * here.norm()
    model = Decoder(CONFIG).to("cuda")
    assert obstacle("cuda", model) is None
    assert isinstance(pays(model, 512), bool)
