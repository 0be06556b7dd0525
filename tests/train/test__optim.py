from __future__ import annotations

import io
from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.gpt2 import Conv1D
from mojiang.train._adam8bit import AdamW8bit, dequantize, dynamic_values, quantize
from mojiang.train._optim import Lamb, Muon, build_optimizers, orthogonalize, sort_parameters
from mojiang.train._settings import Optim

KINDS = ("muon", "adamw", "adamw8bit", "sgd", "rmsprop", "lamb")


def test_muon_equals_torch_optim_muon() -> None:
    torch.manual_seed(0)
    shapes = [(8, 16), (16, 8), (8, 16), (12, 12)]
    ours = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    theirs = [torch.nn.Parameter(p.detach().clone()) for p in ours]
    a = Muon(ours, lr=0.1, weight_decay=0.1, dtype=torch.float32)
    b = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1, momentum=0.95, nesterov=True, adjust_lr_fn="original")
    for _ in range(5):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape)
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q in zip(ours, theirs, strict=True):
        # torch's own iterates in bf16, so equality is up to bf16's precision of an update of size lr per step
        assert (p - q).abs().max() < 0.01


def test_orthogonalized_matrices_have_singular_values_near_one() -> None:
    for shape in ((4, 32, 64), (2, 64, 32), (1, 48, 48)):
        matrices = torch.randn(shape, generator=torch.Generator().manual_seed(1))
        u, _, v = torch.linalg.svd(matrices, full_matrices=False)
        found = orthogonalize(matrices, dtype=torch.float32)
        values = torch.linalg.svdvals(found)
        assert values[:, : int(0.9 * values.shape[1])].min() > 0.5
        assert values.max() < 1.3
        assert torch.nn.functional.cosine_similarity(found.flatten(), (u @ v).flatten(), dim=0) > 0.95


def test_a_stack_is_iterated_like_each_matrix_alone() -> None:
    matrices = torch.randn(3, 16, 24, generator=torch.Generator().manual_seed(2))
    together = orthogonalize(matrices, dtype=torch.float32)
    alone = torch.cat([orthogonalize(m[None], dtype=torch.float32) for m in matrices])
    assert torch.allclose(together, alone, atol=1e-5)


def test_convolutions_transposed_weights_and_experts_are_matrices_to_muon() -> None:
    torch.manual_seed(0)
    kernel, stored, experts = torch.randn(6, 4, 3, 3), torch.randn(8, 24), torch.randn(3, 16, 4)
    gradients = [torch.randn_like(t) for t in (kernel, stored, experts)]

    def stepped(weight: Tensor, gradient: Tensor, **form: bool) -> Tensor:
        parameter = nn.Parameter(weight.clone())
        parameter.grad = gradient.clone()
        Muon([{"params": [parameter], **form}], lr=0.1, dtype=torch.float32).step()
        return parameter.detach()

    assert torch.allclose(
        stepped(kernel, gradients[0], kernels=True),
        stepped(kernel.flatten(1), gradients[0].flatten(1)).view_as(kernel),
        atol=1e-5,
    )
    # (inputs, outputs): the update must be that of the same layer stored as (outputs, inputs), with its scale
    assert torch.allclose(
        stepped(stored, gradients[1], transposed=True), stepped(stored.T, gradients[1].T).T, atol=1e-5
    )
    alone = torch.stack([stepped(w, g) for w, g in zip(experts, gradients[2], strict=True)])
    assert torch.allclose(stepped(experts, gradients[2]), alone, atol=1e-5)


def test_large_stacks_are_taken_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    results = []
    for most in (2**26, 3 * 32):
        monkeypatch.setattr("mojiang.train._optim.STACK_NUMBERS", most)
        generator = torch.Generator().manual_seed(0)
        parameters = [nn.Parameter(torch.randn(4, 8, generator=generator)) for _ in range(7)]
        for p in parameters:
            p.grad = torch.randn(4, 8, generator=generator)
        Muon(parameters, lr=0.1, dtype=torch.float32).step()
        results.append(torch.stack([p.detach() for p in parameters]))
    assert torch.allclose(*results, atol=1e-6)


