from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import MarianMTModel

from mojiang.core.artifact import Artifact
from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.model.load import load_model
from mojiang.model.network import Network
from mojiang.model.t5 import T5, T5Config
from mojiang.tokenizer._pack import IGNORE
from mojiang.tokenizer.load import load_tokenizer
from mojiang.train._batches import padded
from mojiang.train._pairs import Writing, encode_pairs
from mojiang.train._scores import bleu, chrf
from mojiang.train.seq2seq import Seq2Seq

Put = Callable[..., Artifact]
WORDS = ("one", "two", "three", "four", "five", "count", "down")

RIGHT = ("the cat sat on the red mat", "在 垫 子 上 坐 着 一 只 猫", "a dog")
WRITTEN = ("the cat sat on a mat", "垫 子 上 有 一 只 猫 坐 着", "the dog ran")


def test_bleu_and_chrf_are_those_of_sacrebleu() -> None:
    """Figures of sacrebleu 2.6: corpus_bleu(tokenize="none") and corpus_chrf, over all rows and over each."""

    def ours(right: tuple[str, ...], written: tuple[str, ...]) -> tuple[float, float]:
        return bleu([text.split() for text in right], [text.split() for text in written]), chrf(right, written)

    assert ours(RIGHT, WRITTEN) == (pytest.approx(35.206481443138244), pytest.approx(48.76795706982936))
    assert ours(RIGHT[:1], WRITTEN[:1]) == (pytest.approx(45.48019047027906), pytest.approx(56.460939466161705))
    assert ours(RIGHT[1:2], WRITTEN[1:2]) == (pytest.approx(33.9132609103075), pytest.approx(29.99338624338624))
    assert ours(RIGHT[2:], WRITTEN[2:]) == (0.0, pytest.approx(41.11211031175059))


def reversals(count: int, seed: int) -> list[dict[str, Any]]:
    draw = random.Random(seed)
    lists = [draw.sample(WORDS[:5], draw.randint(1, 3)) for _ in range(count)]
    return [{"source": " ".join(words), "target": " ".join(words[::-1])} for words in lists]


def small_t5(vocab_size: int) -> Network:
    shape = {"d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 1, "num_heads": 4}
    return T5(T5Config(vocab_size, **shape, pad_token_id=0, eos_token_id=3, decoder_start_token_id=0)).init_weights(0)  # type: ignore[arg-type]


def test_pairs_end_with_the_end_token_and_what_is_cut_is_counted(network: Put) -> None:
    tokenizer = load_tokenizer(network("words", WORDS).path)
    rows = [{"source": "one two three", "target": "three"}]
    examples, cut = encode_pairs(rows, tokenizer, tokenizer.sep_id, 64, "count down ")
    assert [tokenizer.token(id) for id in examples["source"][0]] == [
        "[CLS]",
        "count",
        "down",
        "one",
        "two",
        "three",
        "[SEP]",
    ]
    assert cut == 0
    examples, cut = encode_pairs(rows, tokenizer, tokenizer.token_id("[MASK]"), 5)
    assert [tokenizer.token(id) for id in examples["source"][0]] == ["[CLS]", "one", "two", "[SEP]", "[MASK]"]
    assert cut == 1


def test_loss_is_the_cross_entropy_of_every_target_token_with_smoothing(network: Put) -> None:
    tokenizer = load_tokenizer(network("words", WORDS).path)
    examples, _ = encode_pairs(reversals(5, 0), tokenizer, 3, 64)
    model = small_t5(tokenizer.vocab_size)
    objective = Writing(tokenizer, label_smoothing=0.2)
    tokens_BS, spans_N3 = padded(examples["source"], 0)
    targets_BT, _ = padded(examples["target"], IGNORE)
    mask_BS = torch.arange(tokens_BS.shape[1]) < spans_N3[:, 2:]
    inputs_BT = model.shift_right(targets_BT)  # type: ignore[operator]
    logits_BTV = model.logits(model(tokens_BS, inputs_BT, mask=mask_BS[:, None, None]))
    for training, smoothing in ((True, 0.2), (False, 0.0)):
        model.train(training)
        wanted = torch.nn.functional.cross_entropy(
            logits_BTV.flatten(0, 1), targets_BT.flatten(), label_smoothing=smoothing, reduction="sum"
        )
        assert objective.losses(model, examples)["loss"].item() == pytest.approx(wanted.item(), rel=1e-5)  # type: ignore[arg-type]
    assert objective.counts(examples)["loss"] == (targets_BT != IGNORE).sum()


@pytest.mark.parametrize("architecture", ["gru", "transformer"])
def test_network_from_scratch_learns_to_turn_words_round(
    store: Store, dataset: Put, network: Put, architecture: Any
) -> None:
    dataset("lists", "pairs", train=reversals(80, 0), validation=reversals(15, 1))
    network("words", WORDS)
    recipe = Seq2Seq(
        tokenizer="words", architecture=architecture, width=32, layers=1, data="lists", steps=40, learning_rate=0.02,
        warmup_steps=5, context=16, dropout=0.0, validations=1, precision="fp32",
    )  # fmt: skip
    made = execute(recipe, store, name="turner").artifact
    assert made.metrics["validation_loss"] < 0.5 * made.metrics["validation_loss_before"]  # type: ignore[operator]
    assert made.metrics["validation_chrf"] > made.metrics["validation_chrf_before"] + 20  # type: ignore[operator]
    if architecture == "transformer":
        theirs, report = MarianMTModel.from_pretrained(made.path, output_loading_info=True)
        assert not report["missing_keys"]
        assert not report["unexpected_keys"]
        sources = torch.tensor([load_tokenizer(made.path).frame([9, 7, 8])[0]])
        ours = load_model(made.path)
        with torch.no_grad():
            wanted = theirs(input_ids=sources, decoder_input_ids=torch.tensor([[0, 2, 8]])).logits
            torch.testing.assert_close(ours.logits(ours(sources, torch.tensor([[0, 2, 8]]))), wanted, atol=1e-4, rtol=0)


def test_t5_is_fine_tuned_and_a_bert_is_refused(store: Store, dataset: Put, network: Put, bert: Any) -> None:
    dataset("lists", "pairs", train=reversals(20, 0), validation=reversals(5, 1))
    network("t5", WORDS, small_t5)
    recipe = Seq2Seq(model="t5", data="lists", steps=6, learning_rate=5e-3, written=0, context=16, precision="fp32")
    metrics = execute(recipe, store, name="t5-turner").artifact.metrics
    assert metrics["validation_loss"] < metrics["validation_loss_before"]  # type: ignore[operator]
    network("bert", WORDS, bert)
    with pytest.raises(BadInput, match="no head 'seq2seq_lm'"):
        execute(Seq2Seq(model="bert", data="lists", steps=1), store)
