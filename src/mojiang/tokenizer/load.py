"""Load a tokenizer: text to ids and back, chats to ids with the mask of what is trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

from tokenizers import Tokenizer as HuggingFaceTokenizer

from mojiang.core.errors import BadInput
from mojiang.tokenizer._format import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START, LETTER_BYTES, PAD

ROLES: Final = ("system", "user", "assistant", "tool")


class Tokenizer:
    """A byte-level tokenizer over a `tokenizer.json`.

    Text is only ever text: a user who writes `<|im_end|>` gets the tokens of these characters, never the one that
    ends a turn. Special tokens are placed by `render_chat`, `token_id` and whoever builds a prompt.
    """

    def __init__(self, tokenizer: HuggingFaceTokenizer, chat_template: str | None = CHAT_TEMPLATE) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True  # that is: encode what looks special as ordinary text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self.chat_template = chat_template

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included."""
        return int(self._tokenizer.get_vocab_size(with_added_tokens=True))

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a document."""
        return self.token_id(END_OF_TEXT)

    @property
    def pad_id(self) -> int:
        """Id of the token that fills up rows; it is never trained on."""
        return self.token_id(PAD)

    def token_id(self, token: str) -> int:
        """Id of a token by its exact spelling.

        Raises:
            BadInput: the vocabulary has no such token.
        """
        id = self._tokenizer.token_to_id(token)
        if id is None:
            raise BadInput(f"this tokenizer has no token {token!r}", hint="was it trained by tokenizer.bpe?")
        return int(id)

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no special token is added or recognised."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def heal(self, text: str) -> tuple[list[int], str]:
        """Ids of a text without its last word (a piece that merges never cross), and that word.

        For a text that will be continued: the first tokens of what follows may then cross the border (token healing).
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        words = encoding.word_ids
        if not words:
            return [], ""
        first = words.index(words[-1])
        return list(encoding.ids[:first]), text[encoding.offsets[first][0] :]

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for; none for special tokens."""
        spelled = [b""] * self.vocab_size
        for token, id in self._tokenizer.get_vocab(with_added_tokens=False).items():
            if id not in self.special_ids:
                spelled[id] = bytes(LETTER_BYTES[letter] for letter in token)
        return spelled

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, on all cores."""
        return [list(e.ids) for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids; bytes that are no whole character become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return frozenset(id for id, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def byte_lengths(self) -> list[int]:
        """Bytes of text each id stands for; 0 for special tokens."""
        return [len(spelled) for spelled in self.token_bytes]

    def byte_length(self, ids: Iterable[int]) -> int:
        """Bytes of text the ids stand for together, the denominator of bits per byte."""
        lengths = self.byte_lengths
        return sum(lengths[id] for id in ids)

    def render_chat(self, messages: Sequence[Mapping[str, Any]], add_generation_prompt: bool = False) -> list[int]:
        """Ids of a conversation in ChatML, equal to `transformers`' `apply_chat_template` on the same messages.

        Args:
            messages: {"role": "system" | "user" | "assistant" | "tool", "content": str}, oldest first.
            add_generation_prompt: end with the opening of the assistant's turn.

        Raises:
            BadInput: a message is malformed, or the tokenizer has no (or another) chat template.
        """
        ids = [id for turn, _ in self._turns(messages) for id in turn]
        if add_generation_prompt:
            ids += [self.token_id(IM_START), *self.encode("assistant\n")]
        return ids

    def chat_spans(self, messages: Sequence[Mapping[str, Any]]) -> tuple[list[int], list[bool]]:
        """Ids of a conversation, and for each whether it is trained on.

        Trained are the assistant's words and the `<|im_end|>` that ends them: exactly what the model has to write when
        it answers. Role lines and everybody else's turns are not.
        """
        ids: list[int] = []
        trained: list[bool] = []
        for turn, mask in self._turns(messages):
            ids += turn
            trained += mask
        return ids, trained

    def _turns(self, messages: Sequence[Mapping[str, Any]]) -> Iterable[tuple[list[int], list[bool]]]:
        self._check_template()
        if not messages:
            raise BadInput("the conversation has no messages", hint='give at least {"role": "user", "content": "…"}')
        start, end, newline = self.token_id(IM_START), self.token_id(IM_END), self.encode("\n")
        for number, message in enumerate(messages):
            role, content = _checked(message, number)
            header = self.encode(f"{role}\n")
            # Encoded together, as any other tool would; the pattern keeps the role line apart from what follows.
            body = self.encode(f"{role}\n{content}")
            is_answer = role == "assistant"
            yield (
                [start, *body, end, *newline],
                [False, *[False] * len(header), *[is_answer] * (len(body) - len(header)), is_answer]
                + [False] * len(newline),
            )

    def _check_template(self) -> None:
        if self.chat_template is None:
            raise BadInput(
                "this tokenizer has no chat template", hint="use it for completion, or add one to tokenizer_config.json"
            )
        if self.chat_template != CHAT_TEMPLATE:
            raise BadInput(
                f"the chat template of this tokenizer is not ours: {self.chat_template[:80]!r}…",
                hint="only the ChatML template that tokenizer.bpe writes is supported here",
            )


def _checked(message: Any, number: int) -> tuple[str, str]:
    if not isinstance(message, Mapping) or not {"role", "content"} <= set(message):
        raise BadInput(f"message {number} is {message!r}", hint='each message is {"role": "…", "content": "…"}')
    role, content = message["role"], message["content"]
    if role not in ROLES:
        raise BadInput(f"message {number} has the role {role!r}", hint="use one of " + ", ".join(ROLES))
    if not isinstance(content, str):
        raise BadInput(f"the content of message {number} is {type(content).__name__}", hint="it must be a string")
    return role, content


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer of a tokenizer artifact or of any model folder that has a byte-level `tokenizer.json`.

    Raises:
        BadInput: a file is missing or broken, or the tokenizer is not byte-level.
    """
    path = Path(path)
    file = path / "tokenizer.json"
    if not file.is_file():
        raise BadInput(f"{path} has no tokenizer.json", hint="give the folder of a tokenizer or a model")
    try:
        text = file.read_text(encoding="utf-8")
        spec = json.loads(text)
        tokenizer = HuggingFaceTokenizer.from_str(text)
    except Exception as error:  # the Rust library raises plain Exception
        raise BadInput(f"{file} is not a tokenizer: {error}", hint="make the tokenizer again") from error
    if "ByteLevel" not in json.dumps(spec.get("decoder")):
        raise BadInput(f"{file} is not a byte-level tokenizer", hint="only byte-level BPE is supported here")
    return Tokenizer(tokenizer, _template(path))


def _template(path: Path) -> str | None:
    # transformers 5 writes the template into a file of its own when it saves a tokenizer again.
    if (path / "chat_template.jinja").is_file():
        return (path / "chat_template.jinja").read_text(encoding="utf-8")
    file = path / "tokenizer_config.json"
    if not file.is_file():
        return None
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInput(
            f"{file} is not JSON: {error}", hint="copy the file again, or make the tokenizer again"
        ) from error
    template = config.get("chat_template") if isinstance(config, dict) else None
    if template is not None and not isinstance(template, str):
        raise BadInput(f"the chat_template in {file} is {type(template).__name__}", hint="it must be one string")
    return template
