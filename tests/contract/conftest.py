"""One tiny chain, from files to a gated model, that the contract tests share."""

from __future__ import annotations

import http.server
import importlib.util
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import mojiang
from mojiang.core.artifact import Artifact
from mojiang.core.catalog import load_catalog
from mojiang.core.config import decode
from mojiang.core.run import execute
from mojiang.core.store import Store

HERE = Path(__file__).parent


def _tiny() -> dict[str, dict[str, Any]]:
    spec = importlib.util.spec_from_file_location("tiny", HERE / "tiny.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return dict(module.TINY)


TINY = _tiny()


@pytest.fixture(scope="session")
def site(texts: Path) -> Iterator[str]:
    """The texts as a web site on this machine, whose front page links to them."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: Any) -> None:
            return

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(texts)))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def tiny(texts: Path, request: pytest.FixtureRequest) -> Callable[[str], dict[str, Any]]:
    """The tiny settings of a capability; its inputs still carry the names of the capabilities that make them."""

    def value_of(value: Any) -> Any:
        if value == "SITE":
            return (request.getfixturevalue("site"),)
        return str(texts) if value == "CORPUS" else value

    return lambda name: {key: value_of(value) for key, value in TINY[name].items()}


Make = Callable[..., Artifact]


@pytest.fixture(scope="session")
def make(tiny: Callable[[str], dict[str, Any]]) -> Callable[[Store], Make]:
    """`make(store)(name, seed)`: the artifact of a capability's tiny config, and of all it needs, in that store."""
    catalog = load_catalog(plugins=False)

    def in_store(store: Store) -> Make:
        def one(name: str, seed: int = 0) -> Artifact:
            recipe, values = catalog.get(name.partition(":")[0]).load(), tiny(name)
            for field in recipe.input_fields():
                value = values.get(field)
                if isinstance(value, str):
                    values[field] = one(value, seed).fingerprint
                elif value is not None:
                    values[field] = tuple(one(word, seed).fingerprint for word in value)
            return execute(decode(recipe, values, name), store, name=re.sub("[.:]", "-", name), seed=seed).artifact

        return one

    return in_store


@pytest.fixture(scope="session")
def chain(make: Callable[[Store], Make], tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, Make]:
    """The shared store and its maker."""
    store = mojiang.open(tmp_path_factory.mktemp("chain") / "workspace")
    return store, make(store)
