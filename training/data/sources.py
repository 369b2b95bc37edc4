"""One way in to every source of images.

"digits"                       scikit-learn's 1,797 scans, on disk with the package
"cifar10", "cifar100"          through torchvision, downloaded when missing
a folder or zip of classes     train/CLASS/*.jpg and test/CLASS/*.jpg, or CLASS/*.jpg alone
"""

from __future__ import annotations

from pathlib import Path

from splitcore.errors import DataError
from splitcore.graph import Shape
from training.data import class_folders, digits, events, torchvision_cifar
from training.data.dataset import Dataset, TestPart, spread

NAMES = ("digits", *torchvision_cifar.NAMES, *events.NAMES)


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
        return class_folders.load(Path(name), seed, image_shape)
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
) -> TestPart:
    """The test images that `load` gives, or `samples` of them spread evenly over all.

    Of a folder or zip no other image is decoded. Raises DataError like `load`, and when there are
    fewer than `samples`.
    """
    name = str(name_or_path)
    if name not in NAMES and Path(name).exists():
        return class_folders.load_test(Path(name), seed, image_shape, samples)
    whole = load(name, seed, image_shape, steps)
    chosen = spread(len(whole.test), samples, whole.name)
    return TestPart(whole.name, whole.classes, whole.test.take(chosen))
