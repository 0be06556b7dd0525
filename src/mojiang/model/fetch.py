"""Bring in a model from outside: a Hugging Face folder, a model of the Hub, or a GGUF file."""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from pydantic import Field

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput, NotFound
from mojiang.core.files import sha256_file
from mojiang.core.recipe import Metrics, Recipe

if TYPE_CHECKING:
    from mojiang.core.run import Run

# What is read of a model; anything else in its folder stays where it is.
_FILES: Final = (
    "config.json", "generation_config.json", "model.safetensors", "model-*.safetensors", "model.safetensors.index.json",
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "chat_template.jinja",
    "additional_chat_templates/*.jinja", "preprocessor_config.json", "README.md", "LICENSE*",
)  # fmt: skip
# Other ways to store a tokenizer; they are converted by `transformers`, not here.
_OTHER_TOKENIZERS: Final = (
    "vocab.json", "vocab.txt", "merges.txt", "tokenizer.model", "spiece.model", "source.spm", "sentencepiece.bpe.model",
)  # fmt: skip
_PICKLES: Final = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_LICENCE: Final = re.compile(r"^licen[sc]e:\s*['\"]?([\w.+-]+)['\"]?\s*$", re.MULTILINE)
_LICENCE_NAME: Final = re.compile(r"^license_name:\s*['\"]?([\w.+-]+)['\"]?\s*$", re.MULTILINE)


class Fetch(Recipe):
    """Make a model from elsewhere an artifact of the store, after checking that it loads.

    Reads a Hugging Face folder (weights in safetensors, tokenizer.json), a model of the Hub (`hf:org/name`, pinned to
    the commit it stands for), or a GGUF file of llama.cpp, which is dequantised to fp32 and becomes an ordinary folder
    with its tokenizer and chat template. Weights, config and tokenizer must fit each other; the licence is noted.

    When not to use: for pickled weights (pytorch_model.bin), which can run code when they are read; convert them first.
    Source: huggingface.co/docs/safetensors; the GGUF specification of ggml; `transformers` for names and layouts.
    Example:
        >>> Fetch(source="hf:HuggingFaceTB/SmolLM2-135M-Instruct").source
        'hf:HuggingFaceTB/SmolLM2-135M-Instruct'
    """

    recipe: ClassVar[str] = "model.fetch"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"

    source: str = Field(min_length=1)
    """A folder, a .gguf file, or hf:org/name, at a revision hf:org/name@revision."""

    def identity(self) -> dict[str, Any]:
        """The content of the source: names and SHA-256 of its files, or the Hub's commit."""
        if self.source.startswith("hf:"):
            from mojiang.model._hub import resolve_name

            model = resolve_name(self.source)
            return {"repo": model.repo, "commit": model.commit}
        path = _existing(self.source)
        if path.is_file():
            return {"content": {"gguf": sha256_file(path)}}
        return {"content": {str(file.relative_to(path)): sha256_file(file) for file in _files(path)}}

    def run(self, run: Run) -> Metrics:
        """Copy or convert, load everything once, write the model folder."""
        metrics: Metrics = {"source": self.source}
        licence: str | None = None
        if not self.source.startswith("hf:") and _existing(self.source).is_file():
            from mojiang.model.gguf import convert_gguf

            notes = convert_gguf(_existing(self.source), run.out)
            metrics["quantisation"] = notes["quantisation"]
            licence = notes["licence"] and _spdx(str(notes["licence"]))
        else:
            folder = self._folder(run, metrics)
            _copy(folder, run.out)
            licence = _licence_of(run.out)
        run.check_stop()
        metrics["licence"] = licence or "unknown"
        if licence is None:
            run.warn("the licence of the model is unknown: find out before you hand on what you make of it")
        return {**metrics, **_check(run)}

    def _folder(self, run: Run, metrics: Metrics) -> Path:
        if not self.source.startswith("hf:"):
            return _existing(self.source)
        from mojiang.model._hub import download, resolve_name

        model = resolve_name(self.source)
        run.log(f"fetching {model.repo} at commit {model.commit}")
        metrics["commit"] = model.commit
        return download(model, _FILES + _OTHER_TOKENIZERS)


