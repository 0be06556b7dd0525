"""Tokenizers in files that are not Hugging Face's, with what a comparison asks of one."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Protocol

from mojiang.core.errors import BadInput, NotFound, Unavailable

GPT2 = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"
CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$|\s*[\r\n]|"
    r"\s+(?!\S)|\s"
)
O200K = "|".join(
    (
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}", r" ?[^\s\p{L}\p{N}]+[\r\n/]*", r"\s*[\r\n]+", r"\s+(?!\S)", r"\s+",
    )
)  # fmt: skip


class Reads(Protocol):
    """What can be compared."""

    @property
    def vocab_size(self) -> int: ...
    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens around it."""
        ...

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids."""
        ...

    def special_id(self, role: str) -> int | None:
        """Id of the token with this role, if there is one."""
        ...


def open_tokenizer(path: Path) -> Reads:
    """The tokenizer of a folder, a tokenizer.json, a SentencePiece model (.model) or tiktoken's ranks (.tiktoken).

    Raises:
        NotFound: there is nothing there.
        BadInput: it is none of these, or broken.
    """
    from mojiang.tokenizer.load import load_tokenizer

    if not path.exists():
        raise NotFound(f"there is no {path}", hint="give a folder, tokenizer.json, .model or .tiktoken file")
    if path.is_dir() or path.name == "tokenizer.json":
        return load_tokenizer(path if path.is_dir() else path.parent)
    if path.suffix == ".model":
        return SentencePiece(path)
    if path.suffix == ".tiktoken":
        return Tiktoken(path)
    raise BadInput(f"{path} is no tokenizer known here", hint="give a folder, tokenizer.json, .model or .tiktoken file")


class SentencePiece:
    """A SentencePiece model file."""

    def __init__(self, path: Path) -> None:
        self._model: Any = _needed("sentencepiece").SentencePieceProcessor()
        try:
            self._model.load(str(path))
        except (OSError, RuntimeError) as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise BadInput(f"{path} is no SentencePiece model: {reason}", hint="download it again") from None

    @property
    def vocab_size(self) -> int:
        """Number of pieces."""
        return int(self._model.get_piece_size())

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        return [list(ids) for ids in self._model.encode(list(texts))]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids."""
        return str(self._model.decode(list(ids)))

    def special_id(self, role: str) -> int | None:
        """Of `unk` only."""
        return int(self._model.unk_id()) if role == "unk" and self._model.unk_id() >= 0 else None


class Tiktoken:
    """A file of tiktoken's ranks. The pattern that cuts text is not in it: it is the one that goes with the size."""

    def __init__(self, path: Path) -> None:
        ranks: dict[bytes, int] = {}
        try:
            for line in path.read_bytes().splitlines():
                if line:
                    token, rank = line.split()
                    ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise BadInput(f"{path}: a line is not `base64 rank`", hint="download it again") from None
        missing = [byte for byte in range(256) if bytes([byte]) not in ranks]
        if missing:
            raise BadInput(f"{path} lacks {len(missing)} of the 256 bytes", hint="download it again")
        pattern = GPT2 if len(ranks) < 60_000 else CL100K if len(ranks) < 150_000 else O200K
        self._model: Any = _needed("tiktoken").Encoding(
            path.stem, pat_str=pattern, mergeable_ranks=ranks, special_tokens={}
        )

    @property
    def vocab_size(self) -> int:
        """Number of ids."""
        return int(self._model.n_vocab)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text."""
        return [list(ids) for ids in self._model.encode_ordinary_batch(list(texts), num_threads=1)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids."""
        return str(self._model.decode(list(ids)))

    def special_id(self, role: str) -> int | None:
        """There is none: bytes write everything."""
        return None


def _needed(package: str) -> Any:
    import importlib

    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        raise Unavailable(f"this file is read by the package {package}", hint=f"pip install {package}") from error
