from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.model.bert import Bert, BertConfig
from mojiang.model.decoder import Decoder, DecoderConfig
from mojiang.model.load import load_model
from mojiang.model.network import Network
from mojiang.tokenizer._pack import IGNORE, PackedRows, Rows, Sequence, write_shards
from mojiang.tokenizer.load import load_tokenizer
from mojiang.train import _distillation
from mojiang.train._distillation import (
    DistilledLM,
    Wish,
    add_projections,
    drop_projections,
    kd_scores,
    teacher_answers,
    with_layers,
)
from mojiang.train._objective import CausalLM, to_tensors
from mojiang.train.classify import Classify
from mojiang.train.distill import Distill
from mojiang.train.pretrain import Pretrain

Put = Callable[..., Artifact]
VOCABULARY = 50


def decoder(width: int = 32, layers: int = 4, seed: int = 0) -> Network:
    model = Decoder(DecoderConfig(VOCABULARY, width, layers, 4, 2, 48, 8)).init_weights(seed)
    with torch.no_grad():  # projections that begin as zero would make all blocks alike
        generator = torch.Generator().manual_seed(seed)
        for parameter in model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return model


def rows(folder: Path) -> Rows:
    draw = np.random.default_rng(0)
    texts = [draw.integers(0, VOCABULARY, n) for n in draw.integers(4, 30, 9)]
    made = [Sequence(t, len(t), draw.random(len(t)) < 0.7) for t in texts]
    packed = PackedRows(write_shards(made, folder, VOCABULARY), 32)
    return packed.rows(range(len(packed)))


def test_losses_of_a_language_model_are_those_of_the_formulas(tmp_path: Path) -> None:
    teacher, student, batch = decoder().eval(), decoder(16, 2, 1), rows(tmp_path)
    wish = Wish(temperature=3.0, alpha=0.25, hidden_weight=0.5, distance="mse")
    objective = DistilledLM(teacher, wish, CausalLM())
    add_projections(student, teacher, 0)
    losses = objective.losses(student, batch)
    tokens, targets_BT, positions, spans = to_tensors(batch, torch.device("cpu"))
    at_BT = targets_BT != IGNORE
    with torch.no_grad():
        own_NV, wanted_NV = (m.logits(m(tokens, positions_BT=positions, mask=spans)[at_BT]) for m in (student, teacher))
    own, wanted = (F.log_softmax(logits / 3, -1) for logits in (own_NV, wanted_NV))
    assert losses["soft"].item() == pytest.approx(float(9 * (wanted.exp() * (wanted - own)).sum()), rel=1e-4)
    assert losses["hard"].item() == pytest.approx(
        float(F.cross_entropy(own_NV, targets_BT[at_BT], reduction="sum")), rel=1e-4
    )
    assert objective.weights == {"soft": 0.25, "hard": 0.75, "hidden": 0.5}
    assert objective.counts(batch) == dict.fromkeys(("soft", "hard", "hidden"), int(at_BT.sum()))
    losses["hidden"].backward()  # type: ignore[no-untyped-call]
    projections: Any = student.to_teacher
    assert all(float(layer.weight.grad.norm()) > 0 for layer in projections)
    assert all(parameter.grad is None for parameter in teacher.parameters())
    drop_projections(student)
    assert set(student.state_dict()) == set(decoder(16, 2).state_dict())


@pytest.mark.parametrize("distance", ["mse", "cosine"])
def test_a_student_that_is_the_teacher_has_nothing_to_learn_from_it(tmp_path: Path, distance: Any) -> None:
    teacher, batch = decoder().eval(), rows(tmp_path)
    objective = DistilledLM(teacher, Wish(2.0, 1.0, 1.0, distance), CausalLM())
    losses = objective.losses(teacher, batch)
    assert set(losses) == {"soft", "hidden"}
    assert all(abs(value.item()) < 1e-3 for value in losses.values())


