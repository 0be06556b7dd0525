"""Distillation: a small model learns from a larger one, which it is to replace."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, model_validator

from mojiang.core.artifact import Kind
from mojiang.core.errors import BadInput
from mojiang.core.recipe import DatasetRef, Metrics, ModelRef, Recipe
from mojiang.core.run import Run
from mojiang.train._settings import Compute, Length, Optim, Watch

if TYPE_CHECKING:
    from pathlib import Path

    from mojiang.model.network import Network
    from mojiang.tokenizer.load import Tokenizer
    from mojiang.train._conversations import Conversations
    from mojiang.train._distillation import Wish


class Distill(Recipe):
    """Train a student on what a teacher thinks of every token or label, beside what is right.

    Learned are the teacher's scores (`alpha`), its hidden states block by block (`hidden_weight`), and with `sequences`
    the answers that it writes itself to the conversations. The student is a `student` of its own, or the teacher with
    every n-th block kept (`keep_layers`). Language models learn from conversations or documents, classifiers of texts
    from labelled ones.

    When not to use: to make a model smaller without training it (`quantize`), or where the teacher is hardly better
    than the student.
    Source: Hinton et al. 2015 (scores); Sanh et al. 2019 and Jiao et al. 2020 (hidden states, kept layers); Kim & Rush
    2016 (sequences).
    Example:
        >>> Distill(teacher="large", student="small", data="pairs", temperature=2).alpha
        0.5
    """

    recipe: ClassVar[str] = "train.distill"
    version: ClassVar[int] = 1
    makes: ClassVar[Kind] = "model"
    stochastic: ClassVar[bool] = True

    teacher: ModelRef
    """Whom to learn from."""
    student: ModelRef | None = None
    """The model to train, of the same vocabulary (classifiers: of any)."""
    keep_layers: int | None = Field(None, ge=2)
    """Instead of a student, the teacher with every n-th of its blocks."""
    data: DatasetRef
    """Conversations, documents or labelled texts, with their splits."""
    temperature: float = Field(2.0, gt=0)
    """Scores are divided by it; higher shows more of what the teacher thinks of the unlikely."""
    alpha: float = Field(0.5, ge=0, le=1)
    """Weight of the teacher's scores; the data's own tokens or labels have the rest."""
    hidden_weight: float = Field(0.0, ge=0)
    """Weight of the distance of hidden states from the teacher's; 0 leaves them out."""
    hidden: Literal["mse", "cosine"] = "mse"
    """How that distance is measured; where the widths differ, through a projection that is learned with it."""
    sequences: bool = False
    """Train on the answers that the teacher writes to the conversations, in the place of theirs."""
    max_tokens: int = Field(256, ge=1)
    """Longest answer the teacher writes; what has no end by then is left out."""
    batch_tokens: int = Field(4096, ge=32)
    """Tokens of an optimizer step of a language model, rounded down to whole rows."""
    context: int = Field(1024, ge=8)
    """Tokens of a row, or of the longest text to classify; longer texts lose their end, and are counted."""
    batch_size: int = Field(32, ge=1)
    """Texts of an optimizer step of a classifier."""
    length: Length = Length(epochs=3)
    """How long."""
    optim: Optim = Optim(learning_rate=2e-4, beta2=0.99, warmup_steps=20, schedule="linear")
    """How a gradient becomes a step."""
    compute: Compute = Compute(compile="off")
    """How the work is done."""
    watch: Watch = Watch(validations=3, keep_best=True)
    """What is looked at on the way."""

    @model_validator(mode="after")
    def _one_student(self) -> Distill:
        if (self.student is None) == (self.keep_layers is None):
            raise ValueError("give either a student, or keep_layers to make one of the teacher")
        if self.alpha == 0 and self.hidden_weight == 0 and not self.sequences:
            raise ValueError("with alpha=0, hidden_weight=0 and without sequences nothing comes from the teacher")
        return self

    def run(self, run: Run) -> Metrics:
        """Take the two models, train the student, save it."""
        from mojiang.model.load import load_model
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._distillation import Wish

        started = time.monotonic()
        folder = run.input("teacher").path
        teacher, tokenizer = load_model(folder, device=run.device).requires_grad_(False), load_tokenizer(folder)
        wish = Wish(self.temperature, self.alpha, self.hidden_weight, self.hidden)
        if teacher.config.head == "causal_lm":
            return self._language_model(run, teacher, tokenizer, wish, started)
        if teacher.config.head == "sequence_classification" and not self.sequences:
            return self._classifier(run, teacher, tokenizer, wish, started)
        what = " cannot write answers (sequences)" if self.sequences else ""
        raise BadInput(
            f"the teacher has the head {teacher.config.head}{what}",
            hint="distilled are language models and classifiers of texts",
        )

    def _student(self, run: Run, teacher: Path, **head: Any) -> tuple[Network, Path]:
        """The student, and the folder of its tokenizer."""
        from mojiang.model.load import load_model
        from mojiang.train._distillation import layer_map, with_layers

        if self.student is not None:
            origin = run.input("student").path
            return load_model(origin, device=run.device, **head), origin
        whole = load_model(teacher, device=run.device)
        depth, every = len(whole.blocks()), self.keep_layers or 1
        if every > depth:
            raise BadInput(f"the teacher has {depth} blocks", hint=f"keep_layers is at most {depth}")
        kept = layer_map(depth // every, depth)
        run.log(f"the student begins as the teacher's blocks {', '.join(map(str, kept))}")
        return with_layers(whole, kept, run.scratch / "student"), teacher

    def _language_model(
        self, run: Run, teacher: Network, teacher_tokenizer: Tokenizer, wish: Wish, started: float
    ) -> Metrics:
        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._conversations import packed
        from mojiang.train._distillation import DistilledLM, add_projections, check_same_tokens, drop_projections
        from mojiang.train._session import Job, outcome, save, train
        from mojiang.train.sft import row_length

        student, origin = self._student(run, run.input("teacher").path, head="causal_lm")
        tokenizer = load_tokenizer(origin)
        check_vocabulary(tokenizer, student.config)
        if wish.alpha or wish.hidden_weight:
            check_same_tokens(tokenizer, teacher_tokenizer, (student, teacher))
        chats = self._sequences(run, teacher, teacher_tokenizer, tokenizer)
        if wish.hidden_weight:
            add_projections(student, teacher, run.seed)
        context = min(row_length(self.context, self.batch_tokens, student), teacher.config.max_position_embeddings)
        source, plain, batch_rows = packed(chats, context, self.batch_tokens, 0.0, run.seed)
        objective = DistilledLM(teacher, wish, plain)
        job = Job(
            student, objective, source, batch_rows, self.length, self.optim, self.compute,
            self.watch.when(chats.validation is not None), context=context, row_cost=context, started=started,
            before=True,
        )  # fmt: skip
        training, result = train(run, job)
        drop_projections(training.model)
        save(training, origin, run)
        theirs = objective.validate(teacher, training.settings.at_once) if not self._translates(wish) else {}
        metrics = outcome(training, result, job) | {"teacher_parameters": teacher.num_parameters()}
        return metrics | {f"teacher_{name}": round(value, 5) for name, value in theirs.items()}

    @staticmethod
    def _translates(wish: Wish) -> bool:
        """Whether student and teacher may have different tokens, so that their losses are not comparable."""
        return not (wish.alpha or wish.hidden_weight)

    def _sequences(
        self, run: Run, teacher: Network, teacher_tokenizer: Tokenizer, tokenizer: Tokenizer
    ) -> Conversations:
        """The data as token shards; with `sequences`, with the teacher's answers."""
        from mojiang.data._documents import read_documents
        from mojiang.data.examples import has_split
        from mojiang.data.mine import read_conversations
        from mojiang.tokenizer._encode import conversation_sequences, document_sequences, read_texts
        from mojiang.train._audit import Audit, audit_conversations
        from mojiang.train._conversations import Conversations, shards_of
        from mojiang.train._distillation import teacher_answers

        data = run.input("data").path
        chats = has_split(data, "train", "conversations")
        if self.sequences and not chats:
            raise BadInput("the dataset holds no conversations for the teacher to answer", hint="data.mine makes some")

        def shards(split: str) -> Any:
            if not chats:
                texts = read_texts(read_documents(data, split, columns=["id", "text", "format"]))
                made = document_sequences(texts, tokenizer, seed=run.seed)
                return shards_of(run, split, made, tokenizer.vocab_size)
            rows = list(read_conversations(data, split))
            if self.sequences and split == "train":
                file = run.scratch / "answers.jsonl"
                rows, left = teacher_answers(rows, teacher, teacher_tokenizer, self.max_tokens, file)
                run.log(f"the teacher answered {len(rows):,} conversations; {left:,} are left out")
            return shards_of(run, split, conversation_sequences(rows, tokenizer), tokenizer.vocab_size)

        train = shards("train")
        audit = audit_conversations(train, tokenizer) if chats else Audit(0, 0, 0, 0)
        there = has_split(data, "validation", "conversations" if chats else "documents")
        return Conversations(train, shards("validation") if there else None, None, audit)

    def _classifier(
        self, run: Run, teacher: Network, teacher_tokenizer: Tokenizer, wish: Wish, started: float
    ) -> Metrics:
        from dataclasses import replace

        from mojiang.tokenizer.load import load_tokenizer
        from mojiang.train._audit import check_vocabulary
        from mojiang.train._classification import Classification, encode_texts, text_scores
        from mojiang.train._distillation import (
            DistilledClassifier,
            add_projections,
            check_same_tokens,
            drop_projections,
        )  # fmt: skip
        from mojiang.train._supervised import fitting, read_splits, train_on

        names = teacher.config.id2label or {}
        labels = [names.get(number, f"LABEL_{number}") for number in range(teacher.config.num_labels)]
        self._check_labels(run, labels)
        student, origin = self._student(
            run, run.input("teacher").path, head="sequence_classification", num_labels=len(labels)
        )
        student.config = replace(student.config, id2label=dict(enumerate(labels)))
        tokenizer = load_tokenizer(origin)
        check_vocabulary(tokenizer, student.config)
        if wish.hidden_weight:
            check_same_tokens(tokenizer, teacher_tokenizer, (student, teacher))
            add_projections(student, teacher, run.seed)
        splits, contexts = {}, (fitting(student, self.context), fitting(teacher, self.context))
        for split, rows in read_splits(run, "labelled").items():
            examples, cut = encode_texts(rows, labels, tokenizer, min(contexts) if wish.hidden_weight else contexts[0])
            theirs, _ = encode_texts(rows, labels, teacher_tokenizer, contexts[1])
            splits[split] = examples.replace(teacher_tokens=theirs["tokens"], teacher_segments=theirs["segments"])
            if cut:
                run.warn(f"{cut} of {len(rows)} {split} texts are longer than {contexts[0]} tokens and lose their end")
        pads = tokenizer.special_id("pad") or 0, teacher_tokenizer.special_id("pad") or 0
        plain = Classification(lambda model, batch: text_scores(model, batch, pads[0]), len(labels))
        objective = DistilledClassifier(teacher, wish, plain, pads, splits.get("validation"))
        metrics = train_on(run, self, student, objective, splits, origin, started, finish=drop_projections)
        return metrics | {"labels": len(labels), "teacher_parameters": teacher.num_parameters()}

    def _check_labels(self, run: Run, labels: list[str]) -> None:
        """Refuse a student that is a classifier of other labels, or data that has others."""
        from mojiang.model.architectures import resolve
        from mojiang.model.load import read_config
        from mojiang.train._supervised import read_splits

        given = {str(row["label"]) for rows in read_splits(run, "labelled").values() for row in rows}
        if unknown := sorted(given - set(labels)):
            raise BadInput(f"the teacher knows no label {', '.join(unknown[:5])}", hint=f"it has {', '.join(labels)}")
        if self.student is None:
            return
        config = read_config(run.input("student").path)
        own = {int(number): label for number, label in (config.get("id2label") or {}).items()}
        if resolve(config)[1] == "sequence_classification" and own != dict(enumerate(labels)):
            raise BadInput(
                f"the student's labels are {', '.join(own.values())}, the teacher's {', '.join(labels)}",
                hint="train a student of the same labels, or give a model without a classifier's head",
            )
