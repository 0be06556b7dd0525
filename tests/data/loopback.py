"""A web server on this machine whose answers a test writes, with a log of what was asked."""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Answer:
    """What the server says; a body that is longer than `cut` breaks off there."""

    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    status: int = 200
    cut: int | None = None
    delay: float = 0.0
    stream: Iterable[bytes] | None = None
    """Sent instead of the body, without a length."""


class Site:
    """Answers by `handler(path, headers, how often it was asked before)`."""

    def __init__(self, handler: Callable[[str, dict[str, str], int], Answer]) -> None:
        self.asked: list[str] = []
        self.times: list[float] = []
        self.counts: Counter[str] = Counter()
        self.sent: Counter[str] = Counter()
        lock = threading.Lock()
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with lock:
                    before = site.counts[self.path]
                    site.counts[self.path] += 1
                    site.asked.append(self.path)
                    site.times.append(time.monotonic())
                answer = handler(self.path, {k.lower(): v for k, v in self.headers.items()}, before)
                time.sleep(answer.delay)
                length = {} if answer.stream is not None else {"Content-Length": str(len(answer.body))}
                with contextlib.suppress(ConnectionError):
                    self.send_response(answer.status)
                    for name, value in {**length, **answer.headers}.items():
                        self.send_header(name, value)
                    self.end_headers()
                    for block in answer.stream or (answer.body[: answer.cut],):
                        self.wfile.write(block)
                        site.sent[self.path] += len(block)
                    self.wfile.flush()

            def log_message(self, *_: Any) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)

    def __enter__(self) -> Site:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
