"""Random crop, mirror and cutout on whole uint8 batches, by an explicit generator."""

from __future__ import annotations

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view


def augment(
    images_nchw: np.ndarray,
    generator: np.random.Generator,
    *,
    padding: int = 4,
    flip: bool = True,
    cutout: int = 0,
    crop: int = 0,
) -> np.ndarray:
    """A changed copy of a batch, of the same dtype.

    padding: zeros around each image before a random crop back to its size; crop: instead, a random
    square of this side of the image itself; flip: mirror every second image on average; cutout:
    side of a square set to 0 around a random pixel (DeVries and Taylor, arXiv 1708.04552; it may
    reach over the border).
    """
    if crop:
        images = random_crop(images_nchw, 0, generator, crop)
    elif padding:
        images = random_crop(images_nchw, padding, generator)
    else:
        images = images_nchw.copy()
    if flip:
        mirrored = generator.random(len(images)) < 0.5
        images[mirrored] = images[mirrored, ..., ::-1]
    if cutout:
        images[cutout_mask(images.shape, cutout, generator)] = 0
    return images


def random_crop(
    images_nchw: np.ndarray, padding: int, generator: np.random.Generator, crop: int = 0
) -> np.ndarray:
    """A window of each image with `padding` zeros around it: of its own size, or of side `crop`."""
    count, _, *size = images_nchw.shape
    height, width = (crop or side for side in size)
    margins = ((0, 0), (0, 0), (padding, padding), (padding, padding))
    padded = np.pad(images_nchw, margins)
    windows = sliding_window_view(padded, (1, 1, height, width))[:, :, :, :, 0, 0]
    top, left = (generator.integers(0, places, size=count) for places in windows.shape[2:4])
    return windows[np.arange(count), :, top, left]


def cutout_mask(
    shape_nchw: tuple[int, ...], side: int, generator: np.random.Generator
) -> np.ndarray:
    """Boolean (N, C, H, W) view, true inside one square of this side an image."""
    count, _, height, width = shape_nchw
    rows, columns = (
        _span(generator.integers(0, size, size=(count, 1)) - side // 2, side, size)
        for size in (height, width)
    )
    return np.broadcast_to(rows[:, None, :, None] & columns[:, None, None, :], shape_nchw)


def box_mask(
    shape: tuple[int, ...], share_n: np.ndarray, generator: np.random.Generator
) -> np.ndarray:
    """Boolean (N, H, W) of images (N, …, H, W), true inside a box of about this share of each.

    A box has the image's proportions and lies in it anywhere; what it covers is a whole number of
    pixels.
    """
    height, width = shape[-2:]
    sides = [np.rint(np.sqrt(share_n) * size).astype(np.int64)[:, None] for size in (height, width)]
    rows, columns = (
        _span(generator.integers(0, size - side + 1), side, size)
        for side, size in zip(sides, (height, width), strict=True)
    )
    return rows[:, :, None] & columns[:, None, :]


def _span(first: np.ndarray, side: np.ndarray | int, size: int) -> np.ndarray:
    """Boolean (N, size), true at the `side` positions from `first` (N, 1) on."""
    position = np.arange(size)
    return (position >= first) & (position < first + side)
