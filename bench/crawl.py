"""A crawl of a large site on this machine, killed on the way: pages a second, memory, and what was fetched twice.

The site has `--pages` pages of 2 to 40 kB in English and Chinese, each linked from several others, and a trap at every
hundredth: a redirect loop, a server error, a page that never comes, an endless one, a gzip bomb.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil
from _harness import commit, machine, row

ENGLISH = ["the", "of", "a", "page", "text", "model", "data", "with", "from", "where", "each", "words", "line", "other"]
CHINESE = (
    "的一是在不了有和人这中大为上个国我以要他时来用们生到作地于出就分对成会可主发年动同工也能下过子说产种面而方后多"
)
TRAPS = ("loop", "error", "slow", "endless", "bomb")
BOMB = gzip.compress(bytes(100_000_000))
COMMAND = """
import json, sys, mojiang
from mojiang.core.engine import LocalEngine
from mojiang.core.run import Circumstance, execute
from mojiang.data.crawl import Crawl, Limits, Manners
recipe = Crawl(
    start=(sys.argv[1],), as_of="bench", sitemaps=False, manners=Manners(delay=0, per_host=8),
    limits=Limits(pages=10**6, depth=10**6, page_bytes=2_000_000, timeout=5, retries=1),
)
made = execute(recipe, mojiang.open(sys.argv[2]), circumstance=Circumstance(engine=LocalEngine(workers=1))).artifact
print(json.dumps(made.metrics))
"""


def page(number: int, pages: int) -> bytes:
    """A page, the same each time, with links to a few others; together they reach every page."""
    generator = random.Random(number)
    words: list[str] = list(CHINESE) if number % 3 == 0 else ENGLISH
    between = "" if number % 3 == 0 else " "
    paragraphs = [between.join(generator.choices(words, k=80)) for _ in range(generator.randrange(4, 60))]
    links = {3 * number + 1, 3 * number + 2, 3 * number + 3, generator.randrange(pages), generator.randrange(pages)}
    menu = "".join(f'<li><a href="/{n}">Page {n}</a></li>' for n in sorted(links) if n < pages)
    body = "".join(f"<p>{text}.</p>" for text in paragraphs)
    source = f"<html><title>{number}</title><body><nav><ul>{menu}</ul></nav><main><h1>Page {number}</h1>{body}</main>"
    return source.encode("gb18030" if number % 9 == 0 else "utf-8")


class Handler(BaseHTTPRequestHandler):
    """Answers for one site; its pages and its counts are the server's."""

    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        with self.server.lock:
            self.server.asked[self.path] += 1
        number = int(self.path[1:]) if self.path[1:].isdigit() else -1
        if number < 0:
            self.answer(404)
        elif number > self.server.pages // 2 and number % 100 == 50:
            getattr(self, TRAPS[number // 100 % len(TRAPS)])()
        else:
            self.answer(200, {"Content-Type": "text/html"}, page(number, self.server.pages))

    def answer(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def loop(self) -> None:
        self.answer(302, {"Location": self.path})

    def error(self) -> None:
        self.answer(500)

    def slow(self) -> None:
        time.sleep(20)

    def bomb(self) -> None:
        self.answer(200, {"Content-Encoding": "gzip", "Content-Type": "text/html"}, BOMB)

    def endless(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.send_header("Connection", "close")
        self.end_headers()
        for _ in range(1024):
            self.wfile.write(b"x" * (1 << 20))

    def handle(self) -> None:
        try:
            super().handle()
        except OSError:
            self.close_connection = True

    def log_message(self, *_: Any) -> None:
        return


class Server(ThreadingHTTPServer):
    """The site, and how often each address was asked for."""

    daemon_threads = True

    def __init__(self, pages: int) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.pages, self.asked, self.lock = pages, Counter[str](), threading.Lock()


def peak_of(process: subprocess.Popen[str]) -> int:
    """Resident bytes of a process and its children, now."""
    try:
        whole = psutil.Process(process.pid)
        return sum(p.memory_info().rss for p in (whole, *whole.children(recursive=True)))
    except psutil.Error:
        return 0


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--pages", type=int, default=6000)
    options.add_argument("--kills", type=int, default=3)
    given = options.parse_args()
    server = Server(given.pages)
    asked = server.asked
    threading.Thread(target=server.serve_forever, daemon=True).start()
    peak = busy = 0.0
    kills_at = [given.pages * (n + 1) // (given.kills + 1) for n in range(given.kills)]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-c", COMMAND, f"http://127.0.0.1:{server.server_port}/0", folder]
        while True:
            began = time.monotonic()
            process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
            while process.poll() is None:
                peak = max(peak, peak_of(process))
                if kills_at and len(asked) >= kills_at[0]:
                    kills_at.pop(0)
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    break
                time.sleep(0.1)
            busy += time.monotonic() - began
            if process.returncode != -signal.SIGKILL:
                break
        said = process.stdout.read() if process.stdout else ""
        stored = sum(path.stat().st_size for path in Path(folder).rglob("*.parquet"))
    metrics = json.loads(said)
    twice = sum(n - 1 for path, n in asked.items() if n > 1 and path != "/robots.txt")
    figures = {
        "pages": given.pages, "kills": given.kills, "documents": metrics["documents_kept"],
        "with a reason": metrics["documents_dropped"], "redirects and others": metrics["pages_failed"],
        "requests": sum(asked.values()), "asked again": twice, "seconds": round(busy, 1),
        "pages a second": round(metrics["pages_fetched"] / busy, 1), "peak MiB": round(peak / 2**20),
        "text MB": round(metrics["bytes_kept"] / 1e6, 1), "stored MB": round(stored / 1e6, 1),
    }  # fmt: skip
    for name, value in figures.items():
        print(f"{name:22} {value}")
    rows = [row("a site with traps", name, "", value, None, "") for name, value in figures.items()]
    result = {"commit": commit(), "machine": machine(), "versions": {"mojiang": version("mojiang")}, "rows": rows}
    (Path(__file__).parent / "results" / "crawl.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
