"""Commands that use a model: serve, chat, complete; and the trial of an endpoint by the real client."""

from __future__ import annotations

import argparse
import os
import signal
import socket
import subprocess
import sys
import time
from typing import Any

import httpx

from mojiang.cli.execute import open_store
from mojiang.core.artifact import Artifact
from mojiang.core.errors import RunFailed
from mojiang.core.run import resolve_device
from mojiang.core.store import Store

START_SECONDS = 120.0


def serve(args: argparse.Namespace) -> int:
    """Serve models until told to stop."""
    store = open_store(args)
    artifacts = [store.verify(store.get(ref, "model")) for ref in args.ref]
    return serve_artifacts(
        artifacts, host=args.host, port=args.port, device=args.device, api_key=args.api_key, dtype=args.dtype,
        slots=args.slots, max_queue=args.max_queue,
    )  # fmt: skip


def serve_artifacts(artifacts: list[Artifact], *, device: str, api_key: str | None = None, **options: Any) -> int:
    """Serve these artifacts in the foreground; returns the exit code."""
    from mojiang.serve.server import serve as run_server

    key = api_key or os.environ.get("MOJIANG_API_KEY")
    return run_server(artifacts, device=resolve_device(device), api_key=key, **options)


def free_port() -> int:
    """A TCP port of the loopback interface that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def try_endpoint(artifact: Artifact, store: Store) -> dict[str, Any]:
    """Start the real server, ask it with the official `openai` client, stop it; returns what was asked and answered."""
    port = free_port()
    command = [sys.executable, "-m", "mojiang.cli.main", "serve", artifact.ref, "--port", str(port)]
    environment = {**os.environ, "MOJIANG_WORKSPACE": str(store.workspace), "MOJIANG_STORE": store.url}
    environment.pop("MOJIANG_API_KEY", None)
    log = store.workspace / "tmp" / f"serve-{port}.log"
    with open(log, "w+b") as output:
        server = subprocess.Popen(command, stdout=output, stderr=output, env=environment)
        try:
            _wait_ready(server, port, log.read_text)
            return _ask(f"http://127.0.0.1:{port}/v1")
        finally:
            server.send_signal(signal.SIGTERM)
            try:
                server.wait(timeout=30)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()
            log.unlink(missing_ok=True)


def _wait_ready(server: subprocess.Popen[bytes], port: int, said: Any) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise RunFailed(
                f"the server ended with exit code {server.returncode}: {said()[-500:]}", hint="mojiang doctor"
            )
        try:
            if httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.1)
    raise RunFailed(f"the server was not ready after {START_SECONDS:.0f} s: {said()[-500:]}", hint="mojiang doctor")


def _ask(url: str) -> dict[str, Any]:
    """List the models, stream a chat answer and fill in the middle of a text."""
    from openai import DefaultHttpxClient, OpenAI

    with DefaultHttpxClient(trust_env=False) as transport:  # a proxy has no business on the loopback interface
        client = OpenAI(base_url=url, api_key="none", http_client=transport)
        model = client.models.list().data[0].id
        prompt = "Write a Python function that returns the larger of two numbers."
        stream = client.chat.completions.create(
            model=model, messages=[{"role": "user", "content": prompt}], max_tokens=64, temperature=0, stream=True
        )
        answer = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
        prefix, suffix = "def add(a, b):\n    ", "\n    return total\n"
        filled = client.completions.create(model=model, prompt=prefix, suffix=suffix, max_tokens=24, temperature=0)
    return {
        "url": url, "model": model, "prompt": prompt, "answer": answer,
        "fill": {"prefix": prefix, "suffix": suffix, "text": filled.choices[0].text},
    }  # fmt: skip


def chat(args: argparse.Namespace) -> int:
    """Talk to a model in the terminal."""
    from mojiang.serve.chat import chat as run_chat

    store = open_store(args)
    artifact = store.verify(store.get(args.ref, "model"))
    return run_chat(
        artifact, system=args.system or None, temperature=args.temperature, max_tokens=args.max_tokens, seed=args.seed,
        device=resolve_device(args.device),
    )  # fmt: skip


def complete(args: argparse.Namespace) -> int:
    """Continue a text."""
    from mojiang.serve.chat import complete as run_complete

    store = open_store(args)
    artifact = store.verify(store.get(args.ref, "model"))
    return run_complete(
        artifact, prompt=args.prompt, suffix=args.suffix, temperature=args.temperature, max_tokens=args.max_tokens,
        seed=args.seed, device=resolve_device(args.device),
    )  # fmt: skip
