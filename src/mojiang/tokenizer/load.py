"""Load a tokenizer: text to ids and back, pairs and words for encoders, chats with the mask of what is trained."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding
from tokenizers import Tokenizer as HuggingFaceTokenizer

from mojiang.core.errors import BadInput
from mojiang.tokenizer._chat import Chat, Labelled, SeamedTokenizer, Seams
from mojiang.tokenizer._format import CHAT_TEMPLATE, END_OF_TEXT, IM_END, IM_START, PAD, PATTERN
from mojiang.tokenizer._frame import Frame, learn_frame, longest_first
from mojiang.tokenizer._kind import Kind, kind_of, reachable_tokens, spelled, word_starts
from mojiang.tokenizer._lookup import Lookup, applies
from mojiang.tokenizer._messages import checked, plain_messages
from mojiang.tokenizer._special import SpecialTokens, mark_special, read_json, read_special_tokens
from mojiang.tokenizer._template import ChatTemplate, plain

Offsets = list[tuple[int, int]]
Templates = Mapping[str, str]
_OURS: Final = SpecialTokens({"eos": END_OF_TEXT, "pad": PAD})


class Tokenizer:
    """A tokenizer over a `tokenizer.json`: byte-level or SentencePiece-like BPE, Unigram, WordPiece.

    Text is only ever text: a user who writes `<|im_end|>` gets the tokens of these characters, never the one that
    ends a turn. Special tokens are placed by `render_chat`, `encode_pair`, `token_id` and whoever builds a prompt.
    """

    def __init__(
        self,
        tokenizer: HuggingFaceTokenizer,
        chat_template: str | None = CHAT_TEMPLATE,
        special: SpecialTokens = _OURS,
        tool_template: str | None = None,
    ) -> None:
        self._tokenizer = tokenizer
        self._tokenizer.encode_special_tokens = True  # that is: encode what looks special as ordinary text
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()
        self._special = special
        mark_special(tokenizer, SpecialTokens({r: t for r, t in special.named.items() if self._has(t)}, special.extra))
        self.chat_template = chat_template
        self.tool_template = tool_template

    # --- the vocabulary ------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """Number of ids, special tokens included: one more than the largest."""
        return self._vocab_size

    @cached_property
    def _vocab_size(self) -> int:
        ids = self._tokenizer.get_vocab(with_added_tokens=True).values()
        return 1 + max(ids, default=-1)

    @cached_property
    def kind(self) -> Kind:
        """How its tokens are written: byte-level, metaspace, wordpiece or plain."""
        return kind_of(self._spec)

    @property
    def eos_id(self) -> int:
        """Id of the token that ends a document; as the others below, `BadInput` if the folder names none."""
        return self._required("eos")

    @property
    def pad_id(self) -> int:
        """Id of the token that fills up rows; it is never trained on."""
        return self._required("pad")

    @property
    def bos_id(self) -> int:
        """Id of the token that begins a text."""
        return self._required("bos")

    @property
    def unk_id(self) -> int:
        """Id of the token for what the vocabulary cannot write."""
        return self._required("unk")

    @property
    def cls_id(self) -> int:
        """Id of the token whose hidden state stands for the whole text."""
        return self._required("cls")

    @property
    def sep_id(self) -> int:
        """Id of the token between two texts."""
        return self._required("sep")

    @property
    def mask_id(self) -> int:
        """Id of the token that hides a word from a masked language model."""
        return self._required("mask")

    def special_id(self, role: str) -> int | None:
        """Id of the token with the role bos, eos, unk, sep, pad, cls or mask; None if the folder names none."""
        text = self._special.named.get(role)
        return None if text is None else self._tokenizer.token_to_id(text)

    def _required(self, role: str) -> int:
        id = self.special_id(role)
        if id is None:
            raise BadInput(
                f"this tokenizer has no {role} token",
                hint=f"name one in tokenizer_config.json ({role}_token), or use a tokenizer that has it",
            )
        return id

    def token_id(self, token: str) -> int:
        """Id of a token by its exact spelling.

        Raises:
            BadInput: the vocabulary has no such token.
        """
        id = self._tokenizer.token_to_id(token)
        if id is None:
            raise BadInput(f"this tokenizer has no token {token!r}", hint="was it trained by tokenizer.bpe?")
        return int(id)

    def token(self, id: int) -> str:
        """The spelling of a token in the vocabulary.

        Raises:
            BadInput: the vocabulary has no such id.
        """
        text = self._tokenizer.id_to_token(id)
        if text is None:
            raise BadInput(f"this tokenizer has no token {id}", hint=f"its ids are 0 to {self.vocab_size - 1}")
        return str(text)

    @cached_property
    def special_ids(self) -> frozenset[int]:
        """Ids that stand for no text."""
        return frozenset(id for id, token in self._tokenizer.get_added_tokens_decoder().items() if token.special)

    @cached_property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end an answer: the end-of-text token and those that the model's generation config names."""
        eos = self.special_id("eos")
        return self._special.stop_ids | (frozenset() if eos is None else {eos})

    @property
    def borders(self) -> tuple[int, int]:
        """The token that a document is read from, and the one that ends it."""
        return (self.start_ids or [self.eos_id])[-1], self.eos_id

    @cached_property
    def start_ids(self) -> list[int]:
        """Ids that a document begins with: what the tokenizer puts there, else the end of the document before it."""
        before = list(self._frame(False).before[0])
        return before or ([self.token_id(END_OF_TEXT)] if self._has(END_OF_TEXT) else [])

    @cached_property
    def token_bytes(self) -> list[bytes]:
        """The bytes each id stands for; none for special tokens.

        A space before a word belongs to it, where the vocabulary writes one ("Ġthe", "▁the"); WordPiece's do not.
        """
        pieces = [b""] * self.vocab_size
        prefix = (self._spec.get("model") or {}).get("continuing_subword_prefix") or "##"
        for token, id in self._tokenizer.get_vocab(with_added_tokens=False).items():
            pieces[id] = spelled(token, self.kind, prefix)
        for id, added in self._tokenizer.get_added_tokens_decoder().items():
            pieces[id] = b"" if added.special else added.content.encode()
        return pieces

    @cached_property
    def byte_lengths(self) -> list[int]:
        """Bytes of text each id stands for; 0 for special tokens."""
        return [len(spelled) for spelled in self.token_bytes]

    def byte_length(self, ids: Iterable[int]) -> int:
        """Bytes of text the ids stand for together, the denominator of bits per byte.

        Exact for byte-level tokenizers; others normalise a text before they count it.
        """
        lengths = self.byte_lengths
        return sum(lengths[id] for id in ids)

    def check_fits(self, num_embeddings: int) -> None:
        """Raise `BadInput` if some id of this tokenizer has no embedding in a model with `num_embeddings`."""
        if self.vocab_size > num_embeddings:
            ids = f"{self.vocab_size:,} ids (the last is {self.token(self.vocab_size - 1)!r})"
            raise BadInput(
                f"the tokenizer has {ids}, the model embeds {num_embeddings:,}",
                hint="use the model's own tokenizer",
            )

    # --- text ----------------------------------------------------------------------------------------------------

    def encode(self, text: str) -> list[int]:
        """Ids of a text; no special token is added or recognised."""
        return self._read(text)[0]

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of several texts, on all cores."""
        if self._lookup:
            return [ids.tolist() for ids in self._lookup.encode_batch(texts)]
        ids = self._encode_plain(list(texts))
        if self._reachable:
            ids = [i if self._reachable.isdisjoint(i) else self.encode(t) for i, t in zip(ids, texts, strict=True)]
        return ids

    def encode_arrays(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        """The same as `encode_batch`, as arrays: no Python number is made for a token that was looked up."""
        if self._lookup:
            return self._lookup.encode_batch(texts)
        return [np.array(ids, np.uint32) for ids in self.encode_batch(texts)]

    def _encode_plain(self, texts: list[str]) -> list[list[int]]:
        encodings = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
        return [encoding.ids for encoding in encodings]

    @cached_property
    def _lookup(self) -> Lookup | None:
        special = [token["content"] for token in self._spec.get("added_tokens") or ()]
        if not special or self._reachable or not applies(self._spec, PATTERN):
            return None
        marked = HuggingFaceTokenizer.from_str(json.dumps(self._spec))
        marked.encode_special_tokens = False

        def encode_marked(texts: list[str]) -> list[list[int]]:
            return [encoding.ids for encoding in marked.encode_batch_fast(texts, add_special_tokens=False)]

        return Lookup(self._encode_plain, encode_marked, special, self.token_id(special[0]))

    def encode_with_offsets(self, text: str) -> tuple[list[int], Offsets]:
        """Ids of a text, and the characters [start, stop) of it that each stands for."""
        return self._read(text)

    def encode_words(self, words: Sequence[str]) -> tuple[list[int], list[int]]:
        """Ids of a text that is cut into words already, and for each id the number of its word.

        A byte-level tokenizer reads each word as standing after a space. A word of which nothing is left (a control
        character) has no ids.
        """
        apart = self.kind == "byte-level" and not self._adds_space
        texts = [f" {word}" if apart else word for word in words]
        encoding = self._tokenizer.encode(texts, is_pretokenized=True, add_special_tokens=False)
        if self._reachable.isdisjoint(encoding.ids):
            return list(encoding.ids), [int(number) for number in encoding.word_ids if number is not None]
        ids, numbers = [], []
        for number, text in enumerate(texts):
            of_word = self.encode(text)
            ids += of_word
            numbers += [number] * len(of_word)
        return ids, numbers

    def frame(self, a: Sequence[int], b: Sequence[int] | None = None) -> tuple[list[int], list[int]]:
        """Ids and segment ids of one text or two with the special tokens around them: `[CLS] a [SEP] b [SEP]`."""
        return self._frame(b is not None).around(a, b)

    def frame_size(self, pair: bool) -> int:
        """How many tokens `frame` adds."""
        return self._frame(pair).num_added

    def frame_start(self, pair: bool) -> int:
        """Where in a framed sequence the first text begins."""
        return len(self._frame(pair).before[0])

    def encode_pair(self, a: str, b: str | None, max_tokens: int) -> tuple[list[int], list[int]]:
        """Ids and segment ids of a text or two, framed, and cut to `max_tokens`: the longer text loses its end first.

        Equal to `transformers`' `tokenizer(a, b, truncation=True, max_length=max_tokens)`.

        Raises:
            BadInput: not even the special tokens fit.
        """
        room = max_tokens - self.frame_size(b is not None)
        if room < 0:
            raise BadInput(
                f"{max_tokens} tokens have no room for the {self.frame_size(b is not None)} special ones",
                hint="allow longer sequences",
            )
        first, second = self.encode(a), None if b is None else self.encode(b)
        if second is None:
            return self.frame(first[:room])
        keep_a, keep_b = longest_first(len(first), len(second), room)
        return self.frame(first[:keep_a], second[:keep_b])

    def word_starts(self, ids: Sequence[int]) -> list[bool]:
        """For each id whether a word begins with it: what whole-word masking masks together, see `_kind.word_starts`.

        WordPiece's continuations ("##ing") go on with a word; each Chinese character is a word of its own.
        """
        if self.kind == "wordpiece":
            return [id not in self._continuations for id in ids]
        return word_starts(ids, self.token_bytes)

    def decode(self, ids: Iterable[int], skip_special: bool = True) -> str:
        """Text of ids; bytes that are no whole character become U+FFFD."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=skip_special))

    def heal(self, text: str) -> tuple[list[int], str]:
        """Ids of a text without its last word (a piece that merges never cross), and that word.

        For a text that will be continued: the first tokens of what follows may then cross the border (token healing).
        Only byte-level tokenizers can take a word back: others hide a space in its first token.
        """
        encoding = self._tokenizer.encode(text, add_special_tokens=False)
        words = encoding.word_ids
        if not words or self.kind != "byte-level" or not self._reachable.isdisjoint(encoding.ids):
            return self.encode(text), ""
        first = words.index(words[-1])
        taken = text[encoding.offsets[first][0] :]
        return list(encoding.ids[:first]), self._normal(taken)

    # --- chats ---------------------------------------------------------------------------------------------------

    def render_chat(
        self,
        messages: Sequence[Mapping[str, Any]],
        add_generation_prompt: bool = False,
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Ids of a conversation, equal to `transformers`' `apply_chat_template` on the same messages.

        Except where a message holds special tokens: here they stay text, see `_chat`.

        Args:
            messages: {"role": "system" | "user" | "assistant" | "tool", "content": str}, oldest first; an assistant's
                may have "tool_calls".
            add_generation_prompt: end with the opening of the assistant's turn.
            tools: JSON schemas of functions the model may call.
            variables: what else the template reads, such as `enable_thinking`.

        Raises:
            BadInput: a message is malformed, there is no chat template, or the template refuses the conversation.
        """
        if self._is_ours(tools):
            ids = [id for turn, _ in self._turns(messages) for id in turn]
            if add_generation_prompt:
                ids += [self.token_id(IM_START), *self.encode("assistant\n")]
            return ids
        chat = self._chat(bool(tools))
        shown = plain_messages(messages, chat.template)
        return chat.ids(shown, plain(tools) if tools else None, add_generation_prompt, plain(variables or {}))

    def chat_spans(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
        last_only: bool = False,
    ) -> Labelled:
        """Ids of a conversation, and for each whether it is trained on.

        Trained are the assistant's words and calls and the token that ends them: exactly what the model has to write
        when it answers; with `last_only` only its last turn. Role lines and everybody else's turns are not. Today's
        date never enters.

        Raises:
            BadInput: as `render_chat`; or the template ends no turn by a special token, or rewrites earlier ones.
        """
        if not self._is_ours(tools):
            found = self._sequences(messages, tools, variables, last_only)
            if len(found) > 1:
                raise BadInput(
                    "the chat template writes answers otherwise when the conversation goes on (it takes thoughts out)",
                    hint="train on each answer by itself (chat_sequences), or on the last one only",
                )
            return found[0]
        turns = list(self._turns(messages))
        ids = [id for turn, _ in turns for id in turn]
        last = max((number for number, (_, mask) in enumerate(turns) if any(mask)), default=0) if last_only else 0
        return ids, [own and number >= last for number, (_, mask) in enumerate(turns) for own in mask]

    def chat_sequences(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        variables: Mapping[str, Any] | None = None,
    ) -> list[Labelled]:
        """What to train on a conversation: one sequence, or one per answer where the template rewrites earlier ones."""
        if self._is_ours(tools):
            return [self.chat_spans(messages)]
        return self._sequences(messages, tools, variables, False)

    def _sequences(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None,
        variables: Mapping[str, Any] | None,
        last_only: bool,
    ) -> list[Labelled]:
        chat = self._chat(bool(tools))
        shown = plain_messages(messages, chat.template)
        return chat.sequences(shown, plain(tools) if tools else None, plain(variables or {}), last_only)

    def _is_ours(self, tools: Sequence[Mapping[str, Any]] | None) -> bool:
        """Whether the template is the one that tokenizer.bpe writes, which needs no Jinja."""
        if self.chat_template is None:
            raise BadInput(
                "this tokenizer has no chat template", hint="use it for completion, or add one to tokenizer_config.json"
            )
        return self.chat_template == CHAT_TEMPLATE and not tools

    def _chat(self, with_tools: bool) -> Chat:
        made = self._chats.get(with_tools)
        if made is None:
            source = (self.tool_template if with_tools else None) or self.chat_template
            template = ChatTemplate(str(source), {r: t for r, t in self._special.named.items() if self._has(t)})
            if with_tools and "tools" not in template.reads:
                raise BadInput(
                    "tools are given, and the chat template does not show them to the model",
                    hint="use a model whose template knows tools, or describe them in a system message",
                )
            made = self._chats[with_tools] = Chat(template, self._tokenizer, self._seamed)
        return made

    @cached_property
    def _chats(self) -> dict[bool, Chat]:
        return {}

    def _turns(self, messages: Sequence[Mapping[str, Any]]) -> Iterable[tuple[list[int], list[bool]]]:
        """Our own template, turn by turn: the fast path."""
        start, end, newline = self.token_id(IM_START), self.token_id(IM_END), self.encode("\n")
        for role, content in checked(messages):
            header = self.encode(f"{role}\n")
            # Encoded together, as any other tool would; the pattern keeps the role line apart from what follows.
            body = self.encode(f"{role}\n{content}")
            is_answer = role == "assistant"
            yield (
                [start, *body, end, *newline],
                [False, *[False] * len(header), *[is_answer] * (len(body) - len(header)), is_answer]
                + [False] * len(newline),
            )

    # --- machinery -----------------------------------------------------------------------------------------------

    def _read(self, text: str) -> tuple[list[int], Offsets]:
        """Ids and offsets of a text in which no special token is found, however its characters combine."""
        encoding: Encoding = self._tokenizer.encode(text, add_special_tokens=False)
        if self._reachable.isdisjoint(encoding.ids):
            return list(encoding.ids), list(encoding.offsets)
        # A vocabulary that holds "</s>" as a piece: the text is cut inside it. What only a normaliser makes of other
        # characters cannot be cut there, and is refused.
        names = [token.content for token in self._tokenizer.get_added_tokens_decoder().values() if token.special]
        cut = Seams(names).cut(text)
        ids, offsets = self._seamed.encode(cut)
        places = _places_without_seams(cut, text)
        return ids, [(places[start], places[stop]) for start, stop in offsets]

    @cached_property
    def _spec(self) -> dict[str, Any]:
        spec: dict[str, Any] = json.loads(self._tokenizer.to_str())
        return spec

    def _has(self, token: str) -> bool:
        return self._tokenizer.token_to_id(token) is not None

    @cached_property
    def _reachable(self) -> frozenset[int]:
        """Special ids, except for unknown characters, that the model could make of plain text."""
        tokens = reachable_tokens(self._spec)
        special = {id: self.token(id) for id in self.special_ids}
        return frozenset(id for id, text in special.items() if text in tokens) - self._exempt

    @cached_property
    def _exempt(self) -> frozenset[int]:
        """The unknown token: plain text may well become it."""
        unknown = self.special_id("unk")
        return frozenset() if unknown is None or self.kind == "byte-level" else frozenset({unknown})

    @cached_property
    def _seamed(self) -> SeamedTokenizer:
        return SeamedTokenizer(self._tokenizer, self._exempt)

    @cached_property
    def _frames(self) -> dict[bool, Frame]:
        return {}

    def _frame(self, pair: bool) -> Frame:
        if pair not in self._frames:
            self._frames[pair] = learn_frame(self._tokenizer, pair)
        return self._frames[pair]

    @cached_property
    def _continuations(self) -> frozenset[int]:
        prefix = (self._spec.get("model") or {}).get("continuing_subword_prefix") or "##"
        vocab = self._tokenizer.get_vocab(with_added_tokens=False)
        return frozenset(id for token, id in vocab.items() if token.startswith(prefix)) - self.special_ids

    @cached_property
    def _adds_space(self) -> bool:
        return '"add_prefix_space": true' in json.dumps(self._spec.get("pre_tokenizer"))

    def _normal(self, text: str) -> str:
        normalizer = self._tokenizer.normalizer
        return text if normalizer is None else str(normalizer.normalize_str(text))


def _places_without_seams(cut: str, text: str) -> list[int]:
    """For each position of the text with seams, the position in the text without."""
    places, at = [], 0
    for letter in cut:
        places.append(at)
        at += at < len(text) and letter == text[at]
    return [*places, len(text)]


def load_tokenizer(path: Path) -> Tokenizer:
    """Load the tokenizer of a tokenizer artifact or of any model folder that has a `tokenizer.json`.

    Raises:
        BadInput: a file is missing or broken, or two of them do not belong together.
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
    special = read_special_tokens(path, tokenizer, spec)
    templates = _templates(path)
    return Tokenizer(tokenizer, templates.get("default"), special, templates.get("tool_use"))


def _templates(path: Path) -> Templates:
    """Chat templates by name: "default", and in some folders "tool_use"."""
    # transformers 5 writes the template into a file of its own when it saves a tokenizer again.
    files = {"default": path / "chat_template.jinja", "tool_use": path / "additional_chat_templates" / "tool_use.jinja"}
    found = {name: file.read_text(encoding="utf-8") for name, file in files.items() if file.is_file()}
    file = path / "tokenizer_config.json"
    template = read_json(file).get("chat_template")
    if isinstance(template, list) and all(isinstance(entry, dict) for entry in template):
        template = {entry.get("name"): entry.get("template") for entry in template}
        if all(isinstance(text, str) for text in template.values()):
            return {**template, **found}
    if template is not None and not isinstance(template, str):
        raise BadInput(f"the chat_template in {file} is {type(template).__name__}", hint="it must be one string")
    return found if template is None else {"default": template, **found}
