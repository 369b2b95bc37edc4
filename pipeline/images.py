"""The test images of a bundle, as the events that enter its edge half."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from splitcore import spikes
from splitcore.bundle import Bundle, Manifest
from splitcore.errors import DataError
from training.data import sources
from training.data.kind import Kind


@dataclass(frozen=True, eq=False)
class Images:
    """frames_ntchw: events (N, T, C, H, W), a view where pixels repeat; labels_n: int64."""

    data: str
    images: np.ndarray
    frames_ntchw: np.ndarray
    labels_n: np.ndarray

    def __len__(self) -> int:
        return len(self.labels_n)


def load(
    bundle: Bundle, data: str | None, samples: int | None, at_most: int | None = None
) -> Images:
    """All test images of `data`, or of what the bundle was trained on; or `samples` of them.

    Those are spread evenly over the test set, whose images may be in the order of their classes.
    at_most: how many where `samples` is None, all of a smaller test set.

    Raises DataError when they are not of the bundle's shape and classes, or are not there, and when
    the source in the bundle's config is not what it was trained on, which `--data` replaced.
    """
    manifest = bundle.manifest
    trained_on = _trained_on(manifest)
    source, seed = data or trained_on.get("source"), trained_on.get("seed", 0)
    if not isinstance(source, str) or not isinstance(seed, int):
        raise DataError(f"{bundle.path}: does not say what it was trained on; give --data")
    if data is None:
        _require_same(sources.TITLES.get(source, manifest.data), bundle)
    test = sources.load_test(source, seed, manifest.input_shape, manifest.steps, samples, at_most)
    if data is None:
        _require_same(test.name, bundle)
    images = test.split.images
    expected = Kind(manifest.classes, manifest.input_shape)
    expected.require(Kind(test.classes, images.shape[-3:]), source, bundle.path)
    return Images(test.name, images, frames(bundle, images), test.split.labels_n)


def _require_same(name: str, bundle: Bundle) -> None:
    if name != bundle.manifest.data:
        raise DataError(
            f"{bundle.path}: was trained on {bundle.manifest.data}, not on {name}; give its images "
            "as --data"
        )


def _trained_on(manifest: Manifest) -> dict[str, Any]:
    """The data section of the training config, empty where a manifest has none."""
    config = manifest.training.get("config")
    data = config.get("data") if isinstance(config, dict) else None
    return data if isinstance(data, dict) else {}


def frames(bundle: Bundle, images: np.ndarray) -> np.ndarray:
    """uint8 images or event frames as the bundle's input events (N, T, C, H, W)."""
    manifest = bundle.manifest
    if manifest.input_bits:
        return spikes.direct_code(images, manifest.input_bits, manifest.steps)
    if images.ndim != 5 or images.shape[1] != manifest.steps:
        raise DataError(f"frames: expected (N, {manifest.steps}, C, H, W), got {images.shape}")
    return (images > 0).astype(np.uint8)