def test_hidden_states_are_compared_block_by_block(tmp_path: Path) -> None:
    """A student of the teacher's blocks 2 and 4 only: its first state would be the teacher's if block 1 did nothing."""
    teacher, batch = decoder().eval(), rows(tmp_path / "rows")
    with torch.no_grad():
        for name, parameter in teacher.named_parameters():
            if ".layers.0." in name and name.endswith(("o_proj.weight", "down_proj.weight")):
                parameter.zero_()
    student = with_layers(decoder_like(teacher), [1, 3], tmp_path / "student")
    assert len(student.blocks()) == student.config.num_hidden_layers == 2
    assert [block.self_attn.layer for block in student.blocks()] == [0, 1]  # type: ignore[union-attr]
    tokens = to_tensors(batch, torch.device("cpu"))[0]
    with (
        torch.no_grad(),
        _distillation.recorded(teacher, [1, 3]) as theirs,
        _distillation.recorded(student, [0, 1]) as own,
    ):
        teacher(tokens), student(tokens)
    torch.testing.assert_close(own[0], theirs[0])
    assert float((own[1] - theirs[1]).norm()) > 0.1


def decoder_like(model: Network) -> Network:
    copy = decoder()
    copy.load_state_dict(model.state_dict())
    return copy


def test_class_scores_diverge_by_the_formula_and_not_from_themselves() -> None:
    scores, teacher = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(0))
    p, q = (teacher / 2).softmax(-1), (scores / 2).softmax(-1)
    assert float(kd_scores(scores, teacher, 2.0)) == pytest.approx(float(4 * (p * (p / q).log()).sum()), rel=1e-5)
    assert float(kd_scores(scores, scores, 2.0)) == pytest.approx(0.0, abs=1e-6)


def test_language_model_learns_from_its_teacher(workspace: Store) -> None:
    small = {"data": "split", "tokenizer": "bpe", "width": 64, "context": 128, "batch_tokens": 512, "precision": "fp32"}
    execute(Pretrain(**small, steps=12, depth=4), workspace, name="teacher")  # type: ignore[arg-type]
    settings: dict[str, Any] = {
        "teacher": "teacher",
        "keep_layers": 2,
        "steps": 4,
        "batch_tokens": 512,
        "precision": "fp32",
    }
    recipe = Distill(**settings, data="pairs", alpha=0.7, hidden_weight=0.1, learning_rate=2e-3, context=256)
    made = execute(recipe, workspace, name="student").artifact
    student = load_model(made.path)
    assert student.config.num_hidden_layers == 2
    assert made.metrics["teacher_parameters"] > made.metrics["parameters"]  # type: ignore[operator]
    if "validation_loss" in made.metrics:
        assert made.metrics["validation_loss"] < made.metrics["validation_loss_before"]  # type: ignore[operator]
    documents = Distill(**{**settings, "steps": 1}, data="split", context=128)
    assert execute(documents, workspace, name="student").artifact.metrics["steps"] == 1
    with pytest.raises(BadInput, match="no conversations for the teacher to answer"):
        execute(Distill(**settings, data="split", sequences=True), workspace)


