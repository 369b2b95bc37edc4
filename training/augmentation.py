"""Images as a recipe augments them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from splitcore.errors import ConfigError
from training.config import Recipe
from training.data.augment import augment

CHUNK = 256  # images at once through what is frozen


def views(images: np.ndarray, recipe: Recipe) -> Iterator[tuple[int, int, np.ndarray]]:
    """(view, first row, augmented images) chunk by chunk, for `recipe.frozen_edge_views` views."""
    for view in range(recipe.frozen_edge_views):
        noise = np.random.default_rng((recipe.seed, view))
        for start in range(0, len(images), CHUNK):
            yield view, start, changed(images[start : start + CHUNK], recipe, noise)


def changed(
    images: np.ndarray, recipe: Recipe, noise: np.random.Generator, epoch: int | None = None
) -> np.ndarray:
    """Images as a recipe augments them in an epoch: the same ones where it changes nothing.

    epoch: None where it is not to crop.
    """
    change = recipe.augment
    crop = change.crop if epoch is not None and epoch < recipe.crop_epochs else 0
    if not (change.padding or change.flip or change.cutout or crop):
        return images
    if crop > min(images.shape[2:]):
        raise ConfigError(f"recipe.augment.crop: {crop} pixels of images {images.shape[2:]}")
    return augment(
        images, noise, padding=change.padding, flip=change.flip, cutout=change.cutout, crop=crop
    )
