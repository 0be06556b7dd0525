"""model.fetch: folders, GGUF files and the Hub become artifacts that load, or are refused before anything is stored."""

from __future__ import annotations

import hashlib
import json
import shutil
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from mojiang.core.errors import BadInput, BadUsage, Corrupted, NotFound, Unavailable
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.model._hub import resolve_name
from mojiang.model.fetch import Fetch
from mojiang.model.load import load_model
from mojiang.tokenizer.load import load_tokenizer

TINY = Path(__file__).parents[1] / "fixtures" / "tiny-llama"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def test_a_folder_becomes_a_model(store: Store, folder: Path) -> None:
    (folder / "training_args.bin").write_bytes(b"not read")
    (folder / "notes.txt").write_text("not read")
    made = execute(Fetch(source=str(folder)), store).artifact
    wanted = {file.name for file in TINY.iterdir()}
    assert set(made.manifest.files) == wanted
    assert all((made.path / name).read_bytes() == (TINY / name).read_bytes() for name in wanted)
    model = load_model(made.path)
    assert made.metrics == {
        "source": str(folder), "licence": "Apache-2.0", "architecture": "LlamaForCausalLM", "vocab_size": 288,
        "parameters": sum(p.numel() for p in model.parameters()), "bytes": (TINY / "model.safetensors").stat().st_size,
        "chat_template": "yes",
    }  # fmt: skip


def test_the_content_is_the_identity(store: Store, folder: Path) -> None:
    first = Fetch(source=str(folder)).identity()
    (folder / "notes.txt").write_text("not read, so not counted")
    assert Fetch(source=str(folder)).identity() == first
    (folder / "config.json").write_text((folder / "config.json").read_text() + " ")
    assert Fetch(source=str(folder)).identity() != first


@pytest.mark.parametrize(
    ("card", "licence"),
    [
        ("---\nlicense: mit\n---\n", "MIT"),
        ("---\nlicense: other\nlicense_name: gemma\n---\n", "gemma"),
        ("---\nlanguage: en\n---\nlicense: mit\n", "unknown"),
        (None, "unknown"),
    ],
)
def test_the_licence_is_noted(store: Store, folder: Path, card: str | None, licence: str) -> None:
    (folder / "README.md").unlink()
    if card is not None:
        (folder / "README.md").write_text(card)
    assert execute(Fetch(source=str(folder)), store).artifact.metrics["licence"] == licence


def test_a_licence_file_is_recognised(store: Store, folder: Path) -> None:
    (folder / "README.md").unlink()
    (folder / "LICENSE").write_text("Apache License\nVersion 2.0, January 2004\n")
    made = execute(Fetch(source=str(folder)), store).artifact
    assert made.metrics["licence"] == "Apache-2.0"
    assert "LICENSE" in made.manifest.files


def spoil(folder: Path, what: str) -> None:
    config, weights = folder / "config.json", folder / "model.safetensors"
    if what == "pickle":
        weights.rename(folder / "pytorch_model.bin")
    elif what == "no weights":
        weights.unlink()
    elif what == "no config":
        config.unlink()
    elif what == "slow tokenizer":
        (folder / "tokenizer.json").rename(folder / "vocab.txt")
    elif what == "half":
        weights.write_bytes(weights.read_bytes()[:5000])
    else:
        changed = {"vocab": {"vocab_size": 200}, "architecture": {"model_type": "mamba", "architectures": ["Mamba"]}}[
            what
        ]
        config.write_text(json.dumps({**json.loads(config.read_text()), **changed}))


@pytest.mark.parametrize(
    ("what", "kind", "message"),
    [
        ("pickle", BadInput, "only pickled weights .pytorch_model.bin., which can run code"),
        ("no weights", BadInput, "has no model.safetensors"),
        ("no config", BadInput, "has no config.json"),
        ("slow tokenizer", BadInput, "has its tokenizer in vocab.txt"),
        ("half", Corrupted, "cannot be read"),
        ("vocab", BadInput, "embed_tokens"),
        ("architecture", BadInput, "mamba|Mamba"),
    ],
)
def test_what_would_not_load_is_refused(store: Store, folder: Path, what: str, kind: type, message: str) -> None:
    spoil(folder, what)
    with pytest.raises(kind, match=message):
        execute(Fetch(source=str(folder)), store)
    assert not list(store.artifacts())


def test_a_tokenizer_larger_than_its_model_is_refused(store: Store, folder: Path) -> None:
    spec = json.loads((folder / "tokenizer.json").read_text())
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    spec["added_tokens"].append({"id": 288, "content": "<|new|>", **flags})
    (folder / "tokenizer.json").write_text(json.dumps(spec))
    with pytest.raises(BadInput, match=r"289 ids \(the last is '<\|new\|>'\), the model embeds 288"):
        execute(Fetch(source=str(folder)), store)


