from __future__ import annotations

import pytest
from pydantic import ValidationError

from mojiang.core.errors import BadInput
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.tokenizer.load import Tokenizer
from mojiang.train.pretrain import Pretrain
from mojiang.train.sft import SFT


@pytest.fixture
def base(workspace: Store) -> Store:
    """The workspace with a barely trained model in it."""
    recipe = Pretrain(
        data="split", tokenizer="bpe", steps=10, width=64, depth=2, context=256, batch_tokens=1024, precision="fp32"
    )
    execute(recipe, workspace, name="base")
    return workspace


def test_answers_become_likelier_with_and_without_replay(base: Store) -> None:
    for replay in (None, "split"):
        recipe = SFT(
            model="base", data="pairs", replay=replay, steps=15, batch_tokens=1024, learning_rate=0.02,
            embedding_learning_rate=0.003, precision="fp32",
        )  # fmt: skip
        metrics = execute(recipe, base, name="chat").artifact.metrics
        assert metrics["audited_stop_tokens"] > 0  # type: ignore[operator]
        if "validation_loss" in metrics:
            assert metrics["validation_loss"] < metrics["validation_loss_before"] - 0.2  # type: ignore[operator]
        assert metrics["steps"] == 15


def test_labels_that_are_wrong_stop_everything(base: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    spans = Tokenizer.chat_spans

    def without_stop(self: Tokenizer, messages: list[dict[str, str]]) -> tuple[list[int], list[bool]]:
        ids, trained = spans(self, messages)
        end = self.token_id("<|im_end|>")
        return ids, [flag and token != end for token, flag in zip(ids, trained, strict=True)]

    monkeypatch.setattr(Tokenizer, "chat_spans", without_stop)
    with pytest.raises(BadInput, match="the stop token"):
        execute(SFT(model="base", data="pairs", steps=1, precision="fp32"), base)


@pytest.mark.parametrize("settings", [{"epochs": 1, "steps": 1}, {"minutes": 1, "epochs": 1}])
def test_exactly_one_length_is_given(settings: dict[str, int]) -> None:
    with pytest.raises(ValidationError, match="exactly one"):
        SFT(model="a", data="b", **settings)  # type: ignore[arg-type]
