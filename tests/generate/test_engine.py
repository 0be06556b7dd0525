"""The engine against transformers, against itself alone, and against whatever clients may do."""

from __future__ import annotations

import threading
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mojiang.core.errors import BadInput, RunFailed, Unavailable
from mojiang.generate.engine import Delta, Engine, GenerationRequest, Sampling, generate, infill_prompt
from mojiang.model.decoder import Decoder, DecoderConfig

NEVER = frozenset[int]()


def test_greedy_equals_transformers(tmp_path: Path, tokenizer: Any) -> None:
    """The same folder of random weights, read by transformers: the same tokens, for prompts longer than a chunk too."""
    safetensors = pytest.importorskip("safetensors.torch")
    transformers = pytest.importorskip("transformers")
    config = transformers.Qwen3Config(
        vocab_size=tokenizer.vocab_size, hidden_size=64, num_hidden_layers=3, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=96, head_dim=16, max_position_embeddings=256,
        tie_word_embeddings=False, eos_token_id=None, bos_token_id=None, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    reference = transformers.Qwen3ForCausalLM(config).eval()
    reference.save_pretrained(tmp_path)
    model = Decoder(DecoderConfig.from_hf(config.to_dict()))
    model.load_state_dict(safetensors.load_file(tmp_path / "model.safetensors"))
    prompts = [
        [(7 * i + j * j) % tokenizer.vocab_size for j in range(length)] for i, length in enumerate((1, 5, 70, 150))
    ]
    with Engine(model, tokenizer, threads=1, prefill_chunk=64) as engine:
        ours = engine.generate(prompts, max_tokens=40, stop_tokens=NEVER)
    for prompt, generation in zip(prompts, ours, strict=True):
        theirs = reference.generate(
            torch.tensor([prompt]), attention_mask=torch.ones(1, len(prompt)), max_new_tokens=40, do_sample=False
        )
        assert list(generation.tokens) == theirs[0, len(prompt) :].tolist()


arrivals = st.lists(
    st.tuples(
        st.integers(1, 90),  # prompt length
        st.integers(1, 30),  # tokens wanted
        st.integers(0, 6),  # milliseconds before the next arrival
        st.sampled_from(["greedy", "greedy", "sampled", "cancel"]),
        st.integers(0, 10**6),  # content, and seed
    ),
    min_size=2,
    max_size=14,
)


@pytest.mark.parametrize("which", ["random_model", "trained_model"])
@given(plan=arrivals, slots=st.sampled_from([2, 3, 8]))
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_batched_equals_alone(
    request: pytest.FixtureRequest, tokenizer: Any, which: str, plan: list[Any], slots: int
) -> None:
    """Contract 7: whoever comes, goes or cancels beside it, a request gets the tokens it gets alone."""
    model = request.getfixturevalue(which)
    requests = [
        GenerationRequest(
            tuple((content + 31 * i * i) % tokenizer.vocab_size for i in range(length)),
            wanted,
            Sampling(temperature=1.0, top_p=0.9, seed=content) if kind == "sampled" else Sampling(),
            logprobs=0,
        )
        for length, wanted, _, kind, content in plan
    ]
    with Engine(model, tokenizer, slots=8, prefill_chunk=32, threads=1) as engine:
        alone = [engine.submit(r).result() for r in requests]
    with Engine(model, tokenizer, slots=slots, prefill_chunk=32, threads=1) as engine:
        streams = []
        for (_, _, pause, kind, _), r in zip(plan, requests, strict=True):
            streams.append(engine.submit(r))
            time.sleep(pause / 1000)
            if kind == "cancel":
                streams[-1].cancel()
        together = [stream.result() for stream in streams]
        assert engine.stats.running == engine.stats.waiting == 0
    for one, other, (_, _, _, kind, _) in zip(alone, together, plan, strict=True):
        if other.finish_reason == "cancelled":
            assert kind == "cancel"
            assert other.tokens == one.tokens[: len(other.tokens)]
        else:
            assert (one.tokens, one.text, one.finish_reason) == (other.tokens, other.text, other.finish_reason)
            if slots == 8:  # the same full width: not only the tokens, every bit
                assert one.logprobs == other.logprobs


def test_stream_joins_to_the_text(random_model: Any, tokenizer: Any) -> None:
    with Engine(random_model, tokenizer, threads=1) as engine:
        stream = engine.submit(GenerationRequest(tuple(tokenizer.encode("学而")), 50))
        deltas = list(stream)
        whole = stream.result()
    assert "".join(d.text for d in deltas) == whole.text == tokenizer.decode(whole.tokens)
    assert sum(d.num_tokens for d in deltas) == len(whole.tokens) == 50
    assert [d.finish_reason for d in deltas].count(None) == len(deltas) - 1
    assert deltas[-1].generation is whole
    assert whole.seconds >= whole.seconds_to_first_token >= whole.seconds_queued >= 0


def test_stop_string_and_its_logprobs(random_model: Any, tokenizer: Any) -> None:
    with Engine(random_model, tokenizer, threads=1) as engine:
        full = engine.generate(["def"], max_tokens=40, logprobs=1)[0]
        stop = full.text[9:14]
        cut = engine.generate(["def"], max_tokens=40, stop=(stop,), logprobs=1)[0]
    assert cut.text == full.text[: full.text.index(stop)]
    assert cut.finish_reason == "stop"
    assert cut.tokens == full.tokens[: len(cut.tokens)]
    assert len(cut.logprobs) < len(cut.tokens)  # what is cut off is not in the log-probabilities either
    for entry in full.logprobs:
        assert entry.top[0] == (entry.token, entry.logprob)


def test_ends_at_the_end_token_and_at_the_context(trained_model: Any, random_model: Any, tokenizer: Any) -> None:
    with Engine(trained_model, tokenizer, threads=1) as engine:
        ended = engine.generate([[tokenizer.eos_id, *tokenizer.encode("def add(")]])[0]
    assert ended.finish_reason == "stop"
    assert ended.tokens[-1] in engine.end_tokens
    assert "<|" not in ended.text
    with Engine(random_model, tokenizer, context=64, threads=1) as engine:
        clipped = engine.generate([[9] * 60], max_tokens=100)[0]
        last = engine.generate([[9] * 63])[0]
    assert (len(clipped.tokens), clipped.finish_reason) == (4, "length")
    assert len(last.tokens) == 1


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ([], {}, "empty"),
        ([9] * 64, {}, "64 tokens; the context is 64"),
        ([10**6], {}, "1000000 is not in the vocabulary"),
        ([-1], {}, "-1 is not in the vocabulary"),
        ([9], {"max_tokens": 0}, "max_tokens is 0"),
    ],
)
def test_bad_requests(
    random_model: Any, tokenizer: Any, prompt: list[int], options: dict[str, Any], message: str
) -> None:
    engine = Engine(random_model, tokenizer, context=64, threads=1)
    with pytest.raises(BadInput, match=message):
        engine.submit(GenerationRequest(tuple(prompt), **options))
    engine.close()


