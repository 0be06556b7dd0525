"""Can the model finish what it has not seen? For Python: bodies of held-out functions that parse."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.report import Cell, Finding, Report, Sample, Table
from mojiang.core.run import Run

if TYPE_CHECKING:
    from mojiang.evaluate._functions import FunctionTask
    from mojiang.evaluate._held_out import Document
    from mojiang.evaluate.metrics import Interval
    from mojiang.generate.engine import Generation
    from mojiang.model.network import Network
    from mojiang.tokenizer.load import Tokenizer


class Completion(Recipe):
    """Measure completions of held-out documents: the share of function bodies that parse, or how much a text repeats.

    Where the split holds Python, the model is given a file up to a function's signature (and docstring) and completes
    it greedily; the completion ends where the indentation leaves the function, and counts if `ast.parse` accepts
    signature and body together and the body is more than a docstring. The authors' own bodies, cut by the same rules
    and the same length, are the ceiling. Without Python, continuations of the documents' openings are measured for
    repetition beside the true continuations.

    When not to use: to tell whether code is right; a body that parses can still compute the wrong thing.
    Source: Wilson 1927 for the interval; Li et al. 2016 for distinct-n; Chen et al. 2021 (HumanEval) for the task shape
    Example:
        >>> Completion(model="chat", data="corpus").problems
        100
    """

    recipe: ClassVar[str] = "evaluate.completion"
    version: ClassVar[int] = 1
    makes: ClassVar[Literal["report"]] = "report"

    model: ModelRef
    """The model to evaluate."""
    data: DatasetRef
    """A dataset with splits."""
    split: Literal["test", "validation"] = "test"
    """The split whose documents are completed."""
    problems: int = Field(100, ge=1, le=10_000)
    """Most functions (or openings) completed, chosen by a hash of their text."""
    max_tokens: int = Field(128, ge=1, le=4096)
    """Most tokens of a completion."""
    max_bytes: int = Field(20_000_000, ge=4)
    """Most bytes of the split that are searched for functions."""
    samples: int = Field(6, ge=0, le=50)
    """Completions shown in the report."""

    def run(self, run: Run) -> Metrics:
        """Complete, judge, and write `report.json`."""
        from mojiang.evaluate._functions import function_tasks
        from mojiang.evaluate._held_out import select_documents
        from mojiang.evaluate._loading import load_for_scoring, weights_digest

        documents = select_documents(run.input("data").path, self.split, self.max_bytes).documents
        model, tokenizer, _ = load_for_scoring(run.input("model").path, run.device, "float32")
        python = [document for document in documents if document.language == "python"]
        tasks = [task for document in python for task in function_tasks(document.text)]
        tasks = sorted(tasks, key=lambda task: _hash(task.context + task.body))[: self.problems]
        if tasks:
            report = self._complete_functions(run, model, tokenizer, tasks)
        else:
            report = self._continue_texts(run, model, tokenizer, documents)
        report.save(run.out)
        return {**report.scalars, "weights": weights_digest(run.input("model"))}

    def _complete_functions(
        self, run: Run, model: Network, tokenizer: Tokenizer, tasks: Sequence[FunctionTask]
    ) -> Report:
        from mojiang.evaluate._functions import accepted, cut_body
        from mojiang.evaluate.metrics import wilson_interval

        run.log(f"completing {len(tasks)} held-out functions greedily, at most {self.max_tokens} tokens each")
        written = _generate(run, model, tokenizer, [task.context for task in tasks], self.max_tokens)
        bodies = [
            cut_body(generation.text, task.indent, complete=generation.finish_reason == "stop")
            for task, generation in zip(tasks, written, strict=True)
        ]
        true = [tokenizer.encode(task.rest) for task in tasks]
        shortened = [
            cut_body(tokenizer.decode(ids[: self.max_tokens]), task.indent, complete=len(ids) <= self.max_tokens)
            for task, ids in zip(tasks, true, strict=True)
        ]
        whole = [cut_body(task.rest, task.indent, complete=True) for task in tasks]
        parsed = [accepted(task, body) for task, body in zip(tasks, bodies, strict=True)]
        shares = {
            "this model": wilson_interval(sum(parsed), len(tasks)),
            f"the authors' bodies, first {self.max_tokens} tokens": _share(tasks, shortened),
            "the authors' bodies, whole": _share(tasks, whole),
        }
        rows: list[list[Cell]] = [[name, len(tasks), *_cells(share)] for name, share in shares.items()]
        columns = ["completed by", "functions", "parse, %", "95 % low", "95 % high"]
        unfinished = sum(generation.finish_reason == "length" for generation in written)
        exact = sum(body.strip() == task.body.strip() for body, task in zip(bodies, tasks, strict=True))
        model_share, ceiling = list(shares.values())[:2]
        return Report(
            title="Completion of held-out Python functions",
            scalars={
                "parse_share": model_share.value,
                "parse_share_low": model_share.low,
                "parse_share_high": model_share.high,
                "ceiling_parse_share": ceiling.value,
                "exact_share": exact / len(tasks),
                "problems": float(len(tasks)),
                "reached_length_limit": float(unfinished),
            },
            tables=[Table(title="Bodies that ast.parse accepts", columns=columns, rows=rows)],
            findings=[Finding(level="info", text="A body that parses is well formed; it may still be wrong.")],
            samples=[
                Sample(
                    title=f"{task.name}: {'parses' if ok else 'does not parse'}",
                    prompt=task.context[-600:],
                    text=body,
                )
                for task, body, ok in list(zip(tasks, bodies, parsed, strict=True))[: self.samples]
            ],
            verdict=f"{model_share.value:.0%} of {len(tasks)} held-out function bodies parse "
            f"(95 % interval {model_share.low:.0%} to {model_share.high:.0%})",
        )

    def _continue_texts(self, run: Run, model: Network, tokenizer: Tokenizer, documents: Sequence[Document]) -> Report:
        from mojiang.evaluate._samples import opening
        from mojiang.evaluate.metrics import distinct_ngrams, repeated_share

        documents = documents[: self.problems]
        openings = [opening(document.text) for document in documents]
        run.log(f"continuing {len(openings)} held-out openings greedily, at most {self.max_tokens} tokens each")
        written = _generate(run, model, tokenizer, openings, self.max_tokens)
        ours = [list(generation.tokens) for generation in written]
        theirs = [
            tokenizer.encode(document.text[len(start) :])[: self.max_tokens]
            for document, start in zip(documents, openings, strict=True)
        ]
        measures = {
            "distinct_1": lambda text: distinct_ngrams(text, 1),
            "distinct_2": lambda text: distinct_ngrams(text, 2),
            "repeated_4grams": lambda text: repeated_share(text, 4),
        }
        scalars, rows = {"problems": float(len(documents))}, []
        for name, measure in measures.items():
            mean = {who: sum(map(measure, texts)) / len(texts) for who, texts in (("model", ours), ("true", theirs))}
            scalars |= {name: mean["model"], f"true_{name}": mean["true"]}
            rows.append([name, mean["model"], mean["true"]])
        loops = scalars["repeated_4grams"]
        findings = [Finding(level="info", text="The split holds no Python functions; repetition is measured instead.")]
        if loops > 0.5:
            text = f"{loops:.0%} of the 4-grams repeat earlier ones: greedy continuations of this model loop."
            findings.append(Finding(level="warning", text=text))
        return Report(
            title="Continuation of held-out openings",
            scalars=scalars,
            tables=[Table(title="Repetition", columns=["measure", "this model, greedy", "true text"], rows=rows)],
            findings=findings,
            samples=[
                Sample(title=document.path, prompt=start, text=generation.text)
                for document, start, generation in list(zip(documents, openings, written, strict=True))[: self.samples]
            ],
            verdict=f"{loops:.0%} of 4-grams repeat, against {scalars['true_repeated_4grams']:.0%} in the true text",
        )


def _generate(
    run: Run, model: Network, tokenizer: Tokenizer, openings: Sequence[str], max_tokens: int
) -> list[Generation]:
    """Greedy continuations; the run can be stopped after each."""
    from mojiang.evaluate._samples import continue_openings
    from mojiang.generate.engine import Sampling

    def on_done(done: int) -> None:
        run.progress(done, len(openings), unit="completions")
        run.check_stop()

    max_tokens = min(max_tokens, model.config.max_position_embeddings // 2)
    return continue_openings(model, tokenizer, openings, max_tokens, Sampling(), on_done)


def _share(tasks: Sequence[FunctionTask], bodies: Sequence[str]) -> Interval:
    from mojiang.evaluate._functions import accepted
    from mojiang.evaluate.metrics import wilson_interval

    return wilson_interval(sum(map(accepted, tasks, bodies)), len(tasks))


def _cells(share: Interval) -> list[Cell]:
    return [100 * share.value, 100 * share.low, 100 * share.high]


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
