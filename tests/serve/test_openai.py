"""The protocol, by the official client against a real server process, and by raw requests where a client cannot err."""

from __future__ import annotations

import http.client
import json
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import httpx
import openai
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

ASK = [{"role": "user", "content": "学而 add two"}]


def chat(client: openai.OpenAI, **options: Any) -> Any:
    return client.chat.completions.create(**{"model": "tiny", "messages": ASK, "temperature": 0, **options})


def test_models(client: openai.OpenAI) -> None:
    assert [m.id for m in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny@3").id == "tiny"
    with pytest.raises(openai.NotFoundError, match="there is tiny"):
        client.models.retrieve("gpt-5")


def test_chat_says_where_the_answer_comes_from(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="tiny", messages=ASK, max_tokens=5, temperature=0, extra_headers={"x-request-id": "mine-1"}
    )
    answer = raw.parse()
    assert answer.choices[0].finish_reason == "length"
    assert answer.usage.completion_tokens == 5
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + 5
    assert answer.system_fingerprint == "fp_0123456789abcdef"
    assert raw.headers["x-mojiang-model"] == "tiny@3"
    assert raw.headers["x-mojiang-fingerprint"] == "0123456789abcdef" * 4
    assert raw.headers["x-mojiang-run"] == "run-7"
    assert raw.headers["x-request-id"] == "mine-1"


def test_stream_equals_whole(client: openai.OpenAI) -> None:
    whole = chat(client, max_tokens=40)
    chunks = list(chat(client, max_tokens=40, stream=True, stream_options={"include_usage": True}))
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices) == whole.choices[0].message.content
    assert chunks[0].choices[0].delta.role == "assistant"
    assert [c.choices[0].finish_reason for c in chunks if c.choices][-1] == "length"
    assert chunks[-1].usage == whole.usage
    assert len({c.id for c in chunks}) == 1


def test_stop_string_is_not_shown(client: openai.OpenAI) -> None:
    text = chat(client, max_tokens=40).choices[0].message.content
    stop = text[7:10]
    for stream in (False, True):
        answer = chat(client, max_tokens=40, stop=[stop], stream=stream)
        shown = (
            "".join(c.choices[0].delta.content or "" for c in answer) if stream else answer.choices[0].message.content
        )
        assert shown == text[: text.index(stop)]
        if not stream:
            assert answer.choices[0].finish_reason == "stop"


def test_seed_decides(client: openai.OpenAI) -> None:
    texts = [
        chat(client, temperature=1, seed=seed, max_tokens=12, top_p=0.9).choices[0].message.content
        for seed in (1, 1, 2)
    ]
    assert texts[0] == texts[1] != texts[2]
    several = chat(client, temperature=1, seed=1, n=3, max_tokens=12, top_p=0.9)
    assert [c.index for c in several.choices] == [0, 1, 2]
    assert [c.message.content for c in several.choices][:2] == [texts[0], texts[2]]


def test_logprobs(client: openai.OpenAI) -> None:
    content = chat(client, max_tokens=6, logprobs=True, top_logprobs=3).choices[0].logprobs.content
    assert len(content) == 6
    for entry in content:
        assert len(entry.top_logprobs) == 3
        assert entry.logprob == entry.top_logprobs[0].logprob  # greedy takes the likeliest
        assert entry.logprob <= 0
    old = client.completions.create(model="tiny", prompt="def", max_tokens=4, temperature=0, logprobs=2).choices[0]
    assert len(old.logprobs.tokens) == len(old.logprobs.token_logprobs) == 4


