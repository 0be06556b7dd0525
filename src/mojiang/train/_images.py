"""Images on their way to training: one array per split, random pictures of each epoch, what a network reads.

Tensor names: B images · H height · W width · C channels
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from mojiang.core.errors import BadInput
from mojiang.core.files import atomic_write
from mojiang.data._forms import pixels_of
from mojiang.data.examples import has_split, read_examples
from mojiang.model.network import Network
from mojiang.train._augment import augment, pixels
from mojiang.train._batches import Drawn, Examples
from mojiang.train._classification import labels_of, number_labels


@dataclass(frozen=True)
class Images:
    """The splits of a dataset of images, uint8, and how a network reads them."""

    splits: dict[str, tuple[NDArray[np.uint8], NDArray[np.int64]]]
    """Split → images (B, H, W, C) and labels (B,)."""
    labels: list[str]
    mean: float
    std: float
    enlarge: int

    @property
    def side(self) -> int:
        """Height of an image, which is its width."""
        return int(self.splits["train"][0].shape[1])

    @property
    def channels(self) -> int:
        """1 for grey images, 3 for coloured ones."""
        return int(self.splits["train"][0].shape[3])

    def split(self, name: str) -> Examples | None:
        """A split's images as they are; None where there is no such split."""
        if name not in self.splits:
            return None
        images_BHWC, labels_B = self.splits[name]
        return Examples({"image": images_BHWC, "label": labels_B})


def read_images(data: Path, enlarge: int) -> Images:
    """All images of a dataset.

    Raises:
        BadInput: images of different sizes, or a label that only validation or test have.
    """
    rows = {
        split: list(read_examples(data, split, "images"))
        for split in ("train", "validation", "test")
        if split == "train" or has_split(data, split, "images")
    }
    labels = labels_of(rows["train"])
    splits = {split: (_stacked(some, split), np.array(number_labels(some, labels))) for split, some in rows.items()}
    train = splits["train"][0]
    if others := {split: part[0].shape[1:] for split, part in splits.items() if part[0].shape[1:] != train.shape[1:]}:
        raise BadInput(f"training images are {train.shape[1:]}, others {others}", hint="give all images one size")
    if train.shape[1] != train.shape[2]:
        raise BadInput(f"images are {train.shape[1]} × {train.shape[2]} pixels", hint="make them square")
    return Images(splits, labels, float(train.mean() / 255), float(train.std() / 255) or 1.0, enlarge)


def _stacked(rows: list[dict[str, Any]], split: str) -> NDArray[np.uint8]:
    arrays = [pixels_of(row["image"]) for row in rows]
    shapes = {array.shape for array in arrays}
    if len(shapes) > 1:
        raise BadInput(f"the {split} images have the shapes {sorted(shapes)[:5]}", hint="give all images one size")
    return np.stack(arrays)


def image_scores(images: Images) -> Callable[[Network, Examples], Tensor]:
    """Scores (B, labels) of a batch of images."""

    def scores(model: Network, batch: Examples) -> Tensor:
        pixels_BCHW = pixels(batch["image"], images.mean, images.std, images.enlarge)
        hidden = model(pixels_BCHW.to(model.device, model.compute_dtype))
        return model.scores(hidden).float()

    return scores


def training_batches(images: Images, batch_size: int, seed: int, shift: int, mirror: bool, erase: int) -> Drawn:
    """Training images in a keyed random order, changed at random anew in each epoch."""
    images_BHWC, labels_B = images.splits["train"]
    batch_rows = min(batch_size, len(images_BHWC))

    def make(rows: list[int], step: int) -> Examples:
        epoch = step * batch_rows // len(images_BHWC)
        chosen = np.array(rows)
        changed = augment(images_BHWC[chosen], chosen, seed=seed, epoch=epoch, shift=shift, flip=mirror, cut=erase)
        return Examples({"image": changed, "label": labels_B[chosen]})

    return Drawn(len(images_BHWC), batch_rows, seed, make)


def has_batch_norm(model: nn.Module) -> bool:
    """Whether a network normalises over its batch, so that a batch cannot be cut into micro-batches."""
    return any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in model.modules())


def write_preprocessor(images: Images, folder: Path) -> None:
    """`preprocessor_config.json`: how `transformers` turns an image into what the network reads."""
    side = images.side * images.enlarge
    settings = {
        "image_processor_type": "ViTImageProcessor", "do_resize": True, "size": {"height": side, "width": side},
        "resample": 0, "do_rescale": True, "rescale_factor": 1 / 255, "do_normalize": True,
        "image_mean": [images.mean] * images.channels, "image_std": [images.std] * images.channels,
        "do_convert_rgb": images.channels == 3,
    }  # fmt: skip
    atomic_write(folder / "preprocessor_config.json", json.dumps(settings, indent=2) + "\n")
