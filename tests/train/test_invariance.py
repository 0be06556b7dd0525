"""For every objective: a step's loss and gradient do not depend on how the batch is cut, ordered or padded."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from mojiang.model.bert import Bert, BertConfig
from mojiang.model.bilstm_crf import BiLSTMCRF, BiLSTMCRFConfig
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.elmo import ELMo, ELMoConfig, spellings_of
from mojiang.model.network import Network
from mojiang.model.rnn_seq2seq import RNNSeq2Seq, RNNSeq2SeqConfig
from mojiang.model.t5 import T5, T5Config
from mojiang.tokenizer._pack import IGNORE, PackedRows, Sequence, write_shards
from mojiang.train._batches import Examples
from mojiang.train._bilm import BiLM
from mojiang.train._classification import Classification, text_scores
from mojiang.train._contrastive import Contrast
from mojiang.train._corruption import RATES
from mojiang.train._distillation import DistilledClassifier, DistilledLM, Wish
from mojiang.train._families import TRAINS, new_model
from mojiang.train._objective import CausalLM, Objective
from mojiang.train._pairs import Writing
from mojiang.train._parallel import World
from mojiang.train._plan import Shape
from mojiang.train._preferences import Judged, PairwiseReward, Preference
from mojiang.train._pretraining import causal, objective
from mojiang.train._rollouts import GroupRelative
from mojiang.train._spans import Extraction
from mojiang.train._tagging import WordLabels

sys.path.insert(0, str(Path(__file__).parent))
import toy_texts

VOCABULARY = 50
Case = tuple[Network, Objective, Any]


def decoder(head: str = "causal_lm", num_labels: int = 2) -> Network:
    config = DecoderConfig(VOCABULARY, 32, 2, 4, 2, 48, 8, head=head, num_labels=num_labels)  # type: ignore[arg-type]
    model = Decoder(config).init_weights(0)
    with torch.no_grad():  # projections that begin as zero would hide what attention does
        generator = torch.Generator().manual_seed(1)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def texts(count: int, seed: int = 0) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    return [rng.integers(0, VOCABULARY, n) for n in rng.integers(4, 40, count)]


def answers(count: int, seed: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Inputs and targets of answers whose first tokens are the prompt's."""
    tokens = texts(count, seed)
    targets = [np.where(np.arange(len(t) - 1) < 2, IGNORE, t[1:]) for t in tokens]
    return [t[:-1] for t in tokens], targets


def causal_lm(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    made = [Sequence(t, len(t), rng.random(len(t)) < 0.7) for t in texts(12)]
    packed = PackedRows(write_shards(made, folder, VOCABULARY), 48)
    return decoder(), CausalLM(), packed.rows(range(len(packed)))


def classify(folder: Path) -> Case:
    tokens = texts(9)
    columns = {"tokens": tokens, "segments": [np.zeros_like(t) for t in tokens], "label": np.arange(9) % 3}
    objective = Classification(lambda model, batch: text_scores(model, batch, 0), 3, label_smoothing=0.1)
    return decoder("sequence_classification", 3), objective, Examples(columns, "tokens")


def pairs() -> Examples:
    (chosen, chosen_targets), (rejected, rejected_targets) = answers(7, 1), answers(7, 2)
    return Examples(
        {
            "chosen": chosen, "chosen_targets": chosen_targets, "rejected": rejected,
            "rejected_targets": rejected_targets, "chosen_reference": np.linspace(-90, -20, 7, dtype=np.float32),
            "rejected_reference": np.linspace(-30, -80, 7, dtype=np.float32),
            "both": [np.zeros(len(a) + len(b)) for a, b in zip(chosen, rejected, strict=True)],
        },
        "both",
    )  # fmt: skip


def preference(kind: str) -> Callable[[Path], Case]:
    return lambda folder: (decoder(), Preference(kind, 0.1), pairs())


def reward(folder: Path) -> Case:
    return decoder("sequence_classification", 1), PairwiseReward(), pairs()


def kto(folder: Path) -> Case:
    (answer, answer_targets), (other, other_targets) = answers(8, 1), answers(8, 2)
    columns = {
        "answer": answer, "answer_targets": answer_targets, "other": other, "other_targets": other_targets,
        "good": np.arange(8) % 2 == 0, "answer_reference": np.linspace(-90, -20, 8, dtype=np.float32),
        "other_reference": np.linspace(-200, -150, 8, dtype=np.float32),
    }  # fmt: skip
    return decoder(), Judged(0.02, 100), Examples(columns, "answer")


class PreparedRollouts(GroupRelative):
    """GRPO from its answers on: they are written by an engine whose own tests cover batching."""

    def prepare(self, model: Network, batch: Examples, step: int, world: World) -> Examples:
        return batch


def grpo(folder: Path) -> Case:
    rng = np.random.default_rng(0)
    columns = {
        "tokens": texts(8), "start": rng.integers(1, 4, 8), "advantage": rng.normal(size=8).astype(np.float32),
    }  # fmt: skip
    model, reference = decoder(), decoder()
    objective = PreparedRollouts(None, None, 0, temperature=0.7, beta=0.1)  # type: ignore[arg-type]
    objective.start(reference)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.05)
    return model, objective, Examples(columns, "tokens")


