"""Answers in OpenAI's shape."""

from __future__ import annotations

import time
import uuid
from collections.abc import Sequence
from typing import Any, Literal

from mojiang.generate.engine import Generation, TokenLogprob
from mojiang.serve._models import ServedModel

Json = dict[str, Any]
Kind = Literal["chat", "completion"]


class Reply:
    """Builds the objects of one answer; the id, the time and the model are the same in all of them."""

    def __init__(self, kind: Kind, model: ServedModel, with_logprobs: bool) -> None:
        self.kind, self.model, self.with_logprobs = kind, model, with_logprobs
        self._id = f"{'chatcmpl' if kind == 'chat' else 'cmpl'}-{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._offsets: dict[int, int] = {}

    def whole(self, generations: Sequence[Generation], echo: Sequence[str], usage: Json) -> Json:
        """The answer of a request that does not stream."""
        choices = []
        for index, (generation, before) in enumerate(zip(generations, echo, strict=True)):
            text = before + generation.text
            body: Json = (
                {"message": {"role": "assistant", "content": text, "refusal": None}}
                if self.kind == "chat"
                else {"text": text}
            )
            logprobs = self._logprobs(index, generation.logprobs)
            choices.append({"index": index, **body, "logprobs": logprobs, "finish_reason": generation.finish_reason})
        return self._object("", choices) | {"usage": usage}

    def chunk(
        self, index: int, text: str, logprobs: Sequence[TokenLogprob], finish_reason: str | None, first: bool = False
    ) -> Json:
        """One piece of a streamed choice."""
        body: Json = {"text": text}
        if self.kind == "chat":
            delta: Json = {"role": "assistant", "content": ""} if first else {}
            body = {"delta": delta | ({"content": text} if text else {})}
        scores = self._logprobs(index, logprobs) if logprobs else None
        return self._object(".chunk", [{"index": index, **body, "logprobs": scores, "finish_reason": finish_reason}])

    def usage_chunk(self, usage: Json) -> Json:
        """The last chunk, asked for by `stream_options`."""
        return self._object(".chunk", []) | {"usage": usage}

    def _object(self, suffix: str, choices: list[Json]) -> Json:
        # The completions endpoint has one name for both.
        name = f"chat.completion{suffix}" if self.kind == "chat" else "text_completion"
        return {
            "id": self._id,
            "object": name,
            "created": self._created,
            "model": self.model.name,
            "system_fingerprint": self.model.system_fingerprint,
            "choices": choices,
        }

    def _logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> Json | None:
        if not self.with_logprobs:
            return None
        decode = self.model.tokenizer.decode
        if self.kind == "chat":
            return {"content": [self._chat_entry(entry) for entry in entries], "refusal": None}
        tokens = [decode([entry.token]) for entry in entries]
        offset, offsets = self._offsets.get(index, 0), []
        for token in tokens:
            offsets.append(offset)
            offset += len(token)
        self._offsets[index] = offset
        return {
            "tokens": tokens,
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{decode([t]): value for t, value in entry.top} for entry in entries],
            "text_offset": offsets,
        }

    def _chat_entry(self, entry: TokenLogprob) -> Json:
        top = [self._scored(token, value) for token, value in entry.top]
        return self._scored(entry.token, entry.logprob) | {"top_logprobs": top}

    def _scored(self, token: int, value: float) -> Json:
        text = self.model.tokenizer.decode([token])
        # A token that is part of a character has no text of its own, and U+FFFD's bytes would be a lie.
        return {"token": text, "logprob": value, "bytes": None if "\ufffd" in text else list(text.encode())}


def usage(prompt_tokens: int, completion_tokens: int) -> Json:
    """Token counts of one request."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }
