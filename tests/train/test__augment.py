"""Augmentation: a function of (seed, epoch, row) and nothing else, and what it says it does to a picture."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from mojiang.train._augment import augment, draws, erased, mirrored, pixels, shifted

ROWS = np.arange(64)


def pictures(count: int = 64, side: int = 12, channels: int = 1) -> NDArray[np.uint8]:
    """Without a black pixel, so that what was moved in or erased can be told."""
    return np.random.default_rng(0).integers(1, 256, (count, side, side, channels), dtype=np.uint8)


def test_a_picture_depends_on_its_row_only_and_not_on_its_batch() -> None:
    images = pictures()
    whole = augment(images, ROWS, seed=1, epoch=3, cut=4)
    order = np.random.default_rng(1).permutation(64)[:20]
    assert np.array_equal(augment(images[order], order, seed=1, epoch=3, cut=4), whole[order])
    for seed, epoch in ((1, 4), (2, 3)):
        other = augment(images, ROWS, seed=seed, epoch=epoch, cut=4)
        assert (other != whole).any(axis=(1, 2, 3)).mean() > 0.9


def test_draws_are_uniform_and_independent_of_each_other() -> None:
    """Kolmogorov-Smirnov distance, and correlations between draws, rows, epochs and seeds, of 20,000 rows."""
    rows = np.arange(20_000)
    u = draws(0, 0, rows, 5)
    for column in u.T:
        steps = np.arange(len(rows)) / len(rows)
        assert np.abs(np.sort(column) - steps).max() < 1.95 / len(rows) ** 0.5  # 0.1 % level
    others = [draws(0, 1, rows, 1)[:, 0], draws(1, 0, rows, 1)[:, 0], np.roll(u[:, 0], 1)]
    correlations = np.corrcoef(np.stack([*u.T, *others])) - np.eye(8)
    assert np.abs(correlations).max() < 4.5 / len(rows) ** 0.5


def test_shifts_are_crops_of_a_padded_picture() -> None:
    images, moves = pictures(3, channels=2), np.array([[2, -1], [0, 0], [-3, 3]])
    found = shifted(images, moves)
    padded = np.pad(images, ((0, 0), (3, 3), (3, 3), (0, 0)))
    for image, (down, right), moved in zip(padded, moves, found, strict=True):
        assert np.array_equal(moved, image[3 - down : 15 - down, 3 - right : 15 - right])


def test_every_shift_and_both_sides_come_equally_often() -> None:
    dot = np.zeros((9000, 7, 7, 1), np.uint8)
    dot[:, 3, 3] = 1
    found = augment(dot, np.arange(9000), seed=0, epoch=0, shift=1, flip=False)
    counts = found.sum(axis=0, dtype=np.int64)[..., 0]
    assert counts.sum() == 9000
    assert np.abs(counts[2:5, 2:5] - 1000).max() < 150  # five standard deviations
    left = np.zeros((9000, 1, 2, 1), np.uint8)
    left[:, 0, 0] = 1
    right = augment(left, np.arange(9000), seed=0, epoch=0, shift=0)[:, 0, 1, 0]
    assert abs(int(right.sum()) - 4500) < 240


def test_mirrors_and_erasures() -> None:
    images = pictures(3)
    found = mirrored(images, np.array([True, False, True]))
    assert np.array_equal(found[0], images[0, :, ::-1])
    assert np.array_equal(found[1], images[1])
    found = erased(images, np.array([[0, 0], [9, 10], [-2, 4]]), 4)
    expected = images.copy()
    expected[0, :4, :4] = expected[1, 9:, 10:] = expected[2, :2, 4:8] = 0
    assert np.array_equal(found, expected)


def test_nothing_asked_is_nothing_done_and_pictures_stay_as_they_were() -> None:
    images = pictures()
    before = images.copy()
    assert np.array_equal(augment(images, ROWS, seed=0, epoch=0, shift=0, flip=False), images)
    augment(images, ROWS, seed=0, epoch=0, shift=3, cut=5)
    assert np.array_equal(images, before)


def test_pixels_are_those_of_transformers_processor() -> None:
    transformers = pytest.importorskip("transformers")
    images = pictures(2, side=8, channels=3)
    processor = transformers.ViTImageProcessorPil(
        size={"height": 16, "width": 16}, resample=0, image_mean=[0.3] * 3, image_std=[0.2] * 3
    )
    expected = torch.as_tensor(np.stack(processor(list(images), input_data_format="channels_last")["pixel_values"]))
    found = pixels(images, 0.3, 0.2, enlarge=2)
    assert found.is_contiguous(memory_format=torch.channels_last)
    torch.testing.assert_close(found, expected)