def bert(head: str) -> Network:
    """Three labels, dropout and segments."""
    config = BertConfig(VOCABULARY, 32, 2, 4, 48, max_position_embeddings=64, head=head, num_labels=3)  # type: ignore[arg-type]
    return Bert(config).init_weights(0)


def tagging(model: Callable[[], Network]) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        tokens = texts(9)
        targets = [np.where(t % 3 == 0, IGNORE, t % 3) for t in tokens]
        columns = {"tokens": tokens, "segments": [np.zeros_like(t) for t in tokens], "targets": targets}
        return model(), WordLabels(["A", "B", "C"], 0), Examples(columns, "tokens")

    return case


def crf() -> Network:
    config = BiLSTMCRFConfig(VOCABULARY, 16, 16, num_labels=3, dropout=0.0)
    return BiLSTMCRF(config).init_weights(0)


def elmo(folder: Path) -> Case:
    words = [f"{'w' * (n % 7)}{n}" for n in range(VOCABULARY - 2)]
    model = ELMo(ELMoConfig(30, 8, 16, filters=((1, 4), (3, 8)), dropout=0.0)).init_weights(0)
    sentences = [np.concatenate([[0], np.maximum(text, 2), [1]]) for text in texts(9)]
    return model, BiLM(spellings_of(words), 30), Examples({"words": sentences}, "words")


def span(folder: Path) -> Case:
    tokens = texts(9)
    lengths = np.array([len(t) for t in tokens])
    columns = {
        "tokens": tokens, "segments": [(np.arange(len(t)) > 1).astype(int) for t in tokens], "first": np.full(9, 2),
        "stop": lengths, "begin": np.where(np.arange(9) % 3, 2, 0), "end": np.where(np.arange(9) % 3, lengths - 1, 0),
    }  # fmt: skip
    return bert("question_answering"), Extraction(0), Examples(columns, "tokens")


def seq2seq(model: Callable[[], Network]) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        source, target = texts(7, 1), texts(7, 2)
        both = [np.zeros(len(a) + len(b)) for a, b in zip(source, target, strict=True)]
        columns = {"source": source, "target": target, "both": both}
        return model(), Writing(None, label_smoothing=0.1), Examples(columns, "both")  # type: ignore[arg-type]

    return case


def t5() -> Network:
    return T5(T5Config(VOCABULARY, 32, 8, 64, 2, num_heads=4)).init_weights(0)


def gru_seq2seq() -> Network:
    config = RNNSeq2SeqConfig(VOCABULARY, 16, 16, cell="gru", eos_token_id=1, decoder_start_token_id=0)
    return RNNSeq2Seq(config).init_weights(0)


