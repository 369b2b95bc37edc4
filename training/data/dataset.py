"""What every source of data gives: three splits of uint8 images with integer labels."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from sklearn.model_selection import train_test_split

from splitcore.errors import DataError

MAX_ARRAY_BYTES = 8 << 30  # of all splits together, decoded


@dataclass(frozen=True, eq=False)
class Split:
    """images: uint8 (N, C, H, W), or (N, T, C, H, W) frames of an event camera; labels_n: int64."""

    images: np.ndarray
    labels_n: np.ndarray

    def __post_init__(self) -> None:
        if self.images.dtype != np.uint8 or self.images.ndim not in (4, 5):
            raise DataError(
                f"images: expected uint8 (N, C, H, W) or (N, T, C, H, W), "
                f"got {self.images.dtype} {self.images.shape}"
            )
        labels = np.asarray(self.labels_n, dtype=np.int64)
        if labels.shape != self.images.shape[:1] or not len(labels):
            raise DataError(f"labels: expected {len(self.images)} of them, got {labels.shape}")
        object.__setattr__(self, "labels_n", labels)

    def __len__(self) -> int:
        return len(self.labels_n)

    def take(self, indices: np.ndarray | slice) -> Split:
        """The samples at these indices."""
        return Split(self.images[indices], self.labels_n[indices])

    def evenly(self, count: int) -> np.ndarray:
        """Indices of up to `count` samples, spread over all: they may lie in order of class."""
        return evenly(len(self), count)

    def some(self, count: int) -> Split:
        """Those samples."""
        return self.take(self.evenly(count))


@dataclass(frozen=True, eq=False)
class Dataset:
    """Splits for fitting, for choosing settings and for reporting; all of one image shape.

    name is what results are called by. resized counts the images that a source had to scale or
    crop to the shape asked for.
    """

    name: str
    classes: tuple[str, ...]
    train: Split
    validation: Split
    test: Split
    resized: int = 0

    def __post_init__(self) -> None:
        for name in ("train", "validation", "test"):
            split: Split = getattr(self, name)
            if split.images.shape[1:] != self.train.images.shape[1:]:
                raise DataError(
                    f"{self.name}: {name} images of shape {split.images.shape[1:]}, "
                    f"train images of shape {self.train.images.shape[1:]}"
                )
            if split.labels_n.min() < 0 or split.labels_n.max() >= len(self.classes):
                raise DataError(f"{self.name}: {name} labels outside 0 … {len(self.classes) - 1}")

    @property
    def image_shape(self) -> tuple[int, ...]:
        """Shape of one sample: (C, H, W), or (T, C, H, W) of an event camera."""
        return self.train.images.shape[1:]

    @cached_property
    def digest(self) -> str:
        """Hex sha256 over classes, shapes, pixels and labels of all three splits."""
        digest = hashlib.sha256("\0".join(self.classes).encode())
        for split in (self.train, self.validation, self.test):
            digest.update(str(split.images.shape).encode())
            digest.update(np.ascontiguousarray(split.images).data)
            digest.update(np.ascontiguousarray(split.labels_n).data)
        return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class TestPart:
    """Test images alone, all or some; name and classes as in `Dataset`."""

    __test__ = False  # no class of tests, whatever pytest makes of its name

    name: str
    classes: tuple[str, ...]
    split: Split


def require_room(name: str, samples: int, shape: tuple[int, ...]) -> None:
    """Raise DataError where so many decoded samples of all splits are more than memory is for."""
    if samples * math.prod(shape) > MAX_ARRAY_BYTES:
        raise DataError(
            f"{name}: {samples} samples of shape {tuple(shape)} take more than "
            f"{MAX_ARRAY_BYTES >> 30} GiB; ask for a smaller shape"
        )


def hold_out(split: Split, count: int, seed: int, name: str) -> tuple[Split, Split]:
    """Part a split into what stays and `count` held out, classes in proportion, by seed.

    Raises DataError when a class has too few images for both parts.
    """
    stay, held = hold_out_indices(split.labels_n, count, seed, name)
    return split.take(stay), split.take(held)


def hold_out_indices(
    labels_n: np.ndarray, count: int, seed: int, name: str
) -> tuple[np.ndarray, np.ndarray]:
    """Where the images are that `hold_out` lets stay and holds out, each in rising order."""
    try:
        stay, held = train_test_split(
            np.arange(len(labels_n)), test_size=count, stratify=labels_n, random_state=seed
        )
    except ValueError as error:
        raise DataError(
            f"{name}: {len(labels_n)} images are too few to hold out {count} ({error})"
        ) from None
    return np.sort(stay), np.sort(held)


def evenly(available: int, most: int) -> np.ndarray:
    """Indices of up to `most` images, as `spread` chooses them."""
    return spread(available, None, "images", most)


def spread(available: int, wanted: int | None, name: str, at_most: int | None = None) -> np.ndarray:
    """Indices of `wanted` images, evenly over all: folders are in the order of their classes.

    None takes all, or `at_most` of them. Raises DataError when there are fewer than `wanted`.
    """
    count = wanted
    if count is None:
        count = available if at_most is None else min(at_most, available)
    if count > available:
        raise DataError(f"{name}: has {available} test images, {count} were asked for")
    return np.arange(count) * available // count
