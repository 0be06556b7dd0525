"""The tokenizer of a GGUF file as Hugging Face's files.

A GGUF file keeps the vocabulary, the merges (or scores) and the special ids; how text is cut before that it keeps only
as a name, such as "smollm" or "llama-bpe". What stands behind a name is written down here; an unknown one is refused,
since another cut gives other tokens without any error.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

from mojiang.core.errors import BadInput
from mojiang.core.files import atomic_write

_UNKNOWN, _CONTROL, _USER, _UNUSED = 2, 3, 4, 5  # llama.cpp's types of tokens, where they are not plain text
_QWEN2: Final = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_LLAMA3: Final = _QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
_ROLES: Final = {
    "bos": "bos", "eos": "eos", "unk": "unknown", "sep": "seperator", "pad": "padding", "cls": "cls", "mask": "mask",
}  # fmt: skip


def write_tokenizer(metadata: Mapping[str, Any], out: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json.

    Raises:
        BadInput: the file has no tokenizer, or one of a kind that is not read here; it is named.
    """
    model = metadata.get("tokenizer.ggml.model")
    if model not in ("gpt2", "llama"):
        raise BadInput(
            f"the GGUF file has a tokenizer of the kind {model!r}",
            hint="read are gpt2 (byte-level BPE) and llama (SentencePiece BPE); use the original checkpoint",
        )
    tokenizer = _byte_level(metadata) if model == "gpt2" else _sentencepiece(metadata)
    atomic_write(out / "tokenizer.json", tokenizer.to_str(pretty=False))
    ids = {role: metadata.get(f"tokenizer.ggml.{name}_token_id") for role, name in _ROLES.items()}
    named = {f"{role}_token": tokenizer.id_to_token(int(id)) for role, id in ids.items() if id is not None}
    config: dict[str, Any] = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "clean_up_tokenization_spaces": False,
        **named,
    }
    if metadata.get("tokenizer.chat_template"):
        config["chat_template"] = metadata["tokenizer.chat_template"]
    atomic_write(out / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
    stops = [metadata.get(f"tokenizer.ggml.{name}_token_id") for name in ("eos", "eot", "eom")]
    generation: dict[str, Any] = {
        f"{role}_token_id": int(id) for role in ("bos", "pad") if (id := ids[role]) is not None
    }
    found = list(dict.fromkeys(int(id) for id in stops if id is not None))
    if found:
        generation["eos_token_id"] = found[0] if len(found) == 1 else found
    atomic_write(out / "generation_config.json", json.dumps(generation, indent=2) + "\n")


def _byte_level(metadata: Mapping[str, Any]) -> Tokenizer:
    name = metadata.get("tokenizer.ggml.pre")
    if name not in _CUTS:
        raise BadInput(
            f"the GGUF file cuts text the way {name!r}, which is not known here",
            hint=f"known are {', '.join(sorted(_CUTS))}; use the original checkpoint",
        )
    tokens, types = _tokens(metadata)
    merges = [tuple(merge.split(" ", 1)) for merge in _needed(metadata, "merges")]
    plain = _without_added_end(tokens, types)
    ignore_merges = _CUTS[name] is _cut_llama3
    try:
        model = models.BPE({token: id for id, token in enumerate(plain)}, merges, ignore_merges=ignore_merges)
    except Exception as error:  # the Rust library raises plain Exception
        raise BadInput(f"vocabulary and merges of the GGUF file do not fit: {error}") from error
    tokenizer = Tokenizer(model)
    _CUTS[name](tokenizer)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    _finish(tokenizer, metadata, tokens, types, begins=ignore_merges)
    return tokenizer


def _sentencepiece(metadata: Mapping[str, Any]) -> Tokenizer:
    """SentencePiece's BPE has no merges but scores: the best-scored piece of two is joined first."""
    tokens, types = _tokens(metadata)
    scores = _needed(metadata, "scores")
    vocab = {token: id for id, token in enumerate(tokens)}
    merges = []
    for token, id in vocab.items():
        pairs = [(token[:at], token[at:]) for at in range(1, len(token))]
        found = sorted((vocab[a], vocab[b], a, b) for a, b in pairs if a in vocab and b in vocab)
        merges += [(scores[id], len(a), len(b), (a, b)) for _, _, a, b in found]
    merges.sort(key=lambda merge: merge[:3], reverse=True)
    unknown = tokens[int(metadata.get("tokenizer.ggml.unknown_token_id", 0))]
    tokenizer = Tokenizer(
        models.BPE(vocab, [pair for *_, pair in merges], unk_token=unknown, fuse_unk=True, byte_fallback=True)
    )
    has_prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    prefix = [normalizers.Prepend("▁")] if has_prefix else []
    tokenizer.normalizer = normalizers.Sequence([*prefix, normalizers.Replace(" ", "▁")])
    strip = [decoders.Strip(" ", 1, 0)] if has_prefix else []
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    _finish(tokenizer, metadata, tokens, types, begins=True)
    return tokenizer


def _finish(
    tokenizer: Tokenizer, metadata: Mapping[str, Any], tokens: list[str], types: list[int], begins: bool
) -> None:
    """Special tokens, others that are never cut, and the token every text begins with (by default if `begins`)."""
    for token, type in zip(tokens, types, strict=True):
        if type in (_UNKNOWN, _CONTROL):
            tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False)])
        elif type == _USER:
            tokenizer.add_tokens([AddedToken(token, special=False, normalized=False)])
    wrong = [token for id, token in enumerate(tokens) if types[id] != _UNUSED and tokenizer.token_to_id(token) != id]
    if wrong:
        raise BadInput(
            f"token {wrong[0]!r} of the GGUF file gets another id in a tokenizer.json",
            hint="use the original checkpoint",
        )
    bos, eos = (metadata.get(f"tokenizer.ggml.{role}_token_id") for role in ("bos", "eos"))
    before = [tokens[int(bos)]] if bos is not None and metadata.get("tokenizer.ggml.add_bos_token", begins) else []
    after = [tokens[int(eos)]] if eos is not None and metadata.get("tokenizer.ggml.add_eos_token", False) else []
    if before or after:
        one, other = (
            " ".join(f"{piece}:{n}" for piece in (*before, f"${name}", *after)) for n, name in enumerate("AB")
        )
        special = [(token, tokenizer.token_to_id(token)) for token in dict.fromkeys((*before, *after))]
        tokenizer.post_processor = processors.TemplateProcessing(
            single=one, pair=f"{one} {other}", special_tokens=special
        )