def contrastive(folder: Path) -> Case:
    anchor, positive = texts(7, 1), texts(7, 2)
    both = [np.zeros(len(a) + len(b)) for a, b in zip(anchor, positive, strict=True)]
    columns = {"anchor": anchor, "positive": positive, "both": both, "key": np.arange(7)}
    return bert("embedding").train(), Contrast("mean", 0.1, True, 100), Examples(columns, "both")


def distill_lm(folder: Path) -> Case:
    _, plain, batch = causal_lm(folder)
    student, teacher = decoder(), decoder()
    with torch.no_grad():
        for parameter in teacher.parameters():
            parameter.mul_(1.1)
    return student, DistilledLM(teacher, Wish(2.0, 0.5, 0.3), plain), batch  # type: ignore[arg-type]


def distill_classifier(folder: Path) -> Case:
    _, plain, batch = classify(folder)
    student, teacher = decoder("sequence_classification", 3), bert("sequence_classification").eval()
    batch = batch.replace(teacher_tokens=batch["tokens"], teacher_segments=batch["segments"])
    return student, DistilledClassifier(teacher, Wish(2.0, 0.5, 0.3, "cosine"), plain, (0, 0)), batch  # type: ignore[arg-type]


def pretraining(name: str, family: str) -> Callable[[Path], Case]:
    def case(folder: Path) -> Case:
        noise = toy_texts.noise(name)
        layout = noise.layout(toy_texts.shards(noise, folder))
        words = noise.tokenizer
        model = new_model(family, name, Shape(64, 1), words.vocab_size, toy_texts.CONTEXT, words).init_weights(0)
        return model, objective(noise), noise.batch(layout, list(range(9)), 0, 0)

    return case


def mixture(folder: Path) -> Case:
    _, _, batch = causal_lm(folder)
    words = toy_texts.tokenizer()
    model = new_model("qwen3_moe", "causal", Shape(64, 2), VOCABULARY, 48, words).init_weights(0)
    return model, causal(model, None), batch


CASES: dict[str, Callable[[Path], Case]] = {
    **{f"pretrain, {name}": pretraining(name, TRAINS[name][1][0]) for name in RATES},
    "pretrain, mixture of experts": mixture,
    "causal_lm": causal_lm,
    "classify": classify,
    "dpo": preference("dpo"),
    "ipo": preference("ipo"),
    "orpo": preference("orpo"),
    "kto": kto,
    "reward": reward,
    "grpo": grpo,
    "tagging": tagging(lambda: bert("token_classification")),
    "tagging, CRF": tagging(crf),
    "elmo": elmo,
    "span": span,
    "seq2seq, T5": seq2seq(t5),
    "seq2seq, GRU": seq2seq(gru_seq2seq),
    "contrastive": contrastive,
    "distill, language model": distill_lm,
    "distill, classifier": distill_classifier,
}


def step(case: Case, budget: int, order: list[int] | None = None) -> tuple[float, torch.Tensor]:
    """Loss and gradient of one global batch, as the loop computes them."""
    model, objective, batch = case
    model.zero_grad()
    batch = batch if order is None else batch.take(order)
    batch = objective.prepare(model, batch, 0, World())
    counts, loss = objective.counts(batch), 0.0
    for rows in batch.micro(budget):
        losses = objective.losses(model, batch.take(rows))
        total = sum(objective.weights[name] * value / counts[name] for name, value in losses.items())
        total.backward()  # type: ignore[union-attr]
        loss += total.item()  # type: ignore[union-attr]
    return loss, torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_do_not_depend_on_micro_batches_or_the_order_of_rows(name: str, tmp_path: Path) -> None:
    case = CASES[name](tmp_path)
    loss, gradient = step(case, 10**6)
    assert gradient.norm() > 1e-3
    rows = len(case[2])
    for budget, order in ((1, None), (100, None), (10**6, list(range(rows))[::-1]), (60, list(range(rows))[::-1])):
        other_loss, other_gradient = step(case, budget, order)
        assert other_loss == pytest.approx(loss, rel=1e-5)
        assert (other_gradient - gradient).norm() <= 1e-5 * gradient.norm(), (budget, order)
