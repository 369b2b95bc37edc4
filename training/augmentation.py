"""Images as a recipe augments them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from splitcore.errors import ConfigError
from training.config import Recipe
from training.data.augment import augment, box_mask
from training.data.dataset import Split

CHUNK = 256  # images at once through what is frozen


@dataclass(frozen=True, eq=False)
class View:
    """Some training images as one of the views shows them: which view, which rows.

    labels: ids (N,), or shares of the classes (N, K) where images are mixed.
    """

    index: int
    rows: np.ndarray
    images: np.ndarray
    labels: np.ndarray


def views(train: Split, classes: int, recipe: Recipe) -> Iterator[View]:
    """All `recipe.frozen_edge_views` views of the training images, chunk by chunk.

    Each view has every row once, in an order of chance where images of a chunk are mixed.
    """
    for index in range(recipe.frozen_edge_views):
        noise = np.random.default_rng((recipe.seed, index))
        order = np.arange(len(train))
        if recipe.augment.mixes:
            noise.shuffle(order)
        for start in range(0, len(train), CHUNK):
            rows = order[start : start + CHUNK]
            images = changed(train.images[rows], recipe, noise)
            yield View(index, rows, *mixed(images, train.labels_n[rows], classes, recipe, noise))


def empty_labels(train: Split, classes: int, recipe: Recipe) -> np.ndarray:
    """Room for the labels of all views: ids (views, N), or shares of the classes (views, N, K)."""
    shape = recipe.frozen_edge_views, len(train)
    if recipe.augment.mixes:
        return np.empty((*shape, classes), np.float32)
    return np.empty(shape, np.int64)


def require_crop(images: np.ndarray, recipe: Recipe) -> None:
    """Raise ConfigError where crops of these images (…, H, W) would be larger than they are."""
    if recipe.augment.crop > min(images.shape[-2:]):
        raise ConfigError(
            f"recipe.augment.crop: {recipe.augment.crop} pixels of images {images.shape[-2:]}"
        )


def changed(
    images: np.ndarray, recipe: Recipe, noise: np.random.Generator, epoch: int | None = None
) -> np.ndarray:
    """Images (N, C, H, W) or event frames (N, T, C, H, W) as a recipe augments them in an epoch.

    The same ones come back where it changes nothing.
    epoch: None where it is not to crop.
    """
    change = recipe.augment
    crop = change.crop if epoch is not None and epoch < recipe.crop_epochs else 0
    if not (change.padding or change.flip or change.cutout or crop):
        return images
    *planes, height, width = images.shape[1:]
    new = augment(
        images.reshape(len(images), -1, height, width),  # all time steps alike
        noise,
        padding=change.padding,
        flip=change.flip,
        cutout=change.cutout,
        crop=crop,
    )
    return new.reshape(len(images), *planes, *new.shape[2:])


def mixed(
    images: np.ndarray,
    labels_n: np.ndarray,
    classes: int,
    recipe: Recipe,
    noise: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """uint8 images of a batch, each with a share of another, and shares of the classes (N, K).

    Images and ids (N,) come back as they are where the recipe mixes none.
    """
    change = recipe.augment
    if not change.mixes:
        return images, labels_n
    count = len(images)
    other = noise.permutation(count)
    if change.mixup and change.cutmix:
        boxed = noise.random(count) < 0.5
    else:
        boxed = np.full(count, bool(change.cutmix))
    share_n = noise.uniform(0, np.where(boxed, change.cutmix, change.mixup)).astype(np.float32)
    share = share_n[:, None, None]
    if change.cutmix:
        covered = box_mask(images.shape, share_n, noise)
        share_n[boxed] = covered[boxed].mean((1, 2))
        share = np.where(boxed[:, None, None], covered, share)
    share = share.reshape(count, *[1] * (images.ndim - 3), *share.shape[-2:])
    both = np.rint((1 - share) * images + share * images[other]).astype(np.uint8)
    shares_nk = np.zeros((count, classes), np.float32)
    every = np.arange(count)
    shares_nk[every, labels_n] = 1 - share_n
    shares_nk[every, labels_n[other]] += share_n
    return both, shares_nk
