"""The service: socket, signals, drain.

`serve(...)` is what `mojiang serve REF…` calls. `Server` is the same inside a program: `start`, `stop`, `health`.

On SIGTERM (or Ctrl-C): /readyz turns 503 and new requests are refused, so that a load balancer looks elsewhere;
requests under way are finished for up to `drain_seconds`, then cancelled; exit code 0. A second signal stops at once.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import torch
import uvicorn

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadUsage, Unavailable
from mojiang.serve._models import ServedModel, load_served
from mojiang.serve.openai import ServeSettings, State, create_app

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class Server:
    """One HTTP server with its engines; a Service: `start`, `stop`, `health`, or `run` in the main thread."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        *,
        host: str = "127.0.0.1",
        port: int = 8000,
        settings: ServeSettings | None = None,
        drain_seconds: float = 30.0,
    ) -> None:
        by_name = {model.name: model for model in models}
        if len(by_name) < len(models):
            by_name = {model.ref: model for model in models}
        if len(by_name) < len(models):
            names = sorted(model.ref for model in models)
            raise BadUsage(f"two of the models have the same name: {', '.join(names)}", hint="serve each model once")
        self.models, self.drain_seconds = list(models), drain_seconds
        app = create_app(by_name, settings)
        self._state: State = app.state.serve
        self._socket = _listen(host, port)
        self.host, self.port = host, int(self._socket.getsockname()[1])
        config = uvicorn.Config(
            app, log_level="warning", access_log=False, lifespan="on", server_header=False, timeout_graceful_shutdown=5
        )
        self._uvicorn = _Uvicorn(config)
        self._thread: threading.Thread | None = None
        self._stopping: asyncio.Task[None] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def url(self) -> str:
        """Where clients connect: the `base_url` of an OpenAI client."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}/v1"

    @property
    def health(self) -> str:
        """`starting`, `ready`, `draining`, `failed` or `stopped`."""
        if self._uvicorn.should_exit:
            return "stopped"
        if any(model.engine.failure for model in self.models):
            return "failed"
        if self._state.draining:
            return "draining"
        return "ready" if self._uvicorn.started else "starting"

    def start(self) -> Server:
        """Serve on a thread of its own; returns when it is ready."""
        self._thread = threading.Thread(target=self.run, kwargs={"signals": False}, name="mojiang-serve", daemon=True)
        self._thread.start()
        while self.health == "starting":
            if not self._thread.is_alive():
                raise Unavailable("the server ended while it started", hint="see the log above")
            time.sleep(0.01)
        return self

    def stop(self) -> None:
        """Drain and end (the counterpart of `start`)."""
        if self._loop is not None and self._thread is not None and self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._on_signal)
            self._thread.join()

    def run(self, *, signals: bool = True, on_ready: Callable[[Server], None] | None = None) -> None:
        """Serve until told to stop; with `signals`, by SIGTERM or SIGINT (main thread only)."""
        asyncio.run(self._run(signals, on_ready))

    async def _run(self, signals: bool, on_ready: Callable[[Server], None] | None) -> None:
        self._loop = asyncio.get_running_loop()
        if signals:
            for number in (signal.SIGTERM, signal.SIGINT):
                self._loop.add_signal_handler(number, self._on_signal)
        serving = asyncio.create_task(self._uvicorn.serve(sockets=[self._socket]))
        try:
            while not self._uvicorn.started and not serving.done():
                await asyncio.sleep(0.005)
            if on_ready is not None and self._uvicorn.started:
                on_ready(self)
            await serving
        finally:
            self._socket.close()
            await asyncio.to_thread(self._close_engines)

    def _on_signal(self) -> None:
        if self._stopping is None:
            self._stopping = asyncio.ensure_future(self._drain())
        else:
            self._uvicorn.should_exit = self._uvicorn.force_exit = True

    async def _drain(self) -> None:
        self._state.draining = True
        end = time.monotonic() + self.drain_seconds
        # Also the connections: an answer that is computed may still be on its way.
        while time.monotonic() < end and (self._busy() or self._uvicorn.server_state.tasks):
            await asyncio.sleep(0.02)
        if self._busy():
            await asyncio.to_thread(self._close_engines)
        self._uvicorn.should_exit = True

    def _busy(self) -> bool:
        return any(m.engine.stats.waiting or m.engine.stats.running for m in self.models)

    def _close_engines(self) -> None:
        for model in self.models:
            model.engine.close(drain=False)


class _Uvicorn(uvicorn.Server):
    """Uvicorn without its own signal handlers: it would close the socket before the drain."""

    @contextlib.contextmanager
    def capture_signals(self) -> Generator[None, None, None]:
        yield


def _listen(host: str, port: int) -> socket.socket:
    """A bound socket, or the error that says what is in the way."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
        listener.listen(128)  # now, not later: a port is taken only when somebody listens
    except (OSError, OverflowError) as error:
        listener.close()
        number = getattr(error, "errno", None)
        if number == errno.EADDRINUSE:
            hint = f"stop what listens on port {port}, or give another with --port (0 picks a free one)"
            raise Unavailable(f"port {port} on {host} is in use", hint=hint) from None
        if number == errno.EACCES:
            raise Unavailable(f"port {port} needs privileges", hint="use --port with a number above 1023") from None
        raise BadUsage(f"cannot listen on {host}:{port}: {error}", hint="check --host and --port") from None
    return listener


def serve(
    models: Sequence[Artifact | Path],
    host: str = "127.0.0.1",
    port: int = 8000,
    *,
    api_key: str | None = None,
    slots: int = 8,
    max_queue: int = 64,
    context: int | None = None,
    device: str = "cpu",
    dtype: str = "float32",
    drain_seconds: float = 30.0,
    on_ready: Callable[[Server], None] | None = None,
) -> int:
    """Serve models until SIGTERM or Ctrl-C; returns the exit code (0).

    `slots` sequences are computed at once per model, `max_queue` more wait, further requests get 429. Port 0 picks a
    free port; `on_ready` gets the server when it accepts requests (default: say so on stderr). Outside the loopback
    interface an API key is required. Raises `Unavailable` if the port is taken, before any model is loaded.
    """
    if dtype not in _DTYPES:
        raise BadUsage(f"dtype is {dtype!r}", hint=f"use one of {', '.join(_DTYPES)}")
    if not api_key and host not in ("127.0.0.1", "::1", "localhost"):
        raise BadUsage(
            f"--host {host} can be reached from other machines, and no API key is set",
            hint="give an API key, or serve on 127.0.0.1",
        )
    _listen(host, port).close()
    options: dict[str, Any] = {"slots": slots, "max_queue": max_queue, "context": context, "device": device}
    loaded = [load_served(source, dtype=_DTYPES[dtype], **options) for source in models]
    settings = ServeSettings(api_key=api_key or None)
    server = Server(loaded, host=host, port=port, settings=settings, drain_seconds=drain_seconds)
    server.run(on_ready=on_ready or _announce)
    return 0


def _announce(server: Server) -> None:
    names = ", ".join(model.ref for model in server.models)
    print(f"serving {names} at {server.url} (Ctrl-C stops)", file=sys.stderr, flush=True)