def _tokens(metadata: Mapping[str, Any]) -> tuple[list[str], list[int]]:
    """Spellings and types, without what only fills up the vocabulary at its end."""
    tokens = list(_needed(metadata, "tokens"))
    types = [int(type) for type in metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)]
    while types and types[-1] == _UNUSED:
        types.pop()
    return tokens[: len(types)], types


def _without_added_end(tokens: list[str], types: list[int]) -> list[str]:
    """The vocabulary proper: added tokens at the end are none of it."""
    end = len(tokens)
    while end and types[end - 1] in (_CONTROL, _USER):
        end -= 1
    return tokens[:end]


def _needed(metadata: Mapping[str, Any], name: str) -> Any:
    value = metadata.get(f"tokenizer.ggml.{name}")
    if not value:
        raise BadInput(f"the GGUF file lacks tokenizer.ggml.{name}", hint="convert the model again")
    return value


def _bytes(use_regex: bool) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)


def _cut_gpt2(tokenizer: Tokenizer) -> None:
    tokenizer.pre_tokenizer = _bytes(use_regex=True)


def _cut_smollm(tokenizer: Tokenizer) -> None:
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, _bytes(use_regex=True)])


def _cut_qwen2(tokenizer: Tokenizer) -> None:
    cut = pre_tokenizers.Split(Regex(_QWEN2), behavior="isolated")
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, _bytes(use_regex=False)])


def _cut_llama3(tokenizer: Tokenizer) -> None:
    cut = pre_tokenizers.Split(Regex(_LLAMA3), behavior="isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, _bytes(use_regex=False)])


_CUTS: Final[dict[str, Callable[[Tokenizer], None]]] = {
    "gpt-2": _cut_gpt2,
    "smollm": _cut_smollm,
    "qwen2": _cut_qwen2,
    "llama-bpe": _cut_llama3,
    "llama3": _cut_llama3,
    "llama-v3": _cut_llama3,
}
