"""Commands that use a model: serve, chat, complete; and the trial of an endpoint by the real client."""

from __future__ import annotations

import argparse
import os
from typing import TYPE_CHECKING, Any

from mojiang.cli.execute import open_store
from mojiang.core.artifact import Artifact
from mojiang.core.run import resolve_device

if TYPE_CHECKING:
    from openai import OpenAI


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


def try_endpoint(artifact: Artifact, question: str, text: str) -> dict[str, Any]:
    """Serve a model on a free port and ask it with the official `openai` client; returns what was asked and answered.

    Streams a chat answer to `question`, then takes the middle out of `text` and has it filled in.
    """
    from openai import DefaultHttpxClient, OpenAI

    from mojiang.serve._models import load_served
    from mojiang.serve.server import Server

    server = Server([load_served(artifact)], port=0).start()
    try:
        # A proxy has no business on the loopback interface.
        with DefaultHttpxClient(trust_env=False) as transport:
            client = OpenAI(base_url=server.url, api_key="none", http_client=transport)
            return {"url": server.url, **_ask(client, question, text)}
    finally:
        server.stop()


def _ask(client: OpenAI, question: str, text: str) -> dict[str, Any]:
    model = client.models.list().data[0].id
    stream = client.chat.completions.create(
        model=model, messages=[{"role": "user", "content": question}], max_tokens=96, temperature=0, stream=True
    )
    answer = "".join(chunk.choices[0].delta.content or "" for chunk in stream if chunk.choices)
    prefix, suffix = text[: len(text) // 2], text[-len(text) // 4 :]
    filled = client.completions.create(model=model, prompt=prefix, suffix=suffix, max_tokens=32, temperature=0)
    fill = {"prefix": prefix, "suffix": suffix, "text": filled.choices[0].text}
    return {"model": model, "prompt": question, "answer": answer, "fill": fill}


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