def _existing(source: str) -> Path:
    path = Path(source).expanduser()
    if not path.exists():
        hint = f"for a model of the Hub write hf:{source}" if re.fullmatch(r"[\w.-]+/[\w.-]+", source) else ""
        raise NotFound(f"{source} does not exist", hint=hint or "give a folder, a .gguf file or hf:org/name")
    if path.is_file() and path.suffix != ".gguf":
        raise BadInput(f"{source} is no model", hint="give a folder, a .gguf file or hf:org/name")
    return path


def _files(folder: Path) -> Iterator[Path]:
    """The files of a model, sorted.

    Raises:
        BadInput: there are no weights that are read here, or only pickled ones.
    """
    found = sorted({file for pattern in _FILES for file in folder.glob(pattern) if file.is_file()})
    if not (folder / "config.json").is_file():
        raise BadInput(f"{folder} has no config.json", hint="give the folder of a Hugging Face model")
    if not any(file.suffix == ".safetensors" for file in found):
        pickled = sorted(file.name for pattern in _PICKLES for file in folder.glob(pattern))
        if pickled:
            raise BadInput(
                f"{folder} has only pickled weights ({', '.join(pickled[:3])}), which can run code when they are read",
                hint="if you trust them, transformers.AutoModel.from_pretrained(…).save_pretrained(…) converts them",
            )
        raise BadInput(f"{folder} has no model.safetensors", hint="the weights must be there in safetensors format")
    return iter(found)


def _copy(folder: Path, out: Path) -> None:
    for file in _files(folder):
        target = out / file.relative_to(folder)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(file, target)
    others = [name for name in _OTHER_TOKENIZERS if (folder / name).is_file()]
    if others and not (out / "tokenizer.json").is_file():
        raise BadInput(
            f"{folder} has its tokenizer in {', '.join(others)}, and no tokenizer.json",
            hint="transformers.AutoTokenizer.from_pretrained(…).save_pretrained(…) writes one",
        )


def _check(run: Run) -> Metrics:
    """Load everything once; what is there, in numbers."""
    from mojiang.model.load import load_model, read_config
    from mojiang.tokenizer.load import load_tokenizer

    model = load_model(run.out)
    parameters = model.num_parameters()
    config = read_config(run.out)
    metrics: Metrics = {
        "architecture": str((config.get("architectures") or [config.get("model_type")])[0]), "parameters": parameters,
        "bytes": sum(file.stat().st_size for file in run.out.glob("*.safetensors")),
    }  # fmt: skip
    shown = f"{metrics['architecture']}, {parameters:,} parameters"
    if not (run.out / "tokenizer.json").is_file():
        run.log(f"{shown}, no tokenizer")
        return metrics
    tokenizer = load_tokenizer(run.out)
    tokenizer.check_fits(int(config.get("vocab_size", tokenizer.vocab_size)))
    metrics["vocab_size"] = tokenizer.vocab_size
    metrics["chat_template"] = "no" if tokenizer.chat_template is None else "yes"
    run.log(f"{shown}, {tokenizer.vocab_size:,} tokens, chat template: {metrics['chat_template']}")
    return metrics


def _licence_of(folder: Path) -> str | None:
    """What the model card's front matter says, else what its LICENSE file is."""
    from mojiang.data._licence import folder_licence

    card = folder / "README.md"
    text = card.read_text(encoding="utf-8", errors="replace")[:20_000] if card.is_file() else ""
    matter = text.split("\n---", 1)[0] if text.startswith("---") else ""
    found = _LICENCE.search(matter)
    name = _LICENCE_NAME.search(matter)
    if found and found[1] == "other":
        found = name
    return _spdx(found[1]) if found else folder_licence(folder)


def _spdx(name: str) -> str:
    """The SPDX spelling of a licence that the Hub writes in small letters."""
    from mojiang.data._licence import SPDX_NAMES

    return SPDX_NAMES.get(name.lower(), name)