def test_only_answers_that_end_are_learned_from(tmp_path: Path, workspace: Store) -> None:
    """A teacher that writes one word and ends its turn."""
    tokenizer = load_tokenizer(workspace.get("bpe").path)
    config = DecoderConfig(tokenizer.vocab_size, 16, 1, 2, 2, 24, 8, max_position_embeddings=64)
    teacher = Decoder(config).init_weights(0).eval()
    word, end = tokenizer.encode("yes")[0], tokenizer.token_id("<|im_end|>")
    chats = [{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho"}]}]
    chats.append({"messages": [{"role": "user", "content": "Hi " * 80}, {"role": "assistant", "content": "Ho"}]})
    with torch.no_grad():  # blocks begin as the identity, so the next token follows from the last one's embedding
        table = teacher.model.embed_tokens.weight.zero_()
        last = tokenizer.render_chat(chats[0]["messages"][:1], add_generation_prompt=True)[-1]
        table[last, 0], table[word, 0], table[word, 1], table[end, 1] = 1.0, 2.0, 1.0, 10.0
    made, left = teacher_answers(chats, teacher, tokenizer, 4, tmp_path / "ended.jsonl")
    assert ([row["messages"][-1]["content"] for row in made], left) == ([tokenizer.decode([word])], 1)
    assert made[0]["messages"][:-1] == chats[0]["messages"][:-1]
    with pytest.raises(BadInput, match="has finished no answer"):
        teacher_answers(chats, teacher, tokenizer, 1, tmp_path / "cut.jsonl")


def test_sequences_are_the_teachers_own_answers(workspace: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    small = {"data": "split", "tokenizer": "bpe", "width": 64, "context": 128, "batch_tokens": 512, "precision": "fp32"}
    execute(Pretrain(**small, steps=1, depth=2), workspace, name="teacher")  # type: ignore[arg-type]
    monkeypatch.setattr(_distillation, "_answers", lambda rows, *_: iter([
        {"messages": [*row["messages"][:1], {"role": "assistant", "content": "Forty-two."}]} for row in rows
    ]))  # fmt: skip
    recipe = Distill(
        teacher="teacher", keep_layers=2, data="pairs", sequences=True, alpha=0, steps=25, learning_rate=0.02,
        batch_tokens=512, context=128, precision="fp32", validations=0,
    )  # fmt: skip
    assert execute(recipe, workspace, name="student").artifact.metrics["loss"] < 0.5  # type: ignore[operator]


def reviews(count: int, seed: int) -> list[dict[str, str]]:
    draw = random.Random(seed)
    good, bad = ("great", "fine", "lovely"), ("poor", "dull", "awful")
    made = []
    for _ in range(count):
        label = draw.choice(["yes", "no"])
        word = draw.choice(good if label == "yes" else bad)
        made.append({"text": f"a {word} {draw.choice(['film', 'book', 'song'])}", "label": label})
    return made


WORDS = ("a", "great", "fine", "lovely", "poor", "dull", "awful", "film", "book", "song")


def test_classifier_learns_from_its_teacher_and_other_labels_are_refused(
    store: Store, dataset: Put, network: Put, bert: Any
) -> None:
    dataset("reviews", "labelled", train=reviews(40, 0), validation=reviews(12, 1), test=reviews(10, 2))
    network("bert", WORDS, bert)
    network(
        "narrow",
        WORDS,
        lambda size: Bert(BertConfig(size, 16, 1, 2, 32, max_position_embeddings=64, head="masked_lm")).init_weights(1),
    )
    common: dict[str, Any] = {"data": "reviews", "steps": 40, "learning_rate": 5e-3, "context": 16, "precision": "fp32"}
    execute(Classify(model="bert", dropout=0.0, keep_best=False, **common), store, name="teacher")
    steeper = {**common, "learning_rate": 0.02, "keep_best": False}
    recipe = Distill(teacher="teacher", student="narrow", alpha=0.9, hidden_weight=0.1, hidden="cosine", **steeper)
    metrics = execute(recipe, store, name="student").artifact.metrics
    assert metrics["validation_accuracy"] == 1.0
    assert metrics["parameters"] < metrics["teacher_parameters"]  # type: ignore[operator]
    assert load_model(store.get("student").path).config.id2label == {0: "no", 1: "yes"}
    dataset("other", "labelled", train=[{"text": "a film", "label": "perhaps"}, *reviews(5, 0)])
    with pytest.raises(BadInput, match="the teacher knows no label perhaps"):
        execute(Distill(teacher="teacher", student="narrow", **{**common, "data": "other"}), store)
    network("three", WORDS, lambda size: three_labels(size))
    with pytest.raises(BadInput, match="the student's labels are LABEL_0, LABEL_1, LABEL_2"):
        execute(Distill(teacher="teacher", student="three", **common), store)
    network("apart", WORDS[::-1], bert)
    with pytest.raises(BadInput, match="different vocabularies"):
        execute(Distill(teacher="teacher", student="apart", hidden_weight=1, **common), store)


def three_labels(size: int) -> Network:
    config = BertConfig(size, 16, 1, 2, 32, max_position_embeddings=64, head="sequence_classification", num_labels=3)
    return Bert(config).init_weights(0)


def test_settings_that_take_nothing_from_the_teacher_are_refused() -> None:
    with pytest.raises(ValueError, match="nothing comes from the teacher"):
        Distill(teacher="a", student="b", data="c", alpha=0)
    with pytest.raises(ValueError, match="either a student, or keep_layers"):
        Distill(teacher="a", data="c")
