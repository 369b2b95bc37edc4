"""One way in to every source of images.

"digits"                       scikit-learn's 1,797 scans, on disk with the package
"cifar10", "cifar100"          through torchvision, downloaded when missing
a folder or zip of classes     train/CLASS/*.jpg and test/CLASS/*.jpg, or CLASS/*.jpg alone;
                               a zip's decoded images are kept (`training.data.kept`)
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pydantic import BaseModel

from splitcore.errors import DataError
from splitcore.graph import Shape
from training.data import class_folders, digits, events, torchvision_cifar
from training.data.dataset import Dataset, Split, TestPart, spread
from training.data.kept import Kept, of_zip

PARTS = ("train", "validation", "test")
TITLES = {"digits": "digits", **torchvision_cifar.NAMES, **events.NAMES}
NAMES = tuple(TITLES)


def load(
    name_or_path: str | Path,
    seed: int = 0,
    image_shape: Shape | None = None,
    steps: int | None = None,
) -> Dataset:
    """Load images by name or from a path; the seed fixes what is held out for validation.

    image_shape (C, H, W): what a folder's images are cropped, scaled and converted to; without it
    they must all be of one size. Named images have one shape and refuse any other; named event
    recordings can be joined in whole blocks of pixels. steps: time bins of event recordings.
    Raises DataError saying what is wrong and where.
    """
    name = str(name_or_path)
    if name in events.NAMES:
        if steps is None or steps < 1:
            raise DataError(f"{name}: expected a number of steps to bin its events to")
        return events.load(name, seed, steps, image_shape)
    if name == "digits":
        dataset = digits.load(seed)
    elif name in torchvision_cifar.NAMES:
        dataset = torchvision_cifar.load(name, seed)
    elif Path(name).exists():
        return _of_path(Path(name), seed, image_shape)
    else:
        raise DataError(
            f"{name}: no such data; give one of {', '.join(NAMES)}, "
            "or a folder or zip of class folders"
        )
    if image_shape is not None and tuple(image_shape) != dataset.image_shape:
        raise DataError(
            f"{name}: its images are {dataset.image_shape} (C, H, W), not {tuple(image_shape)}"
        )
    return dataset


def load_test(
    name_or_path: str | Path,
    seed: int = 0,
    image_shape: Shape | None = None,
    steps: int | None = None,
    samples: int | None = None,
    at_most: int | None = None,
) -> TestPart:
    """The test images that `load` gives, or `samples` of them spread evenly over all.

    at_most: how many of them where `samples` is None, as many as there are where there are fewer.
    Of a folder no other image is decoded. Raises DataError like `load`, and when there are fewer
    than `samples`.
    """
    name = str(name_or_path)
    if name not in NAMES and Path(name).is_dir():
        return class_folders.load_test(Path(name), seed, image_shape, samples, at_most)
    if name not in NAMES and Path(name).exists():
        part = _test_of_zip(Path(name), seed, image_shape)
        chosen = spread(len(part.split), samples, part.name, at_most)
        return TestPart(part.name, part.classes, part.split.take(chosen))
    whole = load(name, seed, image_shape, steps)
    chosen = spread(len(whole.test), samples, whole.name, at_most)
    return TestPart(whole.name, whole.classes, whole.test.take(chosen))


def _of_path(path: Path, seed: int, image_shape: Shape | None) -> Dataset:
    if path.is_dir():
        return class_folders.load(path, seed, image_shape)

    def make() -> Kept:
        found = class_folders.load(path, seed, image_shape)
        told = {"name": found.name, "classes": found.classes, "resized": found.resized}
        arrays: dict[str, np.ndarray] = {}
        for name in PARTS:
            arrays |= _arrays(name, getattr(found, name))
        return Kept(arrays, told)

    def unpack(kept: Kept) -> Dataset:
        told = _Told.model_validate(kept.told)
        train, validation, test = (_split(kept, name) for name in PARTS)
        return Dataset(told.name, told.classes, train, validation, test, told.resized)

    return of_zip(path, f"all {seed} {image_shape}", make, unpack)


def _test_of_zip(path: Path, seed: int, image_shape: Shape | None) -> TestPart:
    def make() -> Kept:
        found = class_folders.load_test(path, seed, image_shape)
        told = {"name": found.name, "classes": found.classes}
        return Kept(_arrays("test", found.split), told)

    def unpack(kept: Kept) -> TestPart:
        told = _Told.model_validate(kept.told)
        return TestPart(told.name, told.classes, _split(kept, "test"))

    return of_zip(path, f"test {seed} {image_shape}", make, unpack)


class _Told(BaseModel):
    """What an entry of a zip tells of its images."""

    name: str
    classes: tuple[str, ...]
    resized: int = 0


def _arrays(name: str, split: Split) -> dict[str, np.ndarray]:
    return {f"{name}.images": split.images, f"{name}.labels": split.labels_n}


def _split(kept: Kept, name: str) -> Split:
    return Split(kept.arrays[f"{name}.images"], kept.arrays[f"{name}.labels"])
