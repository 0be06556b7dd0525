"""Read and write models as ordinary Hugging Face folders."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mojiang.core.errors import BadInput, Corrupted, NotFound
from mojiang.core.files import atomic_write
from mojiang.model.architectures import build, resolve
from mojiang.model.int8 import Int8Linear, replace_linears
from mojiang.model.network import Head, Network

TOKENIZER_FILES = (
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja", "vocab.json",
    "merges.txt", "tokenizer.model", "vocab.txt", "spiece.model", "source.spm", "target.spm", "added_tokens.json",
    "preprocessor_config.json",
)  # fmt: skip
"""Files of a tokenizer, or of what else prepares a model's inputs."""
TASKS = ("sequence_classification", "token_classification", "question_answering", "image_classification")
SHARD_BYTES = 5 * 10**9
"""Larger weights are written as several files, as other tools expect."""
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"

logger = logging.getLogger(__name__)


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


def load_model(
    path: Path,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    head: Head | None = None,
    num_labels: int | None = None,
) -> Network:
    """A network from a Hugging Face folder, in evaluation mode, computing in `dtype`.

    Float weights are kept in fp32 and cast where they are used. A folder with a `quantization_config`
    (compressed-tensors, int8 weights per channel) gives `Int8Linear` layers.

    With another `head` than the checkpoint's, or another number of labels, exactly the parameters of the head are new:
    initialised from seed 0 and logged by name.

    Raises:
        BadInput: an architecture that is not computed here, or tensors that are missing, unexpected or of another
            shape; all are named.
        NotFound, Corrupted: files that are not there or cannot be read.
    """
    path = Path(path)
    hf_config = read_config(path)
    with torch.device("meta"):
        stored = build(hf_config)
        model = build(hf_config, head, num_labels) if head or num_labels else stored
    if model.config == stored.config:
        model = stored  # `legacy_names` may adapt it to what the file holds
    state = {name: tensor for file in _weight_files(path) for name, tensor in _read_tensors(file).items()}
    state = stored.legacy_names(_with_prefix(stored, state))
    if "quantization_config" in hf_config:
        if stored is not model:
            raise BadInput(f"{path} is quantised and cannot get another head", hint="load the float model it is from")
        _prepare_int8(model, hf_config["quantization_config"], state)
    _fill_tied(stored, state)
    own, wanted = stored.state_dict(), model.state_dict()
    spare = {n: state.pop(n) for n in list(state) if n not in own and n.startswith(stored.other_heads)}
    _check_names(stored, state, path)
    if stored is not model:
        state = _with_new_head(stored, model, state | {n: t for n, t in spare.items() if n in wanted})
        _check_names(model, state, path)
    ties = _ties(model)
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    model.load_state_dict(state, strict=True, assign=True)
    for first, others in ties:
        # Loading made each name a parameter of its own.
        for name in others:
            owner, _, leaf = name.rpartition(".")
            setattr(model.get_submodule(owner), leaf, model.get_parameter(first))
    model.compute_dtype = dtype
    return model.to(device).eval()


def load_causal_lm(path: Path, device: str = "cpu", dtype: torch.dtype = torch.float32) -> Network:
    """A language model that continues text; as `load_model`.

    Raises:
        BadInput: the folder holds another kind of model.
    """
    hf_config = read_config(Path(path))
    head = resolve(hf_config)[1]
    if head != "causal_lm":
        raise BadInput(
            f"{path} holds a {hf_config.get('model_type')} with head {head!r}, which does not continue text",
            hint="give a causal language model, such as a Llama, Qwen or GPT-2",
        )
    return load_model(path, device, dtype)


