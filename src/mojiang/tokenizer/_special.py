"""Special tokens of a folder: which token begins, ends, pads, separates and masks, as its own files say.

A role that no file names stays empty: a wrong stop token costs a training run, a missing one costs a question.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from tokenizers import AddedToken
from tokenizers import Tokenizer as HuggingFaceTokenizer

from mojiang.core.errors import BadInput

ROLES: Final = ("bos", "eos", "unk", "sep", "pad", "cls", "mask")

# BERT's own spelling, for folders of that time whose files name no role; and RoBERTa's mask.
_BRACKETED: Final = {"unk": "[UNK]", "sep": "[SEP]", "pad": "[PAD]", "cls": "[CLS]", "mask": "[MASK]"}
_MASKS: Final = ("[MASK]", "<mask>")


@dataclass(frozen=True)
class SpecialTokens:
    """What each role is spelled like, the other special tokens, and every id the model's configs say ends an answer."""

    named: Mapping[str, str]
    extra: tuple[str, ...] = ()
    stop_ids: frozenset[int] = frozenset()


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file, empty where there is no such file.

    Raises:
        BadInput: the file holds something else.
    """
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInput(
            f"{file} is not JSON: {error}", hint="copy the file again, or make the tokenizer again"
        ) from None
    if not isinstance(content, dict):
        raise BadInput(f"{file} holds no JSON object", hint="copy the file again, or make the tokenizer again")
    return content


def read_special_tokens(folder: Path, tokenizer: HuggingFaceTokenizer, spec: Mapping[str, Any]) -> SpecialTokens:
    """The special tokens of a folder, after those that only its configs declare were added to `tokenizer`.

    The first of these that names a role decides it, as in `transformers`: tokenizer_config.json (or, in old folders,
    special_tokens_map.json), the ids in generation_config.json and config.json, and tokenizer.json itself.
    """
    config = read_json(folder / "tokenizer_config.json")
    mapped = read_json(folder / "special_tokens_map.json")
    declared = config.get("added_tokens_decoder")
    _add_declared(tokenizer, declared or {}, folder)
    files = [config, mapped] if declared else [mapped, config]
    models = [read_json(folder / name) for name in ("generation_config.json", "config.json")]
    own = _from_spec(spec, tokenizer)
    named = {
        role: text
        for role in ROLES
        if (text := _by_name(files, role, tokenizer) or _by_id(models, role, tokenizer) or own.get(role)) is not None
    }
    extra = tuple(text for file in files for text in _extra(file) if tokenizer.token_to_id(text) is not None)
    stops = frozenset(id for model in models for id in _ids(model.get("eos_token_id")))
    return SpecialTokens(named, extra, stops)


def mark_special(tokenizer: HuggingFaceTokenizer, tokens: SpecialTokens) -> None:
    """Make what the configs call special also special to the tokenizer, so that no text is read as it."""
    known = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    missing = [text for text in (*tokens.named.values(), *tokens.extra) if text not in known]
    if missing:
        tokenizer.add_special_tokens([AddedToken(text, special=True, normalized=False) for text in missing])


def _spelling(value: Any) -> str | None:
    """A token as the files write it: its text, or an object with the text."""
    text = value.get("content") if isinstance(value, Mapping) else value
    return text if isinstance(text, str) and text else None


def _by_name(files: list[dict[str, Any]], role: str, tokenizer: HuggingFaceTokenizer) -> str | None:
    texts = [_spelling(file.get(f"{role}_token")) for file in files]
    return next((text for text in texts if text is not None and tokenizer.token_to_id(text) is not None), None)


def _ids(value: Any) -> list[int]:
    values = value if isinstance(value, list) else [value]
    return [id for id in values if isinstance(id, int) and not isinstance(id, bool) and id >= 0]


def _by_id(files: list[dict[str, Any]], role: str, tokenizer: HuggingFaceTokenizer) -> str | None:
    texts = [tokenizer.id_to_token(id) for file in files for id in _ids(file.get(f"{role}_token_id"))]
    return next((text for text in texts if text is not None), None)


def _from_spec(spec: Mapping[str, Any], tokenizer: HuggingFaceTokenizer) -> dict[str, str]:
    """Roles that tokenizer.json itself gives: the model's unknown token, BERT's and RoBERTa's frame, the padding."""
    model, frame = spec.get("model") or {}, spec.get("post_processor") or {}
    unknown, position = model.get("unk_token"), model.get("unk_id")
    if isinstance(position, int) and isinstance(model.get("vocab"), list) and position < len(model["vocab"]):
        unknown = model["vocab"][position][0]
    found = {"unk": unknown, "pad": (spec.get("padding") or {}).get("pad_token")}
    for role in ("sep", "cls"):
        pair = frame.get(role)
        found[role] = pair[0] if isinstance(pair, list) and pair else None
    special = {token.content for token in tokenizer.get_added_tokens_decoder().values() if token.special}
    found["mask"] = next((text for text in _MASKS if text in special), None)
    given = {r: t for r, t in found.items() if isinstance(t, str) and tokenizer.token_to_id(t) is not None}
    return {**{role: text for role, text in _BRACKETED.items() if text in special}, **given}


def _extra(file: dict[str, Any]) -> Iterator[str]:
    for key in ("additional_special_tokens", "extra_special_tokens"):
        values = file.get(key) or []
        for value in values.values() if isinstance(values, Mapping) else values:
            text = _spelling(value)
            if text is not None:
                yield text


def _add_declared(tokenizer: HuggingFaceTokenizer, declared: Mapping[str, Any], folder: Path) -> None:
    """Tokens that tokenizer_config.json adds beyond tokenizer.json, in the order of their ids."""
    for id, value in sorted(((int(id), value) for id, value in declared.items()), key=lambda pair: pair[0]):
        text = _spelling(value)
        if text is None or tokenizer.token_to_id(text) is not None:
            continue
        flags = {name: bool(value.get(name)) for name in ("lstrip", "rstrip", "single_word", "normalized", "special")}
        tokenizer.add_tokens([AddedToken(text, **flags)])
        if tokenizer.token_to_id(text) != id:
            raise BadInput(
                f"{folder / 'tokenizer_config.json'} says that {text!r} is token {id}; after tokenizer.json it is "
                f"{tokenizer.token_to_id(text)}",
                hint="the two files do not belong together; copy both from the same model",
            )
