"""Read and write models as ordinary Hugging Face folders."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from mojiang.core.errors import BadInput, Corrupted, NotFound
from mojiang.core.files import atomic_write
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.int8 import Int8Linear, replace_linears

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json",
    "merges.txt", "tokenizer.model",
)  # fmt: skip


def read_config(path: Path) -> dict[str, Any]:
    """The folder's `config.json`.

    Raises:
        NotFound: there is none, so this is no model folder.
        Corrupted: it is no JSON object.
    """
    file = path / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFound(f"{path} has no config.json", hint="give the folder of a Hugging Face model") from None
    except (OSError, ValueError) as error:
        raise Corrupted(f"{file} cannot be read: {error}", hint="copy or make the model again") from error
    if not isinstance(config, dict):
        raise Corrupted(f"{file} holds no JSON object", hint="copy or make the model again")
    return config


def load_model(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Decoder:
    """A decoder from a Hugging Face folder, in evaluation mode, computing in `dtype`.

    Float weights are kept in fp32 and cast where they are used. A folder with a `quantization_config`
    (compressed-tensors, int8 weights per channel) gives `Int8Linear` layers.

    Raises:
        BadInput: another architecture, or tensors that are missing, unexpected or of another shape; all are named.
        NotFound, Corrupted: files that are not there or cannot be read.
    """
    path = Path(path)
    hf_config = read_config(path)
    try:
        config = DecoderConfig.from_hf(hf_config)
    except KeyError as error:
        raise BadInput(f"{path / 'config.json'} lacks {error}", hint="it is needed to build the model") from None
    state = {name: tensor for file in _weight_files(path) for name, tensor in _read_tensors(file).items()}
    with torch.device("meta"):
        model = Decoder(config)
    if "quantization_config" in hf_config:
        _prepare_int8(model, hf_config["quantization_config"], state)
    tied = config.tie_word_embeddings
    if tied:
        state.setdefault("lm_head.weight", state.get("model.embed_tokens.weight", torch.empty(0)))
    _check_names(model, state, path)
    state = {name: t if t.dtype == torch.int8 else t.float() for name, t in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    if tied:
        model.lm_head.weight = model.model.embed_tokens.weight
    model.compute_dtype = dtype
    return model.to(device).eval()


def save_model(model: Decoder, tokenizer_dir: Path | None, out: Path) -> None:
    """Write `config.json`, `model.safetensors`, `generation_config.json` and the tokenizer's files below `out`.

    Tied weights are stored once, as `transformers` does. `tokenizer_dir` is any folder that has the tokenizer's files.
    """
    out.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    if model.config.tie_word_embeddings:
        state.pop("lm_head.weight", None)
    save_file(state, out / "model.safetensors", metadata={"format": "pt"})
    atomic_write(out / "config.json", json.dumps(model.config.to_hf(), indent=2) + "\n")
    generation = {
        "bos_token_id": model.config.bos_token_id,
        "eos_token_id": model.config.eos_token_id,
        "pad_token_id": model.config.pad_token_id,
    }
    atomic_write(out / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    if tokenizer_dir is not None:
        for name in TOKENIZER_FILES:
            if (tokenizer_dir / name).exists():
                shutil.copyfile(tokenizer_dir / name, out / name)


def _weight_files(path: Path) -> list[Path]:
    """One `model.safetensors`, or the shards that its index names."""
    index = path / "model.safetensors.index.json"
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise Corrupted(f"{index} cannot be read: {error}", hint="copy the model again") from error
        files = [path / name for name in names]
    else:
        files = [path / "model.safetensors"]
    missing = [file.name for file in files if not file.exists()]
    if missing:
        raise NotFound(f"{path} has no {', '.join(missing)}", hint="the weights must be there in safetensors format")
    return files


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise Corrupted(f"{file} cannot be read: {error}", hint="copy or make the model again") from error


def _prepare_int8(model: Decoder, quantization: dict[str, Any], state: dict[str, Tensor]) -> None:
    """Put empty int8 layers where the state has int8 weights, after checking that the format is ours."""
    method, form = quantization.get("quant_method"), quantization.get("format")
    if method != "compressed-tensors" or form not in ("int-quantized", "naive-quantized"):
        raise BadInput(
            f"the weights are quantised as {method!r}/{form!r}; read are int8 weights of compressed-tensors",
            hint="load the float model and run `mojiang compress quantize`",
        )
    floats = tuple(
        name
        for name, module in model.named_modules()
        if isinstance(module, torch.nn.Linear) and f"{name}.weight_scale" not in state
    )
    replace_linears(model, skip=floats, make=lambda old: Int8Linear(old.in_features, old.out_features))


def _check_names(model: Decoder, state: dict[str, Tensor], path: Path) -> None:
    expected = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    problems = []
    if missing := sorted(set(expected) - set(state)):
        problems.append(f"missing: {_listing(missing)}")
    if unexpected := sorted(set(state) - set(expected)):
        problems.append(f"unexpected: {_listing(unexpected)}")
    shapes = [
        f"{name} is {tuple(state[name].shape)}, config.json says {shape}"
        for name, shape in expected.items()
        if name in state and tuple(state[name].shape) != shape
    ]
    if shapes:
        problems.append(_listing(shapes))
    if problems:
        raise BadInput(
            f"the tensors in {path} are not those of its config.json: {'; '.join(problems)}",
            hint="config.json and weights must come from the same model",
        )


def _listing(names: list[str], limit: int = 8) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
