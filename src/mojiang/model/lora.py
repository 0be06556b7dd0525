"""Low-rank adapters: LoRA, rank-stabilised LoRA and DoRA, in PEFT's file format.

    y = W x + scale · B A x                                  LoRA (Hu et al. 2021), scale = alpha / r
                                                             rsLoRA (Kalajdzievski 2023), scale = alpha / √r
    y = m / ‖W + scale · B A‖ · (W + scale · B A) x          DoRA (Liu et al. 2024), a norm per output, held constant

Tensor names: I inputs · O outputs · R rank
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mojiang.core.errors import BadInput, NotFound
from mojiang.core.files import atomic_write
from mojiang.model._layers import Dropout, Linear
from mojiang.model.network import Network

PREFIX = "base_model.model."
"""What PEFT puts before the names of a model's modules."""


@dataclass(frozen=True)
class LoraConfig:
    """The shape of an adapter."""

    rank: int = 16
    alpha: float = 32.0
    targets: tuple[str, ...] = ()
    """Last names of the projections that get one; none given: every projection inside the blocks."""
    use_rslora: bool = False
    use_dora: bool = False
    dropout: float = 0.0

    @property
    def scale(self) -> float:
        """What the product B A is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.use_rslora else self.rank)


class Adapter(nn.Module):
    """One low-rank pair, with a magnitude per output for DoRA. It begins as no change: B is zero."""

    def __init__(self, num_inputs: int, num_outputs: int, config: LoraConfig) -> None:
        super().__init__()
        self.lora_A = Linear(num_inputs, config.rank)
        self.lora_B = Linear(config.rank, num_outputs)
        self.dropout = Dropout(config.dropout)
        self.scale = config.scale
        self.lora_magnitude_vector = nn.Parameter(torch.ones(num_outputs)) if config.use_dora else None

    def delta(self) -> Tensor:
        """What is added to the weight, (O, I), in fp32."""
        return self.scale * (self.lora_B.weight.float() @ self.lora_A.weight.float())

    def forward(self, x: Tensor) -> Tensor:
        """scale · B A x."""
        update: Tensor = self.lora_B(self.lora_A(self.dropout(x))) * self.scale
        return update


class LoraLinear(nn.Module):
    """A frozen projection `base` with adapters beside it, of which one or none is active."""

    def __init__(self, base: nn.Module) -> None:
        super().__init__()
        self.base = base.requires_grad_(False)
        self.in_features, self.out_features = int(base.in_features), int(base.out_features)  # type: ignore[arg-type]
        self.adapters = nn.ModuleDict()
        self.active: str | None = None

    def weight_OI(self) -> Tensor:
        """The base weight in fp32, whatever it is stored as."""
        dequantized = getattr(self.base, "dequantized", None)
        weight: Tensor = dequantized() if dequantized else self.base.weight  # type: ignore[assignment]
        return weight.detach().float()

    def forward(self, x: Tensor) -> Tensor:
        """The base's output with the active adapter's change."""
        y: Tensor = self.base(x)
        if self.active is None:
            return y
        adapter: Any = self.adapters[self.active]
        if adapter.lora_magnitude_vector is None:
            changed: Tensor = y + adapter(x)
            return changed
        with torch.no_grad():
            norm_O = (self.weight_OI() + adapter.delta()).norm(dim=1)
        factor_O: Tensor = (adapter.lora_magnitude_vector / norm_O).to(y.dtype)
        bias: Tensor | None = getattr(self.base, "bias", None)
        shift_O = y.new_zeros(()) if bias is None else bias.to(y.dtype)
        turned: Tensor = factor_O * (y - shift_O + adapter(x)) + shift_O
        return turned

    def merged_OI(self, name: str) -> Tensor:
        """The weight that computes what base and adapter compute together, in fp32."""
        adapter: Any = self.adapters[name]
        weight_OI: Tensor = self.weight_OI() + adapter.delta()
        if adapter.lora_magnitude_vector is not None:
            weight_OI = weight_OI * (adapter.lora_magnitude_vector.float() / weight_OI.norm(dim=1))[:, None]
        return weight_OI.detach()


def adapted(model: nn.Module) -> dict[str, LoraLinear]:
    """The layers of a model that have adapters, by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def add_adapter(model: Network, config: LoraConfig, seed: int = 0, name: str = "default") -> list[str]:
    """Freeze a model and put an adapter beside its projections; returns the names of those.

    Raises:
        BadInput: a target names no projection of the model.
    """
    model.requires_grad_(False)
    found = _targets(model, config.targets)
    generator = torch.Generator().manual_seed(seed)
    for path in found:
        layer = model.get_submodule(path)
        if not isinstance(layer, LoraLinear):
            layer = LoraLinear(layer)
            _replace(model, path, layer)
        adapter = Adapter(layer.in_features, layer.out_features, config)
        nn.init.zeros_(adapter.lora_B.weight)
        bound = layer.in_features**-0.5  # what PEFT's kaiming_uniform_(a=√5) comes to
        shape = adapter.lora_A.weight.shape
        adapter.lora_A.weight.data = (torch.rand(shape, generator=generator) * 2 - 1) * bound
        if adapter.lora_magnitude_vector is not None:
            adapter.lora_magnitude_vector.data = layer.weight_OI().norm(dim=1).cpu()
        layer.adapters[name] = adapter.to(model.device)
        layer.active = name
    return found


