"""What a Mojiang tokenizer is on disk: special tokens, the pattern that cuts text, the chat template.

Both files are Hugging Face's formats; `transformers.AutoTokenizer` loads the folder and gives the same ids.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers

from mojiang.core.files import atomic_write

END_OF_TEXT: Final = "<|endoftext|>"
PAD: Final = "<|pad|>"
IM_START: Final = "<|im_start|>"
IM_END: Final = "<|im_end|>"
FIM_PREFIX: Final = "<|fim_prefix|>"
FIM_MIDDLE: Final = "<|fim_middle|>"
FIM_SUFFIX: Final = "<|fim_suffix|>"
SPECIAL_TOKENS: Final = (END_OF_TEXT, PAD, IM_START, IM_END, FIM_PREFIX, FIM_MIDDLE, FIM_SUFFIX)  # ids 0 to 6


def _letter_bytes() -> dict[str, int]:
    """GPT-2's byte-level alphabet: each byte is written as one printable letter."""
    printable = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


LETTER_BYTES: Final = _letter_bytes()

# Merges never cross a cut, so the cuts decide speed, memory and what a token can be:
_LETTER: Final = r"[[\p{L}\p{M}]&&[^\p{Han}]]"
PATTERN: Final = "|".join(
    (
        r"\A[a-z]{1,16}\n",  # the role line of a chat turn stands alone, whatever its message begins with
        r"(?i:'(?:s|t|re|ve|m|ll|d))(?!\p{L})",  # it's, but not the 's of a quoted 'self'
        r"\p{Han}{1,16}",  # Chinese has no spaces: unbounded, whole sentences become "words" and memory explodes
        rf"[^\r\n\p{{L}}\p{{M}}\p{{N}}]?{_LETTER}{{1,32}}",  # a word, with the space, dot or underscore before it
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{M}\p{N}]{1,16}(?:[\r\n]{1,16}[ \t]{0,64})?",  # `):` with the line end and indentation behind it
        r"[\r\n]{1,16}[ \t]{0,64}",
        r"[ \t]{1,64}(?!\S)",
        r"\s{1,64}",
    )
)

# ChatML as Qwen writes it, without a default system message.
CHAT_TEMPLATE: Final = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def empty_tokenizer() -> Tokenizer:
    """A byte-level BPE without merges: no normaliser, so that decoding gives back every byte."""
    tokenizer = Tokenizer(models.BPE())
    cut = pre_tokenizers.Split(Regex(PATTERN), behavior="isolated")
    bytes_to_letters = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([cut, bytes_to_letters])
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def save_tokenizer(tokenizer: Tokenizer, folder: Path, settings: dict[str, Any] | None = None) -> None:
    """Write tokenizer.json and tokenizer_config.json; `settings` name the special tokens, by default our BPE's."""
    ours: dict[str, Any] = {
        "eos_token": END_OF_TEXT,
        "pad_token": PAD,
        "additional_special_tokens": [t for t in SPECIAL_TOKENS if t not in (END_OF_TEXT, PAD)],
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    config = {"tokenizer_class": "PreTrainedTokenizerFast", **(ours if settings is None else settings)}
    atomic_write(folder / "tokenizer.json", tokenizer.to_str(pretty=False))
    atomic_write(folder / "tokenizer_config.json", json.dumps(config, indent=2, ensure_ascii=False) + "\n")
