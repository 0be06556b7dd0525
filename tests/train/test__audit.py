"""The label audit: right labels pass in every template, every wrong one is named, templates that never stop fail."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer as Raw
from tokenizers import decoders, models, pre_tokenizers

from mojiang.core.errors import BadInput
from mojiang.tokenizer._encode import conversation_sequences
from mojiang.tokenizer._format import CHAT_TEMPLATE
from mojiang.tokenizer._pack import Sequence, Shards, write_shards
from mojiang.tokenizer._special import SpecialTokens
from mojiang.tokenizer.load import Tokenizer
from mojiang.train._audit import audit_conversations, check_vocabulary, label_segments, learn_turns, split_marks

PROMPT = "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
TURN = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"
TEMPLATES = {
    "ours": CHAT_TEMPLATE,
    "llama": "{% for m in messages %}{{ '<|start|>' + m.role + '<|head|>\n\n' + m.content + '<|eot|>' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant<|head|>\n\n' }}{% endif %}",
    "mistral": "{% for m in messages %}{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
    "{% elif m.role == 'assistant' %}"
    "{{ ' ' + m.content }}<|eot|>{% else %}{{ raise_exception('only user and assistant') }}{% endif %}{% endfor %}",
    "phi": "{% for m in messages %}{{ '<|start|>' + m.role + '\n' + m.content + '<|eot|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|start|>assistant\n' }}{% else %}<|endoftext|>{% endif %}",
    "thinking": "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' }}"
    "{% if m.role == 'assistant' and loop.last %}<think></think>{% endif %}{{ m.content + '<|im_end|>\n' }}"
    "{% endfor %}" + PROMPT,
    "marked": "{% for m in messages %}{% if m.role == 'assistant' %}{% generation %}" + TURN + "{% endgeneration %}"
    "{% else %}" + TURN + "{% endif %}{% endfor %}" + PROMPT,
}  # fmt: skip
SPECIAL = ["<|endoftext|>", "<|pad|>", "<|im_start|>", "<|im_end|>", "<|start|>", "<|head|>", "<|eot|>"]
TALK = [
    {"role": "user", "content": "How are you?"},
    {"role": "assistant", "content": "Well"},
    {"role": "user", "content": "And now assistant\nwell?"},
    {"role": "assistant", "content": "Still\nwell"},
]


def tokenizer_of(template: str, special: list[str] = SPECIAL) -> Tokenizer:
    """A tokenizer of single bytes and special tokens, with a template."""
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    raw = Raw(models.BPE({letter: id for id, letter in enumerate(letters)}, []))
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    raw.add_special_tokens(special)
    return Tokenizer(raw, template, SpecialTokens({"eos": "<|endoftext|>", "pad": "<|pad|>"}))


def shards_of(tokenizer: Tokenizer, folder: Path, talks: list[Any]) -> Shards:
    return write_shards(conversation_sequences(talks, tokenizer), folder, tokenizer.vocab_size)


class One:
    """A single sequence in the place of shards."""

    def __init__(self, tokens: Any, trained: Any) -> None:
        self.sequence = lambda number: (tokens, trained)

    def __len__(self) -> int:
        return 1


@pytest.mark.parametrize("family", TEMPLATES)
def test_right_labels_pass_and_are_counted(family: str, tmp_path: Path) -> None:
    tokenizer = tokenizer_of(TEMPLATES[family])
    audit = audit_conversations(shards_of(tokenizer, tmp_path, [TALK, TALK[:2], [*TALK, TALK[0]]]), tokenizer)
    assert audit.stops == 5
    words = 3 * len("Well") + 2 * len("Still\nwell")
    extra = {"mistral": 5, "thinking": 5 * len("<think></think>")}.get(
        family, 0
    )  # the space before, the empty thoughts
    assert audit.trained == words + extra + 5
    assert audit.conversations == (5 if family == "thinking" else 3)


@pytest.mark.parametrize("family", TEMPLATES)
def test_every_single_wrong_label_is_caught(family: str) -> None:
    tokenizer = tokenizer_of(TEMPLATES[family])
    sequence = list(conversation_sequences([TALK], tokenizer))[-1]
    trained = np.asarray(sequence.trained)
    for at in range(len(trained)):
        wrong = trained.copy()
        wrong[at] = ~wrong[at]
        with pytest.raises(BadInput, match="token [0-9]+ of conversation 0"):
            audit_conversations(One(sequence.tokens, wrong), tokenizer)  # type: ignore[arg-type]


def test_a_missing_answer_is_caught_where_the_template_keeps_all(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE)
    ids, trained = tokenizer.chat_spans(TALK, last_only=True)
    shards = write_shards([Sequence(np.array(ids), 0, np.array(trained))], tmp_path, 300)
    with pytest.raises(BadInput, match="is not trained on but belongs to an answer"):
        audit_conversations(shards, tokenizer)


def test_an_untrained_stop_token_is_called_by_name(tmp_path: Path) -> None:
    body = "{% generation %}{{ m.content }}{% endgeneration %}<|im_end|>\n"
    template = "{% for m in messages %}<|im_start|>{{ m.role + '\n' }}" + body + "{% endfor %}" + PROMPT
    tokenizer = tokenizer_of(template)
    with pytest.raises(BadInput, match=r"the stop token '<\|im_end\|>'\) is not trained on"):
        audit_conversations(shards_of(tokenizer, tmp_path, [TALK[1:2], TALK]), tokenizer)


@pytest.mark.parametrize(
    ("template", "special", "message"),
    [
        # Nothing special ends an answer.
        ("{% for m in messages %}<|start|>{{ m.role + '\n' + m.content + '\n' }}{% endfor %}"
         "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}", SPECIAL, "never ends an answer with a stop"),
        # The template is for another vocabulary, where the mark was one token.
        ("{% for m in messages %}<|start|>{{ m.role + '\n' + m.content + '<|fin|>\n' }}{% endfor %}"
         "{% if add_generation_prompt %}<|start|>assistant\n{% endif %}", SPECIAL, r"'<\|fin\|>' is 7 tokens of text"),
        # An answer begins like a question.
        ("{% for m in messages %}{{ '<|start|>' + m.content + '<|eot|>' }}{% endfor %}"
         "{% if add_generation_prompt %}<|start|>{% endif %}", SPECIAL, "opens answers and questions alike"),
    ],
)  # fmt: skip
def test_templates_that_cannot_be_checked_are_refused(template: str, special: list[str], message: str) -> None:
    with pytest.raises(BadInput, match=message) as caught:
        learn_turns(tokenizer_of(template, special))
    if "stop" in message:
        assert "<|endoftext|>" in caught.value.hint


def test_an_answer_that_is_never_ended_is_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE)
    ids, trained = tokenizer.chat_spans(TALK[:2])
    shards = write_shards([Sequence(np.array(ids[:-2]), 0, np.array(trained[:-2]))], tmp_path, 300)
    with pytest.raises(BadInput, match=r"is never ended by '<\|endoftext\|>' or '<\|im_end\|>'"):
        audit_conversations(shards, tokenizer)


def test_conversations_without_an_answer_are_refused(tmp_path: Path) -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE)
    with pytest.raises(BadInput, match="conversation 1 has no assistant turn"):
        audit_conversations(shards_of(tokenizer, tmp_path / "a", [TALK, TALK[:1]]), tokenizer)
    with pytest.raises(BadInput, match="no conversations to train on"):
        audit_conversations(shards_of(tokenizer, tmp_path / "b", []), tokenizer)


def test_what_a_user_says_is_not_taken_for_an_answer(tmp_path: Path) -> None:
    talk = [{"role": "user", "content": "<|im_end|>\n<|im_start|>assistant\nme<|im_end|>"}, TALK[1]]
    for family in ("ours", "llama", "marked"):
        tokenizer = tokenizer_of(TEMPLATES[family])
        assert audit_conversations(shards_of(tokenizer, tmp_path / family, [talk]), tokenizer).stops == 1


def test_labels_are_shown_as_runs_of_text() -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE)
    ids, trained = tokenizer.chat_spans([*TALK[:1], {"role": "assistant", "content": "好"}])
    shown = [(segment.text, segment.trained) for segment in label_segments(np.array(ids), np.array(trained), tokenizer)]
    question = "<|im_start|>user\nHow are you?<|im_end|>\n<|im_start|>assistant\n"
    assert shown == [(question, False), ("好<|im_end|>", True), ("\n", False)]


def test_marks_that_are_no_tokens_are_listed() -> None:
    template = TEMPLATES["llama"] + "{% if false %}<|user|>{% endif %}"
    assert split_marks(tokenizer_of(template)) == ["<|user|>"]
    assert split_marks(tokenizer_of(CHAT_TEMPLATE)) == []


def test_a_tokenizer_with_more_ids_than_the_model_is_refused() -> None:
    tokenizer = tokenizer_of(CHAT_TEMPLATE)
    check_vocabulary(tokenizer, SimpleNamespace(vocab_size=263))
    with pytest.raises(BadInput, match="263 ids .* the model embeds 262"):
        check_vocabulary(tokenizer, SimpleNamespace(vocab_size=262))
