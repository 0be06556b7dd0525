"""Conversations on their way to training: token shards, the label audit, packed rows beside replayed text."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from mojiang.core.errors import BadInput
from mojiang.core.run import Run
from mojiang.data._documents import read_documents
from mojiang.data.mine import read_conversations
from mojiang.model.network import Network
from mojiang.tokenizer._encode import conversation_sequences, document_sequences, read_texts
from mojiang.tokenizer._pack import PackedRows, Sequence, Shards, sample_of, write_shards
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._audit import Audit, audit_conversations, check_vocabulary
from mojiang.train._batches import Mixed, Shuffled
from mojiang.train._objective import CausalLM

VALIDATION_TOKENS = 2**16
"""Of held-out conversations, drawn evenly: more of them change a figure by less than a seed does."""


@dataclass(frozen=True)
class Conversations:
    """Token shards of the conversations (train, validation), of the text to replay, and what the audit saw."""

    train: Shards
    validation: Shards | None
    replay: Shards | None
    audit: Audit


def shards_of(run: Run, name: str, sequences: Iterable[Sequence], vocab_size: int) -> Shards:
    """Sequences as token shards, made once per run and kept in its scratch folder."""
    folder = run.scratch / f"tokens-{name}"
    return Shards(folder) if (folder / "index.json").exists() else write_shards(sequences, folder, vocab_size)


def read_audited(run: Run, model: Network, tokenizer: Tokenizer, replay: Path | None = None) -> Conversations:
    """The conversations of the run's input `data` as shards, their labels audited.

    Raises:
        BadInput: there are none, a label is wrong, or tokenizer and model do not fit. Nothing is trained then.
    """
    check_vocabulary(tokenizer, model.config)
    data = run.input("data").path

    def chats(split: str) -> Shards:
        sequences = conversation_sequences(read_conversations(data, split), tokenizer)
        return shards_of(run, split, sequences, tokenizer.vocab_size)

    train = chats("train")
    if len(train) == 0:
        raise BadInput("the dataset has no conversation to train on", hint="its report says what was found and dropped")
    audit = audit_conversations(train, tokenizer)
    run.log(
        f"label audit passed: {audit.trained:,} of {audit.tokens:,} tokens trained on in {audit.conversations:,} "
        f"conversations, {audit.stops:,} stop tokens among them"
    )
    validation = chats("validation") if (data / "validation").is_dir() else None
    replayed = None
    if replay is not None:
        texts = read_texts(read_documents(replay, "train", columns=["id", "text", "format"]))
        sequences = document_sequences(texts, tokenizer, seed=run.seed)
        replayed = shards_of(run, "replay", sequences, tokenizer.vocab_size)
    return Conversations(train, validation if validation is not None and len(validation) else None, replayed, audit)


def packed(
    chats: Conversations, context: int, batch_tokens: int, replay_share: float, seed: int
) -> tuple[Shuffled | Mixed, CausalLM, int]:
    """Source, objective and rows of a batch for conversations packed into rows of `context` tokens."""
    rows = PackedRows(chats.train, context)
    held_out = chats.validation
    validation = PackedRows(held_out, context, sample_of(held_out, VALIDATION_TOKENS)) if held_out is not None else None
    replay = PackedRows(chats.replay, context) if chats.replay is not None else None
    there = [packed for packed in (rows, validation, replay) if packed is not None]
    slots = max(packed.spans_per_row for packed in there)
    for packed in there:
        packed.spans_per_row = slots  # one shape, one compiled graph
    batch_rows = max(1, min(batch_tokens // context, len(rows)))
    objective = CausalLM(validation, bits=False)
    if replay is None:
        return Shuffled(rows, batch_rows, seed), objective, batch_rows
    replay_rows = min(max(1, round(batch_rows * replay_share)), max(1, batch_rows - 1))
    main_rows = max(1, batch_rows - replay_rows)
    source = Mixed(Shuffled(rows, main_rows, seed), Shuffled(replay, replay_rows, seed))
    return source, objective, main_rows + replay_rows
