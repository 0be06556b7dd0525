"""How many tokens per second do 1 and 8 clients get, beside transformers on the same weights?

    python bench/serve_throughput.py [--model FOLDER] [--tokens 128] [--repeats 5]

One neutral client (plain HTTP, streaming) asks our server; transformers runs in process, without any HTTP, through
`generate` (one prompt after the other, and 8 prompts as one batch) and `generate_batch` (its continuous batching).
Random weights of a Qwen3 shape, greedy, fp32, prompts of different lengths, no end token. Runs of the sides alternate,
medians are reported. Client and server share the cores of this machine, as they would on a laptop.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx

RESULTS = Path(__file__).parent / "results" / "serve_throughput.json"
NUM_CLIENTS = 8
SERVE = """
import sys
from pathlib import Path
from mojiang.serve.server import serve
serve([Path(sys.argv[1])], port=0)
"""


def make_model(folder: Path) -> None:
    """A folder that both sides read: random Qwen3 weights, and a byte-level tokenizer over bench/ itself."""
    import torch
    import transformers
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=8192, hidden_size=512, num_hidden_layers=8, num_attention_heads=8, num_key_value_heads=4,
        intermediate_size=1408, head_dim=64, max_position_embeddings=1024, tie_word_embeddings=True,
        eos_token_id=None, bos_token_id=None, pad_token_id=1, initializer_range=0.05,
    )  # fmt: skip
    transformers.Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(), decoders.ByteLevel()
    special = [f"<|{n}|>" for n in ("endoftext", "pad", "im_start", "im_end", "fim_prefix", "fim_middle", "fim_suffix")]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=8192, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator([Path(__file__).read_text()], trainer)
    # The vocabulary of the model is larger than this text yields; the rest are names nobody writes.
    tokenizer.add_tokens([f"<unused{i}>" for i in range(8192 - tokenizer.get_vocab_size())])
    wrapped = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|endoftext|>", pad_token="<|pad|>"
    )
    wrapped.chat_template = (
        "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
        "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
    )
    wrapped.save_pretrained(folder)


class Ours:
    """Our server in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-c", SERVE, folder], stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        while "serving" not in line:
            assert line, "the server did not start"
            line = self.process.stderr.readline()
        self.url = next(word for word in line.split() if word.startswith("http"))
        self.model = folder.name
        self.first_token_seconds: list[float] = []

    def ask(self, prompt: list[int], tokens: int) -> int:
        body = {"model": self.model, "prompt": prompt, "max_tokens": tokens, "temperature": 0, "stream": True}
        body["stream_options"] = {"include_usage": True}
        start, count, first = time.perf_counter(), 0, 0.0
        with httpx.stream("POST", f"{self.url}/completions", json=body, timeout=300) as answer:
            for line in answer.iter_lines():
                first = first or (time.perf_counter() - start if line else 0.0)
                if '"usage"' in line:
                    count = json.loads(line.removeprefix("data: "))["usage"]["completion_tokens"]
        self.first_token_seconds.append(first)
        return count

    def clients(self, prompts: list[list[int]], tokens: int) -> int:
        with ThreadPoolExecutor(len(prompts)) as pool:
            return sum(pool.map(lambda prompt: self.ask(prompt, tokens), prompts))


class Theirs:
    """transformers on the same folder, in this process."""

    def __init__(self, folder: Path) -> None:
        import torch
        import transformers

        self.torch, self.transformers = torch, transformers
        transformers.logging.set_verbosity_error()
        self.model = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()

    def alone(self, prompts: list[list[int]], tokens: int) -> int:
        return sum(self.padded([prompt], tokens) for prompt in prompts)

    def padded(self, prompts: list[list[int]], tokens: int) -> int:
        longest = max(map(len, prompts))
        ids = self.torch.tensor([[1] * (longest - len(p)) + p for p in prompts])
        mask = self.torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
        out = self.model.generate(ids, attention_mask=mask, max_new_tokens=tokens, do_sample=False)
        return int((out.shape[1] - longest) * len(prompts))

    def continuous(self, prompts: list[list[int]], tokens: int) -> int:
        config = self.transformers.GenerationConfig(max_new_tokens=tokens, do_sample=False, eos_token_id=-1)
        out = self.model.generate_batch(prompts, generation_config=config, progress_bar=False)
        return sum(len(result.generated_tokens) for result in out.values())


