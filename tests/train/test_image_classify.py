from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageClassification, ViTImageProcessor

from mojiang.core.errors import BadUsage
from mojiang.core.run import execute
from mojiang.core.store import Store
from mojiang.data.examples import Examples
from mojiang.train._images import image_scores, read_images, training_batches
from mojiang.train.image_classify import ImageClassify

FIXTURE = str(Path(__file__).parents[1] / "fixtures" / "bars")


@pytest.fixture
def bars(workspace: Store) -> Store:
    """The workspace with pictures of lying and standing bars."""
    execute(Examples(source=FIXTURE, form="images", validation=0.2, test=0.2), workspace, name="bars")
    return workspace


@pytest.mark.parametrize("architecture", ["lenet", "resnet", "vit"])
def test_lying_and_standing_bars_are_told_apart(bars: Store, architecture: str) -> None:
    recipe = ImageClassify(
        data="bars", architecture=architecture, widths=(32,), depths=(2,), enlarge=1 if architecture != "resnet" else 2,
        epochs=40 if architecture == "vit" else 15, batch_size=24, precision="fp32", warmup_steps=5,
        optimizer="adamw", learning_rate=3e-3, embedding_learning_rate=3e-3, shift=1, mirror=False,
    )  # fmt: skip
    metrics = execute(recipe, bars, name=architecture).artifact.metrics
    assert metrics["test_accuracy"] >= 0.9  # type: ignore[operator]


def test_transformers_reads_picture_and_network_as_we_do(bars: Store) -> None:
    recipe = ImageClassify(
        data="bars", widths=(16, 24), depths=(1, 1), steps=5, batch_size=24, precision="fp32", warmup_steps=1
    )
    path = execute(recipe, bars, name="bars-resnet").artifact.path
    images = read_images(bars.get("bars").path, enlarge=2)
    some = images.splits["test"][0][:4]
    processor = ViTImageProcessor.from_pretrained(path)
    pictures = [Image.fromarray(picture[:, :, 0]).convert("L") for picture in some]
    arrays = [np.asarray(picture)[:, :, None] for picture in pictures]
    read = processor(arrays, return_tensors="pt", input_data_format="channels_last")["pixel_values"]
    theirs = AutoModelForImageClassification.from_pretrained(path).eval()
    from mojiang.model.load import load_model

    batch = images.split("test")
    assert batch is not None
    with torch.no_grad():
        expected = theirs(read).logits
        found = image_scores(images)(load_model(path), batch.take(range(4)))
    assert torch.allclose(found, expected, atol=1e-3)
    assert theirs.config.id2label == {0: "0", 1: "1"}


def test_pictures_change_from_epoch_to_epoch_and_not_from_run_to_run(bars: Store) -> None:
    images = read_images(bars.get("bars").path, enlarge=1)
    source, again = (training_batches(images, 24, 3, shift=2, mirror=True, erase=0) for _ in range(2))
    assert np.array_equal(source.batch(2)["image"], again.batch(2)["image"])
    per_epoch = int(source.steps_per_epoch)
    first = {label: 0 for label in range(2)}
    assert not np.array_equal(source.batch(0)["image"], source.batch(per_epoch)["image"])
    assert set(source.batch(0)["label"].tolist()) == set(first)


def test_a_batch_that_is_normalised_as_a_whole_is_not_cut(bars: Store) -> None:
    with pytest.raises(BadUsage, match="normalises over a whole batch of 24"):
        execute(ImageClassify(data="bars", steps=1, batch_size=24, micro=8), bars)