def test_bad_settings(random_model: Any, tokenizer: Any) -> None:
    with pytest.raises(BadInput, match="context is 100000"):
        Engine(random_model, tokenizer, context=100_000)
    with pytest.raises(BadInput, match="slots=0"):
        Engine(random_model, tokenizer, slots=0)


def test_infill(tokenizer: Any) -> None:
    mark, encode = tokenizer.token_id, tokenizer.encode
    assert infill_prompt(tokenizer, "a", "b") == [
        mark("<|fim_prefix|>"), *encode("a"), mark("<|fim_suffix|>"), *encode("b"), mark("<|fim_middle|>")
    ]  # fmt: skip


def test_full_queue_refuses_and_wait_waits(random_model: Any, tokenizer: Any, tiny: Any) -> None:
    request = GenerationRequest((9,), 20)
    engine = Engine(random_model, tokenizer, slots=1, max_queue=2, threads=1).start()
    tiny.slow_down(engine, 0.005)

    def flood() -> None:
        for _ in range(10):
            engine.submit(request)

    with pytest.raises(Unavailable, match="are waiting already"):
        flood()
    assert engine.submit(request, wait=True).result().finish_reason == "length"
    assert engine.close()
    with pytest.raises(Unavailable, match="shutting down"):
        engine.submit(request)


