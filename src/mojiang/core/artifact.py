"""An Artifact: an immutable folder and the manifest that says where it came from."""

from __future__ import annotations

import os
import platform
import sys
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from mojiang.core.config import Config
from mojiang.core.errors import Corrupted, NotFound
from mojiang.core.files import list_files, sha256_file

Kind = Literal["dataset", "tokenizer", "model", "report"]
KINDS: tuple[Kind, ...] = ("dataset", "tokenizer", "model", "report")

MANIFEST = "artifact.json"
NAME = r"^\w[\w.-]{0,99}$"


class FileEntry(Config):
    """Size in bytes and SHA-256 of one file."""

    bytes: int
    sha256: str


class Manifest(Config):
    """What `artifact.json` holds: enough to say what this is, how it was made and whether it is intact."""

    kind: Kind
    name: str = Field(pattern=NAME)
    """Letters, digits, `.`, `-` and `_`: it becomes a folder, and a REF has to be able to say it."""
    version: int
    fingerprint: str
    recipe: str
    """Recipe and version, such as `train.sft@1`, or `import` for a folder brought in from outside."""
    config: dict[str, Any]
    parents: dict[str, list[str]]
    """Fingerprints of the inputs, by the recipe's field."""
    run: str
    seed: int | None
    created: str
    seconds: float
    metrics: dict[str, float | int | str]
    """Finite: JSON knows no NaN, and a figure that is not one is no evidence."""
    files: dict[str, FileEntry]
    software: dict[str, str]
    format: int = 1
    """Version of this file's layout."""


@dataclass(frozen=True)
class Artifact:
    """A stored artifact: its manifest and where its files are."""

    manifest: Manifest
    path: Path

    @property
    def ref(self) -> str:
        """`name@version`, the way people write it."""
        return f"{self.manifest.name}@{self.manifest.version}"

    @property
    def kind(self) -> Kind:
        """dataset, tokenizer, model or report."""
        return self.manifest.kind

    @property
    def name(self) -> str:
        """The name, without its version."""
        return self.manifest.name

    @property
    def version(self) -> int:
        """Counts up from 1 within a name."""
        return self.manifest.version

    @property
    def fingerprint(self) -> str:
        """SHA-256 of recipe, config and parents' fingerprints."""
        return self.manifest.fingerprint

    @property
    def recipe(self) -> str:
        """Catalog name of the recipe that made it, without its version."""
        return self.manifest.recipe.partition("@")[0]

    @property
    def metrics(self) -> dict[str, float | int | str]:
        """What the recipe measured."""
        return self.manifest.metrics

    @property
    def bytes(self) -> int:
        """Size of all files."""
        return sum(entry.bytes for entry in self.manifest.files.values())

    def verify(self) -> None:
        """Compare every file with its checksum; raise `Corrupted` naming the first that differs or does not belong."""
        for path in list_files(self.path):
            name = path.relative_to(self.path).as_posix()
            if name not in self.manifest.files and name != MANIFEST:
                raise self._corrupted(f"the file {name} does not belong to it")
        for name, entry in self.manifest.files.items():
            path = self.path / name
            if not path.is_file():
                raise self._corrupted(f"the file {name} is missing")
            if path.stat().st_size != entry.bytes:
                raise self._corrupted(f"{name} has {path.stat().st_size} bytes instead of {entry.bytes}")
            if sha256_file(path) != entry.sha256:
                raise self._corrupted(f"the checksum of {name} differs from its manifest")

    def _corrupted(self, what: str) -> Corrupted:
        return Corrupted(
            f"artifact {self.ref} is damaged: {what} ({self.path})",
            hint=f"`mojiang rm {self.ref} --force` and give the command that made it again",
        )


def read_manifest(path: Path) -> Manifest:
    """The manifest of an artifact's folder."""
    try:
        return Manifest.model_validate_json((path / MANIFEST).read_bytes())
    except FileNotFoundError:
        raise NotFound(f"{path} holds no {MANIFEST}", hint="give the folder of an artifact") from None
    except ValueError as error:
        raise Corrupted(f"{path / MANIFEST} cannot be read: {error}", hint="restore it from a copy") from error


def file_entries(folder: Path) -> dict[str, FileEntry]:
    """Size and checksum of every file below `folder`, the manifest itself left out."""
    return {
        path.relative_to(folder).as_posix(): FileEntry(bytes=path.stat().st_size, sha256=sha256_file(path))
        for path in list_files(folder)
        if path.name != MANIFEST
    }


def software_versions() -> dict[str, str]:
    """Versions of what is loaded now and can change a result."""
    packages = ("mojiang", "torch", "numpy", "pyarrow", "tokenizers", "safetensors", "pydantic")
    versions = {"python": platform.python_version(), "platform": f"{sys.platform}-{os.uname().machine}"}
    for package in packages:
        if package in sys.modules:
            versions[package] = metadata.version(package)
    return versions
