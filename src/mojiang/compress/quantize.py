"""Weight-only int8 quantisation, with its parity measured before anyone trusts it."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.report import Cell, Finding, Report, Table
from mojiang.core.run import Run

if TYPE_CHECKING:
    from mojiang.compress._parity import Likelihoods, LogitDifference
    from mojiang.evaluate._held_out import Document
    from mojiang.tokenizer.load import Tokenizer

# Above this the compressed model is called out in its own report; the gate's policy decides for itself.
NOTABLE_INCREASE = 0.005


class Quantize(Recipe):
    """Store a model's projections as int8, a quarter of fp32, and measure what that changed.

    Each output row of a projection is rounded to nearest with one symmetric scale; embeddings and the output head stay
    float (they are look-ups and the last, most sensitive product). The folder is in the compressed-tensors format,
    which transformers and vLLM load. Both models are then read from disk and compared on the same held-out bytes and
    prompts; the comparison is stored in the artifact as report.json.

    When not to use: for a model already quantised, or when 8 bits are not small enough.
    Source: Jacob et al. 2018 (per-channel symmetric int8); Dettmers et al. 2022 (8-bit weights of language models)
    Example:
        >>> Quantize(model="chat", data="corpus").bits
        8
    """

    recipe: ClassVar[str] = "compress.quantize"
    version: ClassVar[int] = 1
    makes: ClassVar[Literal["model"]] = "model"

    model: ModelRef
    """The float model to quantise."""
    data: DatasetRef
    """A dataset with splits, for the parity report; it does not change the weights."""
    split: Literal["test", "validation"] = "test"
    """The split the parity is measured on."""
    bits: Literal[8] = 8
    """Bits of a weight."""
    embeddings: Literal["bfloat16", "float32"] = "bfloat16"
    """How embeddings and the output head are stored."""
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    """Arithmetic in which bits per byte are compared; auto is bfloat16 where this machine computes it natively."""
    parity_bytes: int = Field(200_000, ge=4)
    """Most bytes of held-out documents that both models are scored on."""
    prompts: int = Field(8, ge=1, le=100)
    """Held-out openings that both models continue greedily."""
    tokens: int = Field(64, ge=2, le=2048)
    """Length of each continuation, in tokens."""

    def run(self, run: Run) -> Metrics:
        """Quantise, write the folder, and compare what was written with the original."""
        import torch

        from mojiang.compress._compressed_tensors import save_quantized
        from mojiang.model.int8 import replace_linears
        from mojiang.model.load import load_causal_lm

        source = run.input("model").path
        model = load_causal_lm(source, device="cpu", dtype=torch.float32)
        if getattr(model.config, "num_experts", 0):
            raise BadInput(
                f"{source} is a mixture of experts", hint="transformers reads no experts in int8; serve it as it is"
            )
        names = replace_linears(model)
        if not names:
            raise BadInput(f"{source} has no linear layers to quantise", hint="GPT-2 stores its otherwise")
        save_quantized(model, source, run.out, getattr(torch, self.embeddings))
        run.log(f"quantised {len(names)} projections to int8; embeddings and head are {self.embeddings}")
        del model
        run.check_stop()
        report = self._parity(run, source, run.out)
        report.save(run.out)
        return dict(report.scalars)

    def _parity(self, run: Run, source: Path, quantized: Path) -> Report:
        """Compare both folders as a user would load them."""
        import torch

        from mojiang.compress._compressed_tensors import WEIGHTS
        from mojiang.compress._parity import common_prefix_share, compare_likelihoods, compare_logits, decode
        from mojiang.evaluate._held_out import select_documents
        from mojiang.evaluate._loading import load_for_scoring
        from mojiang.model.load import load_causal_lm

        documents = select_documents(run.input("data").path, self.split, self.parity_bytes).documents
        before, tokenizer, precision = load_for_scoring(source, run.device, self.precision)
        after = load_causal_lm(quantized, device=run.device, dtype=before.compute_dtype).eval()
        ids = tokenizer.encode_batch([document.text for document in documents])
        sizes = [len(document.data) for document in documents]
        likelihoods = compare_likelihoods(before, after, ids, sizes, tokenizer.borders, _progress(run))
        context, rates, written = before.config.max_position_embeddings, {}, {}
        prompts = _prompts(tokenizer, documents[: self.prompts], max(2, context - self.tokens - 1))
        for dtype in (torch.float32, torch.bfloat16):
            run.check_stop()
            pair = [load_causal_lm(path, device=run.device, dtype=dtype).eval() for path in (source, quantized)]
            decoded = [decode(model, tokenizer, prompts, min(self.tokens, context // 2)) for model in pair]
            name = str(dtype).removeprefix("torch.")
            rates[name] = [d.tokens_per_second for d in decoded]
            written[name] = common_prefix_share(*(d.tokens for d in decoded))
            if dtype == torch.float32:
                texts = [[tokenizer.eos_id, *document][:context] for document in ids[: self.prompts]]
                logits = compare_logits(pair[0], pair[1], texts)
        files = [(path / WEIGHTS).stat().st_size for path in (source, quantized)]
        return self._report(files, likelihoods, logits, written, rates, precision, sum(sizes))

    def _report(
        self, files: list[int], likelihoods: Likelihoods, logits: LogitDifference, written: dict[str, float],
        rates: dict[str, list[float]], precision: str, num_bytes: int,
    ) -> Report:  # fmt: skip
        increase = likelihoods.increase
        rows: list[list[Cell]] = [
            ["weights on disk, bytes", files[0], files[1], files[1] / files[0]],
            [f"bits per byte ({precision})", likelihoods.before, likelihoods.after, 1 + increase.value],
        ]
        for name, (a, b) in rates.items():
            rows.append([f"tokens per second, one stream, {name}", round(a), round(b), b / a])
        scalars = {
            "bits_per_byte": likelihoods.after,
            "bits_per_byte_before": likelihoods.before,
            "bits_per_byte_increase": increase.value,
            "weight_bytes": float(files[1]),
            "weight_bytes_before": float(files[0]),
            "size_ratio": files[1] / files[0],
            "greedy_agreement": written["float32"],
            "top1_agreement": logits.top1_agreement,
            "max_logit_difference": logits.max_difference,
            "mean_kl_nats": logits.mean_kl,
            **{f"speed_ratio_{name}": b / a for name, (a, b) in rates.items()},
        }
        if math.isfinite(increase.low):
            scalars |= {"bits_per_byte_increase_low": increase.low, "bits_per_byte_increase_high": increase.high}
        agreement: list[list[Cell]] = [
            ["same most likely next token, given the same text", logits.top1_agreement],
            [f"same greedy continuation, up to the first difference within {self.tokens} tokens", written["float32"]],
            ["largest difference of a logit", logits.max_difference],
            ["mean KL divergence, nats per token", logits.mean_kl],
        ]
        findings = [
            Finding(
                level="info",
                text=f"int8 weights, one symmetric scale per output row, round to nearest; embeddings and output head "
                f"{self.embeddings}. Compared on {num_bytes:,} held-out bytes and {logits.positions:,} positions.",
            )
        ]
        if increase.value > NOTABLE_INCREASE:
            text = f"Bits per byte grew by {increase.value:.2%}, more than {NOTABLE_INCREASE:.1%}."
            findings.append(Finding(level="warning", text=text))
        return Report(
            title="Parity of the int8 model with the float model",
            scalars=scalars,
            tables=[
                Table(title="Before and after", columns=["measure", "float", "int8", "ratio"], rows=rows),
                Table(title="Agreement (float32)", columns=["measure", "value"], rows=agreement),
            ],
            findings=findings,
            verdict=f"{files[1] / files[0]:.0%} of the size, bits per byte {increase.value:+.2%}",
        )


def _progress(run: Run) -> Callable[[int, int], None]:
    def show(done: int, total: int) -> None:
        run.progress(done, total, unit="tokens")
        run.check_stop()

    return show


def _prompts(tokenizer: Tokenizer, documents: list[Document], max_tokens: int) -> list[list[int]]:
    from mojiang.evaluate._samples import opening

    return [[tokenizer.eos_id, *tokenizer.encode(opening(document.text))][:max_tokens] for document in documents]
