"""Our tokenizer against `transformers` on the same folder, and the promises of text, chats and byte counts."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers, trainers

from mojiang.core.errors import BadInput
from mojiang.tokenizer._format import SPECIAL_TOKENS, empty_tokenizer, save_tokenizer
from mojiang.tokenizer.load import Tokenizer, load_tokenizer

TEXTS = [
    "def add(self, a: int) -> int:\n    return self.total + a  # it's 12345\n\n\n\tx\r\n",
    "我们的工作是训练语言模型，不是吗？春眠不觉晓，处处闻啼鸟。" * 3,
    "  leading, trailing  \n \n mixed 中英文 text's 'self' “quotes” — …  ",
    "नमस्ते दुनिया, Привет, 👨‍👩‍👧 e\u0301 \u3000\u00a0",
    "",
]


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer")
    raw = empty_tokenizer()
    trainer = trainers.BpeTrainer(
        vocab_size=900, special_tokens=list(SPECIAL_TOKENS), show_progress=False,
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
    )  # fmt: skip
    raw.train_from_iterator([*TEXTS, Path(json.__file__).read_text(encoding="utf-8")], trainer)
    save_tokenizer(raw, folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(path: Path) -> Tokenizer:
    return load_tokenizer(path)


@pytest.fixture(scope="module")
def peer(path: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(str(path))


def peer_chat(peer: Any, messages: list[dict[str, str]], prompt: bool) -> list[int]:
    ids = peer.apply_chat_template(messages, add_generation_prompt=prompt, tokenize=True)
    return list(ids if isinstance(ids, list) else ids["input_ids"])


@pytest.mark.parametrize("text", TEXTS)
def test_ids_are_those_of_transformers(tokenizer: Tokenizer, peer: Any, text: str) -> None:
    assert tokenizer.encode(text) == peer(text).input_ids
    assert tokenizer.encode_batch([text, "x"]) == [tokenizer.encode(text), tokenizer.encode("x")]


def test_special_tokens_are_those_of_transformers(tokenizer: Tokenizer, peer: Any) -> None:
    assert (tokenizer.vocab_size, tokenizer.eos_id, tokenizer.pad_id) == (
        len(peer),
        peer.eos_token_id,
        peer.pad_token_id,
    )
    assert tokenizer.special_ids == set(peer.all_special_ids)
    assert [tokenizer.token_id(token) for token in SPECIAL_TOKENS] == list(range(7))
    with pytest.raises(BadInput, match="no token '<bos>'"):
        tokenizer.token_id("<bos>")


@given(st.text())
@settings(max_examples=300)
def test_any_text_round_trips_and_its_bytes_are_counted(tokenizer: Tokenizer, text: str) -> None:
    text = text.encode("utf-8", "ignore").decode()
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.byte_length(ids) == len(text.encode())


@pytest.mark.parametrize("token", SPECIAL_TOKENS)
def test_what_users_write_never_becomes_a_special_token(tokenizer: Tokenizer, token: str) -> None:
    text = f"before {token} after{token}"
    ids = tokenizer.encode(text)
    assert not tokenizer.special_ids & set(ids)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode_batch([text]) == [ids]
    chat = tokenizer.render_chat([{"role": "user", "content": text}])
    assert [id for id in chat if id in tokenizer.special_ids] == [
        tokenizer.token_id("<|im_start|>"),
        tokenizer.token_id("<|im_end|>"),
    ]


Content = st.text(st.characters(codec="utf-8"), max_size=40) | st.sampled_from(
    ["\n\nx", "    return x\n", "user\n", ""]
)
# There `transformers` lets a user end a turn by writing its token, and we do not: the test above.
Content = Content.filter(lambda text: not any(token in text for token in SPECIAL_TOKENS))
Messages = st.lists(
    st.fixed_dictionaries({"role": st.sampled_from(["system", "user", "assistant", "tool"]), "content": Content}),
    min_size=1, max_size=5,
)  # fmt: skip


@given(Messages, st.booleans())
@settings(max_examples=150, deadline=None)
def test_chats_are_those_of_transformers(
    tokenizer: Tokenizer, peer: Any, messages: list[dict[str, str]], prompt: bool
) -> None:
    assert tokenizer.render_chat(messages, prompt) == peer_chat(peer, messages, prompt)


@given(Messages)
@settings(max_examples=150)
def test_trained_is_exactly_what_the_assistant_writes(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> None:
    ids, trained = tokenizer.chat_spans(messages)
    assert ids == tokenizer.render_chat(messages)
    assert len(ids) == len(trained)
    written = tokenizer.decode([id for id, mask in zip(ids, trained, strict=True) if mask], skip_special=False)
    assert written == "".join(m["content"] + "<|im_end|>" for m in messages if m["role"] == "assistant")


def test_an_answer_is_trained_as_it_will_be_generated(tokenizer: Tokenizer) -> None:
    """The prompt's ids are a prefix of the whole chat's, also when the answer begins with white space."""
    messages = [{"role": "user", "content": "body?"}, {"role": "assistant", "content": "    return x"}]
    prompt = tokenizer.render_chat(messages[:1], add_generation_prompt=True)
    ids, trained = tokenizer.chat_spans(messages)
    assert ids[: len(prompt)] == prompt
    assert trained.index(True) == len(prompt)


@pytest.mark.parametrize(
    ("messages", "message"),
    [
        ([], "no messages"),
        ([{"role": "user"}], "message 0 is"),
        ([{"role": "robot", "content": "x"}], "role 'robot'"),
        ([{"role": "user", "content": ["x"]}], "content of message 0 is list"),
        (["hello"], "message 0 is 'hello'"),
    ],
)
def test_malformed_chats_are_refused(tokenizer: Tokenizer, messages: Any, message: str) -> None:
    with pytest.raises(BadInput, match=message):
        tokenizer.render_chat(messages)


def test_runs_without_spaces_are_cut_into_bounded_pieces() -> None:
    cut = empty_tokenizer().pre_tokenizer
    for run in ("汉" * 10_000, "a" * 10_000, "=" * 10_000, " " * 10_000, "\n" * 10_000, "ア" * 10_000):
        pieces = cut.pre_tokenize_str(run)
        assert max(end - start for _, (start, end) in pieces) <= 96
        assert sum(end - start for _, (start, end) in pieces) == 10_000


def test_indentation_is_one_piece_and_quotes_are_no_contractions() -> None:
    cut = empty_tokenizer().pre_tokenizer
    text = "if x:\n        return 'self' + it's\n"
    pieces = [text[start:end] for _, (start, end) in cut.pre_tokenize_str(text)]
    assert pieces == ["if", " x", ":\n        ", "return", " '", "self", "'", " +", " it", "'s", "\n"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("tokenizer.json", None, "has no tokenizer.json"),
        ("tokenizer.json", "{", "is not a tokenizer"),
        ("tokenizer.json", '{"version": "1.0"}', "is not a tokenizer"),
        ("tokenizer_config.json", "{", "is not JSON"),
        ("tokenizer_config.json", "[]", "holds no JSON object"),
        ("tokenizer_config.json", '{"chat_template": [1]}', "chat_template in .* is list"),
        ("tokenizer_config.json", '{"chat_template": [{"name": "default"}]}', "chat_template in .* is dict"),
    ],
)
def test_broken_files_are_refused(path: Path, tmp_path: Path, name: str, content: str | None, message: str) -> None:
    for file in path.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    (tmp_path / name).unlink()
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BadInput, match=message):
        load_tokenizer(tmp_path)


def test_without_a_chat_template_there_are_no_chats(path: Path, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes((path / "tokenizer.json").read_bytes())
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": None}))
    tokenizer = load_tokenizer(tmp_path)
    assert tokenizer.decode(tokenizer.encode("text still works")) == "text still works"
    with pytest.raises(BadInput, match="no chat template"):
        tokenizer.render_chat([{"role": "user", "content": "x"}])


@given(Messages, st.booleans())
@settings(max_examples=60, deadline=None)
def test_our_template_gives_the_same_ids_without_jinja(
    tokenizer: Tokenizer, messages: list[dict[str, str]], prompt: bool
) -> None:
    """The fast path against the way all other templates go."""
    from mojiang.tokenizer._format import CHAT_TEMPLATE

    slow = Tokenizer(tokenizer._tokenizer, CHAT_TEMPLATE + "{# another #}", tokenizer._special)
    assert slow.render_chat(messages, prompt) == tokenizer.render_chat(messages, prompt)
    assert slow.chat_spans(messages) == tokenizer.chat_spans(messages)
    assert slow.chat_spans(messages, last_only=True) == tokenizer.chat_spans(messages, last_only=True)


def test_our_template_shows_neither_tools_nor_calls(tokenizer: Tokenizer) -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "x"}]
    with pytest.raises(BadInput, match="does not show them to the model"):
        tokenizer.render_chat(messages, tools=[{"name": "f"}])
    call = {"role": "assistant", "content": "", "tool_calls": [{"function": {"name": "f"}}]}
    with pytest.raises(BadInput, match="message 1 calls a tool"):
        tokenizer.render_chat([*messages, call])


def test_what_begins_and_ends_texts(tokenizer: Tokenizer) -> None:
    end = tokenizer.token_id("<|endoftext|>")
    assert (tokenizer.start_ids, tokenizer.stop_ids, tokenizer.kind) == ([end], {end}, "byte-level")
    with pytest.raises(BadInput, match="no token 900000"):
        tokenizer.token(900_000)


def test_what_transformers_saves_again_loads_again(peer: Any, tokenizer: Tokenizer, tmp_path: Path) -> None:
    peer.save_pretrained(str(tmp_path))
    again = load_tokenizer(tmp_path)
    assert again.encode(TEXTS[0]) == tokenizer.encode(TEXTS[0])
    messages = [{"role": "user", "content": "你好"}]
    assert again.render_chat(messages) == tokenizer.render_chat(messages)
