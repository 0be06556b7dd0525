"""Socket, signals, drain, key."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import httpx
import pytest

from mojiang.core.errors import BadInput, BadUsage, Unavailable
from mojiang.model.load import save_model
from mojiang.serve.openai import ServeSettings
from mojiang.serve.server import Server, serve

BODY = {"model": "tiny", "prompt": "def", "max_tokens": 60, "temperature": 0}


def test_sigterm_drains(start_server: Any) -> None:
    server = start_server(delay=0.02)
    answers: list[httpx.Response] = []
    asking = threading.Thread(
        target=lambda: answers.append(httpx.post(f"{server.url}/completions", json=BODY, timeout=60))
    )
    asking.start()
    server.wait_for(lambda: server.metric("vllm:num_requests_running") == 1)
    server.process.send_signal(signal.SIGTERM)
    server.wait_for(lambda: httpx.get(f"{server.root}/readyz").status_code == 503)
    assert httpx.get(f"{server.root}/healthz").status_code == 200
    late = httpx.post(f"{server.url}/completions", json=BODY)
    assert late.status_code == 503
    assert late.json()["error"]["code"] == "shutting_down"
    asking.join()
    assert answers[0].status_code == 200
    assert answers[0].json()["usage"]["completion_tokens"] == 60
    assert server.process.wait(timeout=20) == 0


def test_drain_ends_after_its_time(start_server: Any) -> None:
    server = start_server(delay=0.1, drain=0.3)
    lines: list[str] = []

    def ask() -> None:
        with httpx.stream("POST", f"{server.url}/completions", json={**BODY, "stream": True}, timeout=60) as answer:
            lines.extend(line for line in answer.iter_lines() if line)

    asking = threading.Thread(target=ask)
    asking.start()
    server.wait_for(lambda: bool(lines))
    server.process.send_signal(signal.SIGTERM)
    assert server.process.wait(timeout=20) == 0
    asking.join()
    assert "shutting_down" in "".join(lines)


def test_port_in_use() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(Unavailable, match=f"port {port} on 127.0.0.1 is in use") as caught:
            serve([Path("never read")], port=port)
    assert str(port) in caught.value.hint


def test_bad_usage(tmp_path: Path, tiny: Any) -> None:
    with pytest.raises(BadUsage, match="no API key"):
        serve([tmp_path], host="0.0.0.0")
    with pytest.raises(BadInput, match=r"no config\.json"):
        serve([tmp_path], port=0)
    with pytest.raises(BadUsage, match="cannot listen"):
        serve([tmp_path], host="256.0.0.1", api_key="k")
    model = tiny.served()
    with pytest.raises(BadUsage, match="same name"):
        Server([model, model], port=0)


def test_service_and_key(tiny: Any) -> None:
    server = Server([tiny.served(), tiny.served("other", seed=1)], port=0, settings=ServeSettings(api_key="secret"))
    assert server.start().health == "ready"
    root = server.url.removesuffix("/v1")
    assert httpx.get(f"{root}/readyz").status_code == 200
    for path in ("/v1/models", "/metrics", "/docs", "/v1/nowhere"):
        assert httpx.get(root + path).status_code == 401
        assert httpx.get(root + path, headers={"authorization": "Bearer secrét".encode()}).status_code == 401
    key = {"authorization": "Bearer secret"}
    assert len(httpx.get(f"{root}/v1/models", headers=key).json()["data"]) == 2
    texts = {
        httpx.post(f"{root}/v1/completions", json={**BODY, "model": name}, headers=key).json()["choices"][0]["text"]
        for name in ("tiny", "other@3")
    }
    assert len(texts) == 2
    server.stop()
    assert server.health == "stopped"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{root}/readyz")


def test_failed_engine_is_seen(tiny: Any) -> None:
    model = tiny.served()

    def broken(step: Any) -> None:
        raise RuntimeError("out of memory")

    model.engine._runner.decode = broken
    server = Server([model], port=0).start()
    try:
        root = server.url.removesuffix("/v1")
        answer = httpx.post(f"{root}/v1/completions", json=BODY)
        assert answer.status_code == 500
        assert answer.json()["error"]["code"] == "engine_failed"
        assert httpx.get(f"{root}/healthz").status_code == 500
        assert httpx.get(f"{root}/readyz").status_code == 503
        assert httpx.post(f"{root}/v1/completions", json=BODY).status_code == 503
        assert server.health == "failed"
    finally:
        server.stop()


def test_a_folder_from_disk(tmp_path: Path, tiny: Any) -> None:
    """`serve` as the command calls it: weights and tokenizer from a Hugging Face folder, until a signal."""
    folder = tmp_path / "small"
    tokenizer = tiny.TinyTokenizer()
    save_model(tiny.tiny_model(tokenizer.vocab_size), None, folder)
    tokenizer._tokenizer.save(str(folder / "tokenizer.json"))
    code = "import sys; from pathlib import Path; from mojiang.serve.server import serve; "
    code += "sys.exit(serve([Path(sys.argv[1])], port=0))"
    process = subprocess.Popen([sys.executable, "-c", code, folder], stderr=subprocess.PIPE, text=True)
    assert process.stderr is not None
    try:
        found = re.search(r"serving small at (\S+)", process.stderr.readline())
        assert found
        body = {**BODY, "model": "small", "max_tokens": 9}
        answer = httpx.post(f"{found[1]}/completions", json=body, timeout=30)
        with tiny.served().engine as engine:
            assert answer.json()["choices"][0]["text"] == engine.generate(["def"], max_tokens=9)[0].text
        assert len(answer.headers["x-mojiang-fingerprint"]) == 64
        process.send_signal(signal.SIGINT)
        assert process.wait(timeout=20) == 0
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