def test_completions_prompts_echo_and_suffix(client: openai.OpenAI, tiny: Any) -> None:
    def complete(**options: Any) -> Any:
        return client.completions.create(**{"model": "tiny", "temperature": 0, "max_tokens": 8, **options})

    one = complete(prompt="def add").choices[0].text
    assert complete(prompt="def add", echo=True).choices[0].text == "def add" + one
    tokenizer = tiny.TinyTokenizer()
    tokens = [tokenizer.eos_id, *tokenizer.encode("def add")]
    # Tokens are taken as they are; the end of a text may be tokenised anew together with the answer (token healing).
    assert complete(prompt=tokens).choices[0].text == complete(prompt="def add", logprobs=1).choices[0].text
    many = complete(prompt=["The", "def add"], n=2).choices
    assert [c.index for c in many] == [0, 1, 2, 3]
    assert many[2].text == many[3].text == one
    hole = complete(prompt="def add", suffix="return")
    encode, mark = tiny.TinyTokenizer().encode, tiny.TinyTokenizer().token_id
    by_hand = [mark("<|fim_prefix|>"), *encode("def add"), mark("<|fim_suffix|>"), *encode("return")]
    assert hole.choices[0].text == complete(prompt=[*by_hand, mark("<|fim_middle|>")]).choices[0].text
    streamed = list(complete(prompt="def add", stream=True, echo=True))
    assert "".join(c.choices[0].text for c in streamed) == "def add" + one
    assert complete(prompt="").usage.prompt_tokens == 1


def test_eight_at_once_get_what_each_gets_alone(client: openai.OpenAI) -> None:
    asks = [[{"role": "user", "content": f"{i} " * (3 * i + 1)}] for i in range(8)]
    alone = [chat(client, messages=ask, max_tokens=30).choices[0].message.content for ask in asks]
    assert len(set(alone)) > 4

    def streamed(ask: list[dict[str, str]]) -> str:
        return "".join(c.choices[0].delta.content or "" for c in chat(client, messages=ask, max_tokens=30, stream=True))

    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(streamed, asks)) == alone


def test_prompt_longer_than_the_context(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        chat(client, messages=[{"role": "user", "content": "字" * 500}])
    assert caught.value.code == "context_length_exceeded"
    assert caught.value.param == "messages"
    clipped = chat(client, max_tokens=100_000)
    assert clipped.usage.total_tokens == 256
    assert clipped.choices[0].finish_reason == "length"


GOOD: dict[str, Any] = {"model": "tiny", "messages": ASK, "max_tokens": 2}


@pytest.mark.parametrize(
    ("change", "status", "code", "param"),
    [
        ({"temprature": 1}, 400, "unknown_parameter", "temprature"),
        ({"tools": [{"type": "function"}]}, 400, "unsupported_parameter", "tools"),
        ({"response_format": {"type": "json_object"}}, 400, "unsupported_parameter", "response_format"),
        ({"presence_penalty": 0.5}, 400, "unsupported_parameter", "presence_penalty"),
        ({"temperature": "hot"}, 400, "invalid_value", "temperature"),
        ({"temperature": -1}, 400, "invalid_value", "temperature"),
        ({"messages": []}, 400, "invalid_value", "messages"),
        ({"messages": None}, 400, "invalid_value", "messages"),
        ({"messages": [{"role": "king", "content": "x"}]}, 400, "invalid_value", "messages[0].role"),
        ({"messages": [{"role": "user", "content": "\ud800"}]}, 400, None, None),
        ({"n": 17}, 400, "too_many_choices", "n"),
        ({"n": True}, 400, "invalid_value", "n"),
        ({"model": "other"}, 404, "model_not_found", "model"),
        ({"stream_options": {"include_usage": True}}, 400, "invalid_value", "stream_options"),
        ({"top_logprobs": 3}, 400, "invalid_value", "top_logprobs"),
        ({"stop": ""}, 400, "invalid_value", "stop"),
        ({"user": "me", "store": False, "presence_penalty": 0, "tools": []}, 200, None, None),
    ],
)
def test_bad_fields(server: Any, change: dict[str, Any], status: int, code: str | None, param: str | None) -> None:
    answer = httpx.post(f"{server.url}/chat/completions", content=json.dumps({**GOOD, **change}))
    assert answer.status_code == status, answer.text
    if status != 200:
        error = answer.json()["error"]
        assert set(error) == {"message", "type", "param", "code"}
        assert code is None or error["code"] == code
        assert param is None or error["param"] == param


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'{"model": NaN}', b"\xff", b"[" * 100_000, b'"a"'])
def test_malformed_bodies(server: Any, body: bytes) -> None:
    answer = httpx.post(f"{server.url}/completions", content=body)
    assert answer.status_code == 400
    assert answer.json()["error"]["code"] == "invalid_json"