def save_model(model: Network, tokenizer_dir: Path | None, out: Path, shard_bytes: int = SHARD_BYTES) -> None:
    """Write `config.json`, the weights, `generation_config.json` and the tokenizer's files below `out`.

    Tied weights are stored once, as `transformers` does. `tokenizer_dir` is any folder that has the tokenizer's files.
    """
    out.mkdir(parents=True, exist_ok=True)
    again = {name for _, names in _ties(model) for name in names}
    state = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items() if name not in again}
    if model.config.head == "embedding":
        state = {name.removeprefix(f"{model.prefix}."): tensor for name, tensor in state.items()}
    _write_tensors(state, out, shard_bytes)
    config = model.config.to_hf()
    atomic_write(out / "config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    if model.config.head in ("causal_lm", "seq2seq_lm"):
        keys = ("bos_token_id", "eos_token_id", "pad_token_id", "decoder_start_token_id", "forced_eos_token_id")
        generation = {key: config[key] for key in keys if key in config}
        if banned := getattr(model, "never_written", ()):
            generation["bad_words_ids"] = [[token] for token in banned]
        atomic_write(out / "generation_config.json", json.dumps(generation, indent=2) + "\n")
    if tokenizer_dir is not None:
        for name in TOKENIZER_FILES:
            if (tokenizer_dir / name).exists():
                shutil.copyfile(tokenizer_dir / name, out / name)


def _write_tensors(state: dict[str, Tensor], out: Path, shard_bytes: int) -> None:
    """One `model.safetensors`, or shards of at most `shard_bytes` (or one tensor) with an index."""
    shards: list[dict[str, Tensor]] = [{}]
    filled = 0
    for name, tensor in state.items():
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = tensor
        filled += tensor.nbytes
    if len(shards) == 1:
        save_file(state, out / WEIGHTS, metadata={"format": "pt"})
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, 1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        save_file(shard, out / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(shard, file)
    index = {"metadata": {"total_size": sum(t.nbytes for t in state.values())}, "weight_map": weight_map}
    atomic_write(out / INDEX, json.dumps(index, indent=2, sort_keys=True) + "\n")


def _weight_files(path: Path) -> list[Path]:
    """One `model.safetensors`, or the shards that its index names."""
    index = path / INDEX
    if index.exists():
        try:
            names = sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise Corrupted(f"{index} cannot be read: {error}", hint="copy the model again") from error
        files = [path / name for name in names]
    else:
        files = [path / WEIGHTS]
    missing = [file.name for file in files if not file.exists()]
    if missing and any(path.glob("pytorch_model*.bin")):
        raise NotFound(
            f"{path} has its weights as pickled .bin files, which can run code when read",
            hint="load them once with transformers and call save_pretrained: it writes safetensors",
        )
    if missing:
        raise NotFound(f"{path} has no {', '.join(missing)}", hint="the weights must be there in safetensors format")
    return files


def _read_tensors(file: Path) -> dict[str, Tensor]:
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise Corrupted(f"{file} cannot be read: {error}", hint="copy or make the model again") from error


def _with_prefix(model: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state with the prefix that files without a head leave out (and some old ones with a tied head)."""
    prefix = f"{model.prefix}."
    if not model.prefix or any(name.startswith(prefix) for name in state):
        return state
    outside = model.head_names()
    return {name if name in outside else prefix + name: tensor for name, tensor in state.items()}


def _ties(model: Network) -> list[tuple[str, list[str]]]:
    """Of each parameter that has several names: the one files keep, and the others."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    return [(first, others) for first, *others in names.values() if others]


def _fill_tied(model: Network, state: dict[str, Tensor]) -> None:
    """Give every name of a tied parameter the same tensor; files may have any one of them, or several."""
    for first, others in _ties(model):
        present = next((state[name] for name in (first, *others) if name in state), None)
        if present is not None:
            state |= dict.fromkeys((first, *others), present)


def _with_new_head(stored: Network, model: Network, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state for the same network with another head, or number of labels: what the checkpoint lacks is initialised.

    Initialised is nothing but the head's; what else is missing stays missing.
    """
    another = stored.config.head != model.config.head
    old, new = (f"{network.prefix}." if network.prefix else "" for network in (stored, model))
    moved = {}
    for name, tensor in state.items():
        inside = name.startswith(old) if old else name not in stored.head_names()
        # A task's answers are of no use to another task, even where they have one name and shape.
        stale = another and stored.config.head in TASKS and not inside
        if name not in stored.head_names() or not stale:
            moved[new + name.removeprefix(old) if inside else name] = tensor
    _fill_tied(model, moved)
    expected = {name: tensor.shape for name, tensor in model.state_dict().items()}
    unused = stored.head_names() - set(expected)
    moved = {name: tensor for name, tensor in moved.items() if name not in unused}
    generator = torch.Generator().manual_seed(0)
    fresh = [n for n in expected if n in model.head_names() and (n not in moved or moved[n].shape != expected[n])]
    for name in fresh:
        moved[name] = torch.empty(expected[name])
        model.init_parameter(name, moved[name], generator)
    logger.warning("initialised anew, for the checkpoint has no such head: %s", ", ".join(fresh))
    return moved


def _prepare_int8(model: Network, quantization: dict[str, Any], state: dict[str, Tensor]) -> None:
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
        if isinstance(module, nn.Linear) and f"{name}.weight_scale" not in state
    )
    replace_linears(model, floats, lambda old: Int8Linear(old.in_features, old.out_features, old.bias is not None))


def _check_names(model: Network, state: dict[str, Tensor], path: Path) -> None:
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
