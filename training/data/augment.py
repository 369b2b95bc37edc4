"""Random crop, mirror and cutout on whole uint8 batches, by an explicit generator."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from training.config import Augment


def augment(
    images_nchw: np.ndarray,
    generator: np.random.Generator,
    *,
    padding: int = 4,
    flip: bool = True,
    cutout: int = 0,
) -> np.ndarray:
    """A changed copy of a batch: same shape and dtype.

    padding: zeros around each image before a random crop back to its size; flip: mirror every
    second image on average; cutout: side of a square set to 0 around a random pixel (DeVries and
    Taylor, arXiv 1708.04552; it may reach over the border).
    """
    images = random_crop(images_nchw, padding, generator) if padding else images_nchw.copy()
    if flip:
        mirrored = generator.random(len(images)) < 0.5
        images[mirrored] = images[mirrored, ..., ::-1]
    if cutout:
        images[cutout_mask(images.shape, cutout, generator)] = 0
    return images


def random_crop(
    images_nchw: np.ndarray, padding: int, generator: np.random.Generator
) -> np.ndarray:
    """Each image shifted by up to `padding` pixels each way, zeros coming in."""
    count, _, height, width = images_nchw.shape
    margins = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    padded = np.pad(images_nchw, margins)
    windows = sliding_window_view(padded, (1, 1, height, width))[:, :, :, :, 0, 0]
    top, left = generator.integers(0, 2 * padding + 1, size=(2, count))
    return windows[np.arange(count), :, top, left]


def cutout_mask(
    shape_nchw: tuple[int, ...], side: int, generator: np.random.Generator
) -> np.ndarray:
    """Boolean (N, C, H, W) view, true inside one square of this side an image."""
    count, _, height, width = shape_nchw
    inside = []
    for size in (height, width):
        first = generator.integers(0, size, size=(count, 1)) - side // 2
        position = np.arange(size)
        inside.append((position >= first) & (position < first + side))
    mask = inside[0][:, None, :, None] & inside[1][:, None, None, :]
    return np.broadcast_to(mask, shape_nchw)


def changed(images: np.ndarray, change: Augment, noise: np.random.Generator) -> np.ndarray:
    """Images as a recipe augments them: the same ones where it changes nothing."""
    if not (change.padding or change.flip or change.cutout):
        return images
    return augment(images, noise, padding=change.padding, flip=change.flip, cutout=change.cutout)