def test_sources_that_are_not_there(store: Store, tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist") as caught:
        execute(Fetch(source="org/name"), store)
    assert "hf:org/name" in caught.value.hint
    (tmp_path / "model.onnx").touch()
    with pytest.raises(BadInput, match="is no model"):
        execute(Fetch(source=str(tmp_path / "model.onnx")), store)
    with pytest.raises(BadUsage, match="is no model of the Hub"):
        execute(Fetch(source="hf:a/b/c"), store)


def test_a_gguf_file_becomes_a_model(store: Store, tmp_path: Path) -> None:
    gguf = pytest.importorskip("gguf", reason="the extra `gguf` is not installed")
    from safetensors.torch import load_file

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.QWEN2, 1)
    writer = gguf.GGUFWriter(tmp_path / "m.gguf", "qwen2")
    for method, value in (
        ("context_length", 64), ("embedding_length", 16), ("block_count", 1), ("head_count", 2), ("head_count_kv", 1),
        ("feed_forward_length", 24), ("layer_norm_rms_eps", 1e-6), ("license", "mit"), ("tokenizer_model", "gpt2"),
        ("tokenizer_pre", "gpt-2"), ("eos_token_id", 0),
    ):  # fmt: skip
        getattr(writer, f"add_{method}")(value)
    model = json.loads((TINY / "tokenizer.json").read_text())["model"]
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_merges([" ".join(pair) for pair in model["merges"]])
    for name, tensor in load_file(TINY / "model.safetensors").items():
        writer.add_tensor(names.get_name(name, (".weight",)), tensor.numpy())
        if "self_attn" in name and "o_proj" not in name:
            writer.add_tensor(
                names.get_name(name, (".weight",))[: -len("weight")] + "bias", tensor.numpy()[:, 0].copy()
            )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    made = execute(Fetch(source=str(tmp_path / "m.gguf")), store).artifact
    assert (made.metrics["licence"], made.metrics["quantisation"]) == ("MIT", "F32")
    assert made.metrics["architecture"] == "Qwen2ForCausalLM"
    assert load_tokenizer(made.path).eos_id == 0
    assert Fetch(source=str(tmp_path / "m.gguf")).identity() == {
        "content": {"gguf": hashlib.sha256((tmp_path / "m.gguf").read_bytes()).hexdigest()}
    }


# --- the Hub, as a small server that speaks its protocol ------------------------------------------------------------


class Hub(BaseHTTPRequestHandler):
    """One repository with the files of a folder."""

    folder = TINY
    asked: list[str] = []

    def do_GET(self) -> None:
        self.asked.append(self.path)
        path = self.path.split("?")[0]
        files = sorted(self.folder.iterdir())
        if path.startswith("/api/models/org/tiny/tree/"):
            self._json([self._entry(file) for file in files])
        elif path.startswith("/api/models/org/tiny/revision/nowhere"):
            self._json({"error": "Revision Not Found"}, 404, {"X-Error-Code": "RevisionNotFound"})
        elif path.startswith("/api/models/org/tiny"):
            self._json({"id": "org/tiny", "sha": COMMIT, "siblings": [{"rfilename": file.name} for file in files]})
        elif path.startswith("/api/models/org/gated"):
            self._json({"error": "gated"}, 403, {"X-Error-Code": "GatedRepo"})
        elif path.startswith(f"/org/tiny/resolve/{COMMIT}/"):
            self._file(self.folder / path.rsplit("/", 1)[1])
        else:
            self._json({"error": "Repository Not Found"}, 404, {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def _entry(self, file: Path) -> dict[str, Any]:
        return {"type": "file", "path": file.name, "size": file.stat().st_size, "oid": _digest(file)[:40]}

    def _json(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        self._send(json.dumps(content).encode(), status, {"Content-Type": "application/json", **(headers or {})})

    def _file(self, file: Path) -> None:
        if not file.is_file():
            self._json({"error": "Entry not found"}, 404, {"X-Error-Code": "EntryNotFound"})
            return
        self._send(file.read_bytes(), 200, {"ETag": f'"{_digest(file)[:40]}"', "X-Repo-Commit": COMMIT})

    def _send(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(content))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Hub]]:
    """The client of the Hub, pointed at the small server and an empty cache."""
    constants = pytest.importorskip("huggingface_hub.constants", reason="the extra `hub` is not installed")
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    url = f"http://127.0.0.1:{server.server_address[1]}"
    monkeypatch.setattr(constants, "ENDPOINT", url)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", url + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setattr(Hub, "asked", [])
    yield Hub
    server.shutdown()
    thread.join()
    server.server_close()


def test_a_model_of_the_hub_is_pinned_to_its_commit(store: Store, hub: type[Hub]) -> None:
    made = execute(Fetch(source="hf:org/tiny"), store).artifact
    assert made.metrics["commit"] == COMMIT
    assert made.metrics["licence"] == "Apache-2.0"
    assert Fetch(source="hf:org/tiny").identity() == {"repo": "org/tiny", "commit": COMMIT}
    assert (made.path / "model.safetensors").read_bytes() == (TINY / "model.safetensors").read_bytes()
    assert not (made.path / "model.safetensors").is_symlink()


def test_a_pinned_commit_needs_no_network(hub: type[Hub]) -> None:
    assert resolve_name(f"hf:org/tiny@{COMMIT}").commit == COMMIT
    assert hub.asked == []


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("hf:org/none", NotFound, "the Hub has no org/none"),
        ("hf:org/tiny@nowhere", NotFound, "the Hub has no org/tiny at this revision"),
        ("hf:org/gated", BadInput, "only given to people who accepted its terms"),
    ],
)
def test_what_the_hub_does_not_give(hub: type[Hub], source: str, kind: type, message: str) -> None:
    with pytest.raises(kind, match=message):
        Fetch(source=source).identity()


def test_without_a_network_the_hub_is_unavailable(
    store: Store, hub: type[Hub], monkeypatch: pytest.MonkeyPatch
) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(Unavailable, match="the Hub cannot be reached for org/tiny"):
        execute(Fetch(source="hf:org/tiny"), store)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(Unavailable, match="the Hub cannot be reached"):
        execute(Fetch(source="hf:org/tiny"), store)
