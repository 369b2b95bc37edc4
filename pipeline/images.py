"""The test images of a bundle, as the events that enter its edge half."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from splitcore import spikes
from splitcore.bundle import Bundle
from splitcore.errors import DataError
from training.data import sources


@dataclass(frozen=True, eq=False)
class Images:
    """frames_ntchw: events (N, T, C, H, W), a view where pixels repeat; labels_n: int64."""

    data: str
    images: np.ndarray
    frames_ntchw: np.ndarray
    labels_n: np.ndarray

    def __len__(self) -> int:
        return len(self.labels_n)


def load(bundle: Bundle, data: str | None, samples: int | None) -> Images:
    """The first `samples` test images of `data`, or of what the bundle was trained on.

    Raises DataError when they are not of the bundle's shape and classes, or are not there.
    """
    manifest = bundle.manifest
    settings = manifest.training.get("config", {}).get("data", {})
    source = data or settings.get("source")
    if not isinstance(source, str):
        raise DataError(f"{bundle.path}: does not say what it was trained on; give --data")
    shape = settings.get("image_shape")
    dataset = sources.load(source, int(settings.get("seed", 0)), tuple(shape) if shape else None)
    if dataset.classes != manifest.classes or dataset.image_shape[-3:] != manifest.input_shape:
        raise DataError(
            f"{source}: {len(dataset.classes)} classes of images {dataset.image_shape}; the bundle "
            f"expects {len(manifest.classes)} of {manifest.input_shape}"
        )
    images, labels = dataset.test.images[:samples], dataset.test.labels_n[:samples]
    if samples is not None and len(images) < samples:
        raise DataError(f"{source}: has {len(images)} test images, {samples} were asked for")
    return Images(dataset.name, images, frames(bundle, images), labels)


def frames(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """uint8 images or event frames as the bundle's input events (N, T, C, H, W)."""
    manifest = bundle.manifest
    if manifest.input_bits:
        return spikes.direct_code(images, manifest.input_bits, manifest.steps)
    if images.ndim != 5 or images.shape[1] != manifest.steps:
        raise DataError(f"frames: expected (N, {manifest.steps}, C, H, W), got {images.shape}")
    return (images > 0).astype(np.uint8)