class Odd(nn.Module):
    """One parameter of every sort."""

    prefix = "body"

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.ModuleDict(
            {
                "words": nn.Embedding(10, 8), "patches": nn.Conv2d(1, 8, 2), "first": nn.Linear(8, 8),
                "second": Conv1D(8, 16), "norm": nn.LayerNorm(8), "gate": nn.Linear(8, 4, bias=False),
            }
        )  # fmt: skip
        self.positions = nn.Parameter(torch.zeros(1, 5, 8))
        self.classifier = nn.Linear(8, 3)
        self.no_muon = ("body.gate",)
        self.body["first"].bias.requires_grad_(False)

    def head_names(self) -> set[str]:
        return {name for name in self.state_dict() if not name.startswith("body.")}


def test_parameters_are_sorted_by_what_they_are() -> None:
    model = Odd()
    names = {id(p): name for name, p in model.named_parameters()}
    found = {kind: [names[id(p)] for p in parameters] for kind, parameters in sort_parameters(model).items()}
    assert found == {
        "embeddings": ["positions", "body.words.weight"],
        "vectors": ["body.patches.bias", "body.second.bias", "body.norm.weight", "body.norm.bias", "classifier.bias"],
        "heads": ["body.gate.weight", "classifier.weight"],
        "matrices": ["body.first.weight"],
        "kernels": ["body.patches.weight"],
        "transposed": ["body.second.weight"],
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("tied", [True, False])
def test_every_parameter_has_exactly_one_optimizer(kind: str, tied: bool) -> None:
    model = Decoder(DecoderConfig(64, 32, 2, 4, 2, 64, 8, tie_word_embeddings=tied)).init_weights(0)
    optim = Optim(optimizer=kind, learning_rate=0.02, embedding_learning_rate=0.001, weight_decay=0.1)  # type: ignore[arg-type]
    optimizers = build_optimizers(model, optim)
    groups = [group for optimizer in optimizers for group in optimizer.param_groups]
    assert sorted(id(p) for group in groups for p in group["params"]) == sorted(id(p) for p in model.parameters())
    for group in groups:
        decay = group.get("decay", group["weight_decay"])
        of_blocks = {id(p) for p in model.model.layers.parameters() if p.dim() > 1}
        inside = {id(p) in of_blocks for p in group["params"]}
        assert inside in ({True}, {False})
        assert (decay, group["peak_lr"]) == ((0.1, 0.02) if inside == {True} else (0.0, 0.001))


def test_without_a_rate_of_their_own_embeddings_share_the_matrices() -> None:
    model = Decoder(DecoderConfig(64, 32, 1, 4, 2, 64, 8)).init_weights(0)
    rates = {
        kind: [
            g["peak_lr"]
            for o in build_optimizers(model, Optim(optimizer=kind, learning_rate=0.02))
            for g in o.param_groups
        ]  # type: ignore[arg-type]
        for kind in ("adamw", "muon")
    }
    assert set(rates["adamw"]) == {0.02}
    assert sorted(set(rates["muon"])) == pytest.approx([0.0012, 0.02])


def gradients(shapes: list[tuple[int, ...]], steps: int) -> Iterator[list[Tensor]]:
    generator = torch.Generator().manual_seed(11)
    for _ in range(steps):
        yield [torch.randn(shape, generator=generator) for shape in shapes]


@pytest.mark.parametrize("kind", ["adamw", "sgd", "rmsprop"])
def test_steps_are_those_of_pytorch_with_decoupled_decay(kind: str) -> None:
    torch.manual_seed(0)
    ours = nn.Sequential(nn.Linear(6, 5), nn.Linear(5, 4))
    theirs = [p.detach().clone().requires_grad_() for p in ours.parameters()]
    optim = Optim(optimizer=kind, learning_rate=0.1, weight_decay=0.2, momentum=0.8, beta2=0.9)  # type: ignore[arg-type]
    (optimizer,) = build_optimizers(ours, optim)
    reference: torch.optim.Optimizer = {
        "adamw": lambda: torch.optim.AdamW(theirs, lr=0.1, betas=(0.8, 0.9), eps=1e-10, weight_decay=0.0),
        "sgd": lambda: torch.optim.SGD(theirs, lr=0.1, momentum=0.8, nesterov=True),
        "rmsprop": lambda: torch.optim.RMSprop(theirs, lr=0.1, alpha=0.9, momentum=0.8),
    }[kind]()
    for step in gradients([tuple(p.shape) for p in theirs], 5):
        for mine, other, gradient in zip(ours.parameters(), theirs, step, strict=True):
            mine.grad, other.grad = gradient.clone(), gradient.clone()
            if other.dim() > 1:
                other.data.mul_(1 - 0.1 * 0.2)
        optimizer.step()
        reference.step()
        for mine, other in zip(ours.parameters(), theirs, strict=True):
            assert torch.allclose(mine, other, atol=1e-6)


def test_lamb_follows_its_formula() -> None:
    shapes = [(4, 3), (3,), (2, 2)]
    parameters = [nn.Parameter(torch.randn(shape)) for shape in shapes]
    weights = [p.detach().double() for p in parameters]
    first, second = ([torch.zeros_like(w) for w in weights] for _ in range(2))
    optimizer = Lamb(parameters, lr=0.05, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1)
    for t, step in enumerate(gradients(shapes, 6), 1):
        for p, gradient in zip(parameters, step, strict=True):
            p.grad = gradient
        optimizer.step()
        for n, gradient in enumerate(step):
            first[n] = 0.9 * first[n] + 0.1 * gradient
            second[n] = 0.99 * second[n] + 0.01 * gradient**2
            r = first[n] / (1 - 0.9**t) / ((second[n] / (1 - 0.99**t)).sqrt() + 1e-6) + 0.1 * weights[n]
            trust = weights[n].norm() / r.norm() if weights[n].dim() > 1 else 1.0
            weights[n] = weights[n] - 0.05 * trust * r
    for p, w in zip(parameters, weights, strict=True):
        assert torch.allclose(p.double(), w, atol=1e-5)


def test_a_step_of_lamb_is_as_long_as_the_rate_times_the_matrix() -> None:
    weight = nn.Parameter(torch.randn(20, 30))
    zero = nn.Parameter(torch.zeros(20, 30))  # has no length to go by: takes Adam's step, rather than none
    before = weight.detach().clone()
    weight.grad = zero.grad = torch.randn(20, 30) * 1e-3
    Lamb([weight, zero], lr=0.01).step()
    assert (weight - before).norm().item() == pytest.approx(0.01 * before.norm().item(), rel=1e-4)
    assert zero.abs().max().item() == pytest.approx(0.01, rel=1e-2)


def test_the_values_of_a_byte_are_those_of_the_dynamic_tree() -> None:
    """Dettmers et al. 2022: the top decade has 64 (unsigned: 128) values, each decade below half as many."""
    for signed, in_decade in ((True, 64), (False, 128)):
        values = dynamic_values(signed)
        assert len(values) == len(values.unique()) == 256
        for decade in range(6):
            inside = (values > 10.0 ** (-decade - 1)) & (values < 10.0**-decade)
            assert int(inside.sum()) == in_decade // 2**decade
    assert dynamic_values(True).flip(0)[1:4].tolist() == pytest.approx([0.99296875, 0.97890625, 0.96484375])


@pytest.mark.parametrize("signed", [True, False])
def test_bytes_stand_for_nearly_the_nearest_value(signed: bool) -> None:
    x = torch.randn(1000, generator=torch.Generator().manual_seed(0)) ** 3
    x = x if signed else x.abs()
    codes, scales = quantize(x, signed)
    assert codes.dtype == torch.uint8
    found = dequantize(codes, scales, x.shape, signed)
    shares = torch.nn.functional.pad(x, (0, 24)).view(4, 256) / scales[:, None]
    nearest = dynamic_values(signed)[(shares[..., None] - dynamic_values(signed)).abs().argmin(-1)] * scales[:, None]
    best = (nearest.flatten()[:1000] - x).abs()
    assert bool(((found - x).abs() <= best + 2**-7 * x.abs() + 1e-9).all())  # rounding to bf16 first may cost 2⁻⁸ twice


def test_eight_bit_moments_find_the_same_solution_in_a_quarter_of_the_memory() -> None:
    generator = torch.Generator().manual_seed(0)
    truth, inputs = torch.randn(64, 96, generator=generator), torch.randn(1000, 96, generator=generator)
    found: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for name, make in (("8", AdamW8bit), ("32", torch.optim.AdamW)):
        weight = nn.Parameter(torch.zeros(64, 96))
        optimizer = make([weight], lr=0.2, betas=(0.9, 0.99), weight_decay=0.0)
        for step in range(200):
            optimizer.param_groups[0]["lr"] = 0.2 * (1 - step / 200)
            weight.grad = (inputs @ (weight.detach() - truth).T).T @ inputs / 1000
            optimizer.step()
        found[name] = weight.detach()
        state = optimizer.state[weight]
        parts = [*state["first"], *state["second"]] if name == "8" else [state["exp_avg"], state["exp_avg_sq"]]
        sizes[name] = sum(part.nbytes for part in parts)
    assert (found["32"] - truth).abs().max() < 0.02
    assert (found["8"] - truth).abs().max() < 0.02
    assert sizes["8"] == sizes["32"] // 4 + 2 * 4 * 64 * 96 // 256


def test_the_first_eight_bit_step_is_that_of_adamw() -> None:
    weights = [nn.Parameter(torch.ones(80, 60)) for _ in range(2)]
    for w in weights:
        w.grad = torch.randn(80, 60, generator=torch.Generator().manual_seed(1))
    AdamW8bit([weights[0]], lr=0.1, weight_decay=0.1).step()
    torch.optim.AdamW([weights[1]], lr=0.1, weight_decay=0.1).step()
    assert torch.allclose(*weights, atol=1e-6)


def test_a_rare_large_gradient_does_not_make_small_ones_explode() -> None:
    """In a block with a gradient 10,000 times theirs, their second moment rounds to the least value, not to zero."""
    weight = nn.Parameter(torch.zeros(64, 64))
    optimizer = AdamW8bit([weight], lr=1.0, eps=1e-12)
    for _ in range(20):
        before = weight.detach().clone()
        weight.grad = torch.full((64, 64), 1e-4)
        weight.grad[:, ::8] = 1.0
        optimizer.step()
        assert (weight - before).abs().max() < 10  # AdamW: 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_and_loaded_state_goes_on_to_the_bit(kind: str) -> None:
    def fresh() -> tuple[nn.Module, list[torch.optim.Optimizer]]:
        torch.manual_seed(3)
        model = nn.Sequential(nn.Embedding(7, 8), nn.Linear(8, 9), nn.Linear(70, 70))
        optim = Optim(optimizer=kind, learning_rate=0.01, weight_decay=0.1)  # type: ignore[arg-type]
        return model, build_optimizers(model, optim)

    def train(model: nn.Module, optimizers: list[torch.optim.Optimizer], steps: list[list[Tensor]]) -> None:
        for step in steps:
            for p, gradient in zip(model.parameters(), step, strict=True):
                p.grad = gradient.clone()
            for optimizer in optimizers:
                optimizer.step()

    whole, optimizers = fresh()
    steps = list(gradients([tuple(p.shape) for p in whole.parameters()], 6))
    train(whole, optimizers, steps)
    half, optimizers = fresh()
    train(half, optimizers, steps[:3])
    buffer = io.BytesIO()
    torch.save([half.state_dict(), *(o.state_dict() for o in optimizers)], buffer)
    buffer.seek(0)
    weights, *states = torch.load(buffer, weights_only=True)
    other, optimizers = fresh()
    other.load_state_dict(weights)
    for optimizer, state in zip(optimizers, states, strict=True):
        optimizer.load_state_dict(state)
    train(other, optimizers, steps[3:])
    for a, b in zip(whole.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)


def test_frozen_parameters_are_left_alone() -> None:
    model = Decoder(DecoderConfig(64, 32, 1, 4, 2, 64, 8)).init_weights(0).requires_grad_(False)
    model.model.layers[0].mlp.up_proj.weight.requires_grad_(True)
    for kind in KINDS:
        held = [p for o in build_optimizers(model, Optim(optimizer=kind)) for g in o.param_groups for p in g["params"]]  # type: ignore[arg-type]
        assert [id(p) for p in held] == [id(model.model.layers[0].mlp.up_proj.weight)]