def test_cancel_stops_the_work(random_model: Any, tokenizer: Any, tiny: Any) -> None:
    with Engine(random_model, tokenizer, slots=1, threads=1) as engine:
        tiny.slow_down(engine, 0.005)
        running, waiting = (engine.submit(GenerationRequest((9,), 200)) for _ in range(2))
        next(iter(running))
        waiting.cancel()
        running.cancel()
        assert waiting.result(timeout=10).tokens == ()
        assert 0 < len(running.result(timeout=10).tokens) < 200
        running.cancel()  # harmless
        assert len(engine.generate([[9]], max_tokens=3)[0].tokens) == 3
        steps = engine.stats.steps
        time.sleep(0.05)
        assert engine.stats.steps == steps


def test_close_without_drain_cancels(random_model: Any, tokenizer: Any, tiny: Any) -> None:
    engine = Engine(random_model, tokenizer, slots=1, threads=1).start()
    tiny.slow_down(engine, 0.01)
    streams = [engine.submit(GenerationRequest((9,), 200)) for _ in range(3)]
    assert not engine.close(drain=True, timeout=0.1)
    assert {s.result(timeout=1).finish_reason for s in streams} == {"cancelled"}


def test_failure_reaches_everybody(random_model: Any, tokenizer: Any) -> None:
    engine = Engine(random_model, tokenizer, slots=1, threads=1).start()

    def broken(step: Any) -> Any:
        raise MemoryError("no more")

    engine._runner.decode = broken  # type: ignore[method-assign]
    streams = [engine.submit(GenerationRequest((9,), 5)) for _ in range(3)]
    for stream in streams:
        with pytest.raises(RunFailed, match="MemoryError: no more"):
            stream.result(timeout=10)
    assert not engine.healthy
    with pytest.raises(Unavailable, match="failed"):
        engine.submit(GenerationRequest((9,), 5))


def test_a_broken_consumer_hurts_nobody_else(
    random_model: Any, tokenizer: Any, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(delta: Delta) -> None:
        raise ValueError("consumer")

    with Engine(random_model, tokenizer, threads=1) as engine:
        bad = engine.submit(GenerationRequest((9,), 200), broken)
        good = engine.submit(GenerationRequest((9,), 20))
        assert len(good.result(timeout=10).tokens) == 20
        assert bad.result(timeout=10).finish_reason == "cancelled"
    assert "consumer" in caplog.text


def test_generate_many_from_many_threads(random_model: Any, tokenizer: Any) -> None:
    prompts = [[9 + i] for i in range(20)]
    expected = generate(random_model, tokenizer, prompts, max_tokens=5)
    got: list[Any] = [None] * 4
    with Engine(random_model, tokenizer, max_queue=3, threads=1) as engine:

        def work(index: int) -> None:
            got[index] = engine.generate(prompts, max_tokens=5)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    for generations in got:
        assert [g.tokens for g in generations] == [g.tokens for g in expected]


def test_a_healed_prompt_reads_on_as_one_text(trained_model: Any, random_model: Any, tokenizer: Any) -> None:
    """Wherever a prompt is cut, and whatever tokens the model likes, prompt and answer read as one text."""
    text = "def add(a, b):\n    return a + b\n学而时习之，不亦说乎？"
    for model in (trained_model, random_model):
        with Engine(model, tokenizer) as engine:
            for cut in range(3, len(text), 3):
                (generation,) = engine.generate([text[:cut]], max_tokens=3)
                ids, begins = tokenizer.heal(text[:cut])
                assert tokenizer.decode(ids) + begins == text[:cut]
                whole = tokenizer.decode([*ids, *generation.tokens])
                assert text[:cut] + generation.text == whole
                new = len(generation.tokens) - generation.num_repeated
                assert new == 3 or generation.finish_reason == "stop"
