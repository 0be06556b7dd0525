"""What the model writes: continuations of held-out openings, for people to read."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from mojiang.core.report import Sample
from mojiang.evaluate._held_out import Document
from mojiang.generate.engine import Engine, Generation, GenerationRequest, Sampling, healed_prompt
from mojiang.model.network import Network
from mojiang.tokenizer.load import Tokenizer

OPENING_CHARS = 240

# Greedy continuations of a small model loop; readers should see what a user would get.
READABLE = Sampling(temperature=0.7, top_p=0.95, seed=0)


def opening(text: str, max_chars: int = OPENING_CHARS) -> str:
    """The first lines of a text, at most `max_chars` characters and half of it, cut after a line where there is one.

    >>> opening("one\\ntwo\\nthree\\nfour\\n", max_chars=9)
    'one\\ntwo\\n'
    """
    head = text[: max(1, min(max_chars, len(text) // 2))]
    return head[: head.rfind("\n") + 1] or head


def continuations(
    model: Network, tokenizer: Tokenizer, documents: Sequence[Document], max_tokens: int, sampling: Sampling = READABLE
) -> list[Sample]:
    """One continuation for each document's opening."""
    openings = [opening(document.text) for document in documents]
    written = continue_openings(model, tokenizer, openings, max_tokens, sampling)
    return [
        Sample(title=document.path, prompt=prompt, text=generation.text)
        for document, prompt, generation in zip(documents, openings, written, strict=True)
    ]


def continue_openings(
    model: Network,
    tokenizer: Tokenizer,
    openings: Sequence[str],
    max_tokens: int,
    sampling: Sampling,
    on_done: Callable[[int], object] = lambda done: None,
) -> list[Generation]:
    """Continue texts that open a document; each prompt starts at <|endoftext|> and is cut on the left to fit.

    `on_done` is called with the number of finished continuations after each; what it raises ends the work.
    """
    if not openings:
        return []
    room = model.config.max_position_embeddings - max_tokens - 1
    requests = []
    for text in openings:
        ids, begins = healed_prompt(tokenizer, text)
        start = len(tokenizer.start_ids)
        kept = ids[start:][-max(room - len(tokenizer.encode(begins)), 1) :]
        requests.append(GenerationRequest((*ids[:start], *kept), max_tokens, sampling, begins=begins))
    with Engine(model, tokenizer, max_queue=len(requests)) as engine:
        streams = [engine.submit(request) for request in requests]
        written = []
        for stream in streams:
            written.append(stream.result())
            on_done(len(written))
    return written
