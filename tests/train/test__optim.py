from __future__ import annotations

import torch

from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.train._optim import Muon, build_optimizers, orthogonalize


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


def test_every_parameter_has_exactly_one_optimizer() -> None:
    model = Decoder(DecoderConfig(64, 32, 2, 4, 2, 64, 8)).init_weights(0)
    for kind in ("muon", "adamw"):
        optimizers = build_optimizers(model, kind, 0.02, 0.001, 0.1, torch.float32)
        held = [id(p) for o in optimizers for group in o.param_groups for p in group["params"]]
        assert sorted(held) == sorted(id(p) for p in model.parameters())
        embedding = id(model.model.embed_tokens.weight)
        (group,) = [g for o in optimizers for g in o.param_groups if embedding in map(id, g["params"])]
        assert group["weight_decay"] == 0