def _targets(model: Network, targets: tuple[str, ...]) -> list[str]:
    blocks = {id(module) for block in model.blocks() for module in block.modules()}
    projections = [
        name
        for name, module in model.named_modules()
        if id(module) in blocks and hasattr(module, "in_features") and ".adapters." not in f".{name}."
        and not name.endswith(".base")
    ]  # fmt: skip
    missing = [word for word in targets if not any(name.endswith(f".{word}") for name in projections)]
    if missing:
        known = sorted({name.rpartition(".")[2] for name in projections})
        raise BadInput(f"the model has no projection called {', '.join(missing)}", hint=f"it has {', '.join(known)}")
    return [name for name in projections if not targets or name.rpartition(".")[2] in targets]


def _replace(model: nn.Module, path: str, layer: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, layer)


@contextmanager
def adapter_off(model: nn.Module) -> Iterator[None]:
    """Compute with the base alone, as the reference policy of DPO and GRPO does."""
    layers = adapted(model).values()
    active = [layer.active for layer in layers]
    use_adapter(model, None)
    try:
        yield
    finally:
        for layer, name in zip(layers, active, strict=True):
            layer.active = name


def use_adapter(model: nn.Module, name: str | None) -> None:
    """Make an adapter the active one, or none."""
    for path, layer in adapted(model).items():
        if name is not None and name not in layer.adapters:
            raise NotFound(f"{path} has no adapter {name!r}", hint=f"it has {', '.join(layer.adapters) or 'none'}")
        layer.active = name


def merge_adapter(model: Network, name: str = "default") -> Network:
    """Add an adapter's change to the weights and take the adapters away; the model is an ordinary one again."""
    for path, layer in adapted(model).items():
        base, bias = layer.base, getattr(layer.base, "bias", None)
        weight_OI = layer.merged_OI(name) if name in layer.adapters else layer.weight_OI()
        if not isinstance(base, nn.Linear):
            base = Linear(layer.in_features, layer.out_features, bias=bias is not None).to(weight_OI.device)
            base.register_parameter("bias", bias)
        base.weight = nn.Parameter(weight_OI)
        _replace(model, path, base)
    return model.requires_grad_(True)


def save_adapter(model: Network, config: LoraConfig, folder: Path, base: str, name: str = "default") -> None:
    """Write one adapter as `adapter_model.safetensors` and `adapter_config.json`, which PEFT reads.

    `base` says which model it belongs to: a folder, or a name on a hub.
    """
    folder.mkdir(parents=True, exist_ok=True)
    state: dict[str, Tensor] = {}
    for path, layer in adapted(model).items():
        if name in layer.adapters:
            for key, tensor in layer.adapters[name].state_dict().items():
                state[f"{PREFIX}{path}.{key}"] = tensor.detach().float().cpu().contiguous()
    save_file(state, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    settings = {
        "peft_type": "LORA", "task_type": "CAUSAL_LM" if model.config.head == "causal_lm" else None,
        "base_model_name_or_path": base, "r": config.rank, "lora_alpha": config.alpha, "bias": "none",
        "target_modules": sorted({path.rpartition(".")[2] for path in adapted(model)}),
        "use_rslora": config.use_rslora, "use_dora": config.use_dora, "lora_dropout": config.dropout,
        "inference_mode": True, "fan_in_fan_out": False,
    }  # fmt: skip
    atomic_write(folder / "adapter_config.json", json.dumps(settings, indent=2) + "\n")


def load_adapter(model: Network, folder: Path, name: str = "default") -> LoraConfig:
    """Put an adapter that was saved by us or by PEFT beside the projections it was trained for.

    Raises:
        BadInput: it is of another kind, or does not fit the model; every tensor that does not is named.
    """
    try:
        settings = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        state = load_file(folder / "adapter_model.safetensors")
    except FileNotFoundError as error:
        raise NotFound(f"{folder} holds no adapter: {error}", hint="give the folder of a LoRA adapter") from None
    if settings.get("peft_type") != "LORA":
        raise BadInput(f"the adapter is a {settings.get('peft_type')}", hint="only LoRA adapters are read")
    config = LoraConfig(
        settings["r"], settings["lora_alpha"], (), settings.get("use_rslora", False), settings.get("use_dora", False),
        settings.get("lora_dropout") or 0.0,
    )  # fmt: skip
    names = {key.removeprefix(PREFIX): tensor for key, tensor in state.items()}
    paths = sorted({key[: key.index(".lora_")] for key in names})
    known = dict(model.named_modules())
    if unknown := [path for path in paths if path not in known]:
        raise BadInput(f"the adapter is for {', '.join(unknown[:5])}, which the model lacks", hint="load its own base")
    _attach(model, paths, names, config, name)
    return config


def _attach(model: Network, paths: list[str], names: dict[str, Tensor], config: LoraConfig, name: str) -> None:
    for path in paths:
        layer = model.get_submodule(path)
        if not isinstance(layer, LoraLinear):
            layer = LoraLinear(layer)
            _replace(model, path, layer)
        adapter = Adapter(layer.in_features, layer.out_features, config)
        own = {key: names.get(f"{path}.{key}", names.get(f"{path}.{key}.weight")) for key in adapter.state_dict()}
        given = {key: value for key, value in own.items() if value is not None}
        shapes = {key: value.shape for key, value in adapter.state_dict().items()}
        wrong = [key for key, shape in shapes.items() if key not in given or given[key].shape != shape]
        if wrong:
            raise BadInput(f"the adapter's {path} lacks or misshapes {', '.join(wrong)}", hint="save it again")
        adapter.load_state_dict(given)
        layer.adapters[name] = adapter.to(model.device)
        layer.active = name
    model.requires_grad_(False)
    for layer in adapted(model).values():
        if layer.active is not None:
            layer.adapters[layer.active].requires_grad_(True)