def test_other_errors_have_openais_shape(server: Any) -> None:
    assert httpx.get(f"{server.root}/nowhere").json()["error"]["code"] == "unknown_url"
    wrong = httpx.get(f"{server.url}/completions")
    assert wrong.status_code == 405
    assert wrong.json()["error"]["code"] == "method_not_allowed"
    large = httpx.post(f"{server.url}/completions", content=b"x" * (2 * 1024 * 1024 + 1))
    assert large.status_code == 413
    assert large.json()["error"]["type"] == "invalid_request_error"


_scalars = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8)
_json = st.recursive(
    _scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
)
_names = "model messages prompt n max_tokens max_completion_tokens temperature top_p top_k seed stop stream tools "
_fields = st.sampled_from([*(_names + "stream_options suffix echo logprobs top_logprobs user logit_bias").split()])


@given(
    path=st.sampled_from(["chat/completions", "completions"]),
    body=st.dictionaries(_fields | st.text(max_size=6), _json, max_size=4),
    base=st.sampled_from([{}, {"model": "tiny", "prompt": "x", "max_tokens": 1}, GOOD]),
)
@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_body_makes_the_server_fail(server: Any, path: str, body: dict[str, Any], base: dict[str, Any]) -> None:
    answer = httpx.post(f"{server.url}/{path}", content=json.dumps({**base, **body}), timeout=60)
    assert answer.status_code in (200, 400, 404), answer.text
    if answer.status_code != 200:
        assert answer.json()["error"]["message"]


def _settled(server: Any) -> float:
    """Generated tokens, when nothing is running any more."""
    busy = ("vllm:num_requests_running", "vllm:num_requests_waiting")
    server.wait_for(lambda: not any(map(server.metric, busy)))
    return float(server.metric("vllm:generation_tokens_total"))


@pytest.mark.parametrize("stream", [True, False])
def test_a_client_that_goes_away_stops_its_generation(start_server: Any, stream: bool) -> None:
    server = start_server(delay=0.02, slots=1)
    connection = http.client.HTTPConnection(server.root.removeprefix("http://"))
    connection.request("POST", "/v1/chat/completions", json.dumps({**GOOD, "max_tokens": 200, "stream": stream}))
    server.wait_for(lambda: server.metric("mojiang:engine_steps") > 5)
    connection.close()
    tokens = _settled(server)
    assert 0 < tokens < 200
    steps = server.metric("mojiang:engine_steps")
    assert steps <= tokens + 1
    time.sleep(0.2)
    assert server.metric("mojiang:engine_steps") == steps
    assert server.metric("vllm:request_success_total") == 1


def test_full_queue_is_429(start_server: Any) -> None:
    server = start_server(delay=0.02, slots=1, max_queue=2)
    body = {**GOOD, "max_tokens": 60}

    def post(_: int) -> httpx.Response:
        return httpx.post(f"{server.url}/chat/completions", json=body, timeout=60)

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(post, range(8)))
    refused = [a for a in answers if a.status_code == 429]
    assert len(refused) >= 4
    assert len(refused) + sum(a.status_code == 200 for a in answers) == 8
    assert refused[0].headers["retry-after"]
    assert refused[0].json()["error"]["code"] == "queue_full"


def test_metrics_count(server: Any, client: openai.OpenAI) -> None:
    before = _settled(server)
    chat(client, max_tokens=7)
    assert _settled(server) == before + 7
    assert server.metric("vllm:time_to_first_token_seconds_count") > 0