def measure(work: dict[str, Callable[[], int]], repeats: int) -> dict[str, list[float]]:
    """Tokens per second of each, in turns, so that a busy moment of the machine hits all alike."""
    rates: dict[str, list[float]] = {name: [] for name in work}
    for turn in range(repeats + 1):
        for name, run in list(work.items()):
            start = time.perf_counter()
            try:
                tokens = run()
            except Exception as error:  # a peer that does not run here is reported, not hidden
                print(f"{name} does not run here: {type(error).__name__}: {str(error)[:200]}", file=sys.stderr)
                del work[name]
                continue
            if turn:  # the first is for warming up
                rates[name].append(tokens / (time.perf_counter() - start))
    return rates


def row(work: str, ours: float, peer: float, peer_name: str, goal: str) -> dict[str, Any]:
    return {
        "work": work, "metric": "generated tokens", "unit": "tokens/s", "ours": round(ours, 1),
        "peer": round(peer, 1), "peer_name": peer_name, "ratio": round(ours / peer, 2), "goal": goal,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", type=Path, help="a Hugging Face folder; default: random weights")
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = options.model or Path(scratch) / "bench"
        if options.model is None:
            make_model(folder)
        prompts = [[(37 * i + 11 * j) % 4000 + 300 for j in range(24 + 12 * i)] for i in range(NUM_CLIENTS)]
        ours, theirs, tokens = Ours(folder), Theirs(folder), options.tokens
        rates = measure(
            {
                "ours, 1 client": lambda: ours.clients(prompts[:1], tokens),
                "transformers generate, 1": lambda: theirs.alone(prompts[:1], tokens),
                "ours, 8 clients": lambda: ours.clients(prompts, tokens),
                "transformers generate, 8 in a padded batch": lambda: theirs.padded(prompts, tokens),
                "transformers generate_batch, 8": lambda: theirs.continuous(prompts, tokens),
            },
            options.repeats,
        )
        ours.process.terminate()
        ours.process.wait()
    report(rates, statistics.median(ours.first_token_seconds))


def report(rates: dict[str, list[float]], first_token: float) -> None:
    import torch
    import transformers

    median = {name: statistics.median(values) for name, values in rates.items() if values}
    for name, value in median.items():
        print(f"{name:45} {value:8.1f} tokens/s   ({min(rates[name]):.1f} … {max(rates[name]):.1f})")
    print(f"median time to first token of ours            {1000 * first_token:8.1f} ms")
    one, eight = median["ours, 1 client"], median["ours, 8 clients"]
    rows = [
        row("1 client", one, median["transformers generate, 1"], "transformers generate", ">= 3"),
        row("8 clients", eight, one, "ours, 1 client", ">= 3"),
        row("8 clients", eight, median["transformers generate, 1"], "transformers generate, one by one", ">= 8"),
    ]
    for name in ("transformers generate, 8 in a padded batch", "transformers generate_batch, 8"):
        if name in median:
            rows.append(row("8 clients", eight, median[name], name, ">= 1.5"))
    for entry in rows:
        print(f"{entry['work']:10} ours ÷ {entry['peer_name']:45} {entry['ratio']:6.2f}   goal {entry['goal']}")
    commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False).stdout.strip()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    versions["python"] = platform.python_version()
    machine = f"{platform.machine()}, {len(os.sched_getaffinity(0))} cores, {torch.backends.cpu.get_cpu_capability()}"
    RESULTS.parent.mkdir(exist_ok=True)
    result = {"commit": commit, "machine": machine, "versions": versions, "rows": rows}
    RESULTS.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
