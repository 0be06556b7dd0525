"""Image augmentation as pure functions of arrays: what happens to an image follows from (seed, epoch, row).

There is no generator to save or to share: a run that is continued, or one with other micro-batches or another number of
ranks, sees the same pictures.

Array names carry their shape: B images · H height · W width · C channels
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from mojiang.tokenizer._pack import mix64

Images = NDArray[np.uint8]
_SHIFT, _FLIP, _CUT = slice(0, 2), 2, slice(3, 5)
_NUM_DRAWS = 5


def draws(seed: int, epoch: int, rows_B: NDArray[Any], count: int) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), (B, count), that depend on (seed, epoch, row) and their place only.

    Source: SplitMix64 (Steele et al. 2014), used as a hash of a counter.
    """
    key = np.array([(seed % 2**32) << 32 | epoch % 2**32], np.uint64)
    counters: NDArray[np.uint64] = np.asarray(rows_B, np.uint64)[:, None] << np.uint64(16)
    # hashed before the key is added: rows of other epochs must not be shifted copies of each other
    with np.errstate(over="ignore"):
        bits = mix64(mix64(counters | np.arange(count, dtype=np.uint64)) + mix64(key))
    return (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53


def augment(
    images_BHWC: Images, rows_B: NDArray[Any], *, seed: int, epoch: int, shift: int = 2, flip: bool = True, cut: int = 0
) -> Images:
    """Training images: shifted by up to `shift` pixels, half of them mirrored, a square of `cut` pixels erased.

    Args:
        images_BHWC: the images.
        rows_B: their numbers in the data set.
        seed: of the run.
        epoch: each has its own pictures.
        shift: 0 for none. Same as a random crop of an image padded with `shift` black pixels.
        flip: mirror left and right; wrong where the side matters, as for digits.
        cut: side of the erased square; its centre may be anywhere in the image. 0 for none.
    """
    u = draws(seed, epoch, rows_B, _NUM_DRAWS)
    if shift:
        images_BHWC = shifted(images_BHWC, np.floor(u[:, _SHIFT] * (2 * shift + 1)).astype(np.int64) - shift)
    if flip:
        images_BHWC = mirrored(images_BHWC, u[:, _FLIP] < 0.5)
    if cut:
        sides = np.array(images_BHWC.shape[1:3])
        images_BHWC = erased(images_BHWC, np.floor(u[:, _CUT] * sides).astype(np.int64) - cut // 2, cut)
    return images_BHWC


def shifted(images_BHWC: Images, moves_B2: NDArray[np.int64]) -> Images:
    """Each image moved by (down, right) pixels; what moves in is 0.

    >>> shifted(np.arange(1, 5, dtype=np.uint8).reshape(1, 2, 2, 1), np.array([[0, 1]])).reshape(2, 2)
    array([[0, 1],
           [0, 3]], dtype=uint8)
    """
    B, H, W, _ = images_BHWC.shape
    pad = int(np.abs(moves_B2).max(initial=0))
    padded = np.pad(images_BHWC, ((0, 0), (pad, pad), (pad, pad), (0, 0)))
    down_BH = pad - moves_B2[:, :1] + np.arange(H)
    right_BW = pad - moves_B2[:, 1:] + np.arange(W)
    moved: Images = padded[np.arange(B)[:, None, None], down_BH[:, :, None], right_BW[:, None, :]]
    return moved


def mirrored(images_BHWC: Images, chosen_B: NDArray[np.bool_]) -> Images:
    """The chosen images with left and right exchanged."""
    return np.where(chosen_B[:, None, None, None], images_BHWC[:, :, ::-1], images_BHWC)


def erased(images_BHWC: Images, corners_B2: NDArray[np.int64], side: int) -> Images:
    """Each image with a square set to 0, given by its upper left corner; it may reach over the border.

    Source: Cutout (DeVries & Taylor 2017).
    """
    _, H, W, _ = images_BHWC.shape
    down_BH, right_BW = np.arange(H) - corners_B2[:, :1], np.arange(W) - corners_B2[:, 1:]
    inside_BHW = ((down_BH >= 0) & (down_BH < side))[:, :, None] & ((right_BW >= 0) & (right_BW < side))[:, None, :]
    return np.where(inside_BHW[..., None], np.uint8(0), images_BHWC)


def pixels(images_BHWC: Images, mean: float, std: float, enlarge: int = 1) -> Tensor:
    """What a network reads, (B, C, H · enlarge, W · enlarge): values / 255, normalised, each pixel repeated.

    The channels stay innermost in memory. `transformers` computes the same with `image_mean`, `image_std` and, for
    `enlarge`, a resize to that size with `resample` 0.
    """
    x_BCHW = torch.from_numpy(np.ascontiguousarray(images_BHWC)).permute(0, 3, 1, 2).float()
    x_BCHW = x_BCHW.mul_(1 / (255 * std)).sub_(mean / std)
    return x_BCHW if enlarge == 1 else F.interpolate(x_BCHW, scale_factor=enlarge, mode="nearest")
