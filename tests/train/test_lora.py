from __future__ import annotations

import pytest
import torch
from peft import PeftModel
from pydantic import ValidationError
from transformers import AutoModelForCausalLM

from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.model.load import load_model
from mojiang.train.lora import Lora
from mojiang.train.pretrain import Pretrain

# peft 0.21 asks transformers 5.23 by an older name.
pytestmark = pytest.mark.filterwarnings("ignore:.is_gradient_checkpointing. is deprecated:FutureWarning")


@pytest.fixture
def base(workspace: Store) -> Store:
    """The workspace with a barely trained model in it."""
    recipe = Pretrain(
        data="split", tokenizer="bpe", steps=20, width=64, depth=2, context=256, batch_tokens=1024, precision="fp32"
    )
    execute(recipe, workspace, name="base")
    return workspace


@pytest.mark.parametrize("settings", [{}, {"dora": True}, {"rslora": True, "base": "nf4"}], ids=str)
def test_answers_become_likelier_and_the_merged_model_is_base_and_adapter(
    base: Store, settings: dict[str, object]
) -> None:
    recipe = Lora(
        model="base", data="pairs", rank=8, steps=50, batch_tokens=1024, learning_rate=0.003, precision="fp32",
        warmup_steps=2, **settings,
    )  # fmt: skip
    artifact = execute(recipe, base, name="tuned").artifact
    metrics = artifact.metrics
    assert metrics["validation_loss"] < metrics["validation_loss_before"] - 0.005  # type: ignore[operator]
    assert metrics["merge_difference"] < 1e-4  # type: ignore[operator]
    assert metrics["adapter_parameters"] < metrics["parameters"]  # type: ignore[operator]
    if "base" not in settings:
        theirs = PeftModel.from_pretrained(
            AutoModelForCausalLM.from_pretrained(base.get("base").path), artifact.path / "adapter"
        ).eval()
        tokens = torch.arange(40)[None]
        ours = load_model(artifact.path)
        with torch.no_grad():
            assert torch.allclose(theirs(tokens).logits, ours.logits(ours(tokens)), atol=1e-4)


def test_an_adapter_of_rank_nothing_is_refused() -> None:
    with pytest.raises(ValidationError, match=r"train\.sft"):
        Lora(model="a", data="b", rank=0)  # type: ignore[call-arg]
