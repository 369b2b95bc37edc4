"""A user's own images: one folder a class, in a folder or a zip.

    ROOT/train/CLASS/*.jpg  and  ROOT/test/CLASS/*.jpg      the test images are the user's choice
    ROOT/CLASS/*.jpg                                        a fifth of them is held out for testing

A single folder that wraps all of it is stepped into. A tenth of the training images is held out for
validation. Classes are numbered in the order of their sorted names.
"""

from __future__ import annotations

import io
import logging
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from rich.console import Console
from rich.progress import Progress

from splitcore.errors import DataError
from splitcore.graph import Shape
from training.data.dataset import (
    Dataset,
    Split,
    TestPart,
    hold_out,
    hold_out_indices,
    require_room,
    spread,
)
from training.data.image_files import Listing, Source, open_source

TEST_SHARE, VALIDATION_SHARE = 0.2, 0.1
MAX_PIXELS = 50_000_000  # of one image, decoded
MAX_CLASSES = 100_000
EIGHT_BIT_MODES = frozenset({"1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"})
# No format that starts a foreign program (EPS) or holds a document.
FORMATS = ("JPEG", "PNG", "BMP", "GIF", "WEBP", "PPM")
MODE_OF = {1: "L", 3: "RGB"}
CHUNK = 256  # images a thread decodes before it hands them over
# Threads pay for photographs; on files of a kilobyte two of them took twice the time of one.
THREADED_FILE_BYTES = 32 << 10
CIFAR10_CLASSES = frozenset(
    ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Layout:
    """Images of each split by class, in the order of `classes`; test is empty when not given."""

    classes: tuple[str, ...]
    train: tuple[tuple[PurePosixPath, ...], ...]
    test: tuple[tuple[PurePosixPath, ...], ...]


def load(path: Path, seed: int = 0, image_shape: Shape | None = None) -> Dataset:
    """Decode all images of a folder or zip, a progress bar on stderr.

    image_shape (C, H, W): images of another size are cropped to its aspect and scaled (counted in
    `Dataset.resized`); without it all must be of the first one's size. C is 1 (grey) or 3 (RGB).
    Raises DataError naming the file or folder that is wrong.
    """
    with _opened(path, image_shape) as (name, layout, decoder):
        given, held = _flat(layout.train), _flat(layout.test)
        require_room(name, len(given[0]) + len(held[0]), decoder.shape)
        train = decoder.split(name, *given)
        test = decoder.split(name, *held) if layout.test else None
    classes = len(layout.classes)
    if test is None:
        train, test = hold_out(train, _count(TEST_SHARE, len(train), classes), seed, name)
    count = _count(VALIDATION_SHARE, len(train), classes)
    train, validation = hold_out(train, count, seed, name)
    return Dataset(name, layout.classes, train, validation, test, decoder.resized)


def load_test(
    path: Path,
    seed: int = 0,
    image_shape: Shape | None = None,
    samples: int | None = None,
    at_most: int | None = None,
) -> TestPart:
    """The test images that `load` gives, or some as `spread` has it, without decoding the others.

    Raises DataError like `load`, of what it has to read.
    """
    with _opened(path, image_shape) as (name, layout, decoder):
        files, labels = _flat(layout.test or layout.train)
        if not layout.test:
            count = _count(TEST_SHARE, len(files), len(layout.classes))
            _, held = hold_out_indices(labels, count, seed, name)
            files, labels = [files[index] for index in held], labels[held]
        chosen = spread(len(files), samples, name, at_most)
        require_room(name, len(chosen), decoder.shape)
        split = decoder.split(name, [files[index] for index in chosen], labels[chosen])
    return TestPart(name, layout.classes, split)


@contextmanager
def _opened(path: Path, image_shape: Shape | None) -> Iterator[tuple[str, Layout, _Decoder]]:
    """Name and layout of a folder or zip, and what decodes its images to one shape."""
    if image_shape is not None and (image_shape[0] not in MODE_OF or min(image_shape) < 1):
        raise DataError(f"image shape: expected (1 or 3, H, W), got {tuple(image_shape)}")
    with open_source(path) as source, warnings.catch_warnings():
        # Pillow warns of a bomb before it refuses one; here the first word is final.
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        layout = arrange(path, source.listing)
        shape = image_shape or _shape_of(source, layout.train[0][0])
        decoder = _Decoder(source, shape, may_resize=image_shape is not None)
        yield _dataset_name(path, layout), layout, decoder
    if decoder.resized:
        logger.info("%s: %d images cropped and scaled to %s", path, decoder.resized, shape)


def _flat(
    by_class: tuple[tuple[PurePosixPath, ...], ...],
) -> tuple[list[PurePosixPath], np.ndarray]:
    """All files, one class after the other, and the class number of each."""
    labels = np.repeat(np.arange(len(by_class)), [len(group) for group in by_class])
    return [image for group in by_class for image in group], labels


def _count(share: float, images: int, classes: int) -> int:
    """How many to hold out: a share, but one of each class at least."""
    return max(round(share * images), classes)


def arrange(where: Path, listing: Listing) -> Layout:
    """Find out which of the two layouts a listing is. Raises DataError naming what does not fit."""
    if not listing.images:
        raise DataError(f"{where}: holds no images; expected CLASS/*.jpg or train/CLASS/*.jpg")
    root = PurePosixPath()
    folders, loose = _children(listing, root)
    while len(folders) == 1 and not loose and _children(listing, root / folders[0])[0]:
        root = root / folders[0]
        folders, loose = _children(listing, root)
    if not {"train", "test"} & set(folders):
        classes, images = _classes(where, listing, root)
        return Layout(classes, images, ())
    if set(folders) != {"train", "test"} or loose:
        found = ", ".join([*folders, *(image.name for image in loose[:3])])
        raise DataError(f"{where}: expected the folders train and test alone, found {found}")
    classes, train = _classes(where, listing, root / "train")
    test_classes, test = _classes(where, listing, root / "test")
    if differing := sorted(set(classes) ^ set(test_classes)):
        raise DataError(
            f"{where}: train and test differ in their classes: "
            f"{', '.join(differing[:5])} in one of them only"
        )
    return Layout(classes, train, test)


def _children(listing: Listing, at: PurePosixPath) -> tuple[list[str], list[PurePosixPath]]:
    folders = [folder.name for folder in listing.folders if folder.parent == at]
    return folders, [image for image in listing.images if image.parent == at]


def _classes(
    where: Path, listing: Listing, root: PurePosixPath
) -> tuple[tuple[str, ...], tuple[tuple[PurePosixPath, ...], ...]]:
    by_class: dict[str, list[PurePosixPath]] = {name: [] for name in _children(listing, root)[0]}
    if len(by_class) > MAX_CLASSES:
        raise DataError(f"{where}: more than {MAX_CLASSES} class folders")
    depth = len(root.parts) + 1
    for image in listing.images:
        if image.parts[: depth - 1] != root.parts:
            continue
        if len(image.parts) != depth + 1:
            raise DataError(f"{where}: {image}: lies in no class folder, or too deep in one")
        by_class[image.parts[depth - 1]].append(image)
    for name, images in by_class.items():
        if not images:
            raise DataError(f"{where}: class folder {root / name} holds no images")
        if not name.isprintable():
            raise DataError(f"{where}: class folder {name!r}: expected a printable name")
    if len(by_class) < 2:
        raise DataError(f"{where}: expected at least two class folders, found {len(by_class)}")
    return tuple(by_class), tuple(tuple(images) for images in by_class.values())


def _dataset_name(path: Path, layout: Layout) -> str:
    """The folder's name, but for one set that must not be taken for the lossless original."""
    images = [image for part in (layout.train, layout.test) for group in part for image in group]
    if (
        frozenset(layout.classes) == CIFAR10_CLASSES
        and len(images) == 60_000
        and all(image.suffix.lower() in (".jpg", ".jpeg") for image in images)
    ):
        return "CIFAR-10-JPEG"
    return os.fsencode(path.resolve().stem).decode(errors="replace")


def _open(source: Source, image: PurePosixPath) -> Image.Image:
    """A decoded 8-bit image, turned upright as its EXIF says. Raises DataError naming it."""
    where = f"{source.where}: {image}"
    data = io.BytesIO(source.read(image))
    try:
        opened = Image.open(data, formats=FORMATS)
        if opened.width * opened.height <= MAX_PIXELS and opened.mode in EIGHT_BIT_MODES:
            ImageOps.exif_transpose(opened, in_place=True)
            opened.load()
    except UnidentifiedImageError:
        raise DataError(f"{where}: broken image, or none of {', '.join(FORMATS)}") from None
    except (Image.DecompressionBombWarning, Image.DecompressionBombError):
        raise DataError(f"{where}: more than {MAX_PIXELS} pixels") from None
    except Exception as error:  # Pillow's decoders raise almost anything on hostile bytes
        raise DataError(f"{where}: broken image ({error})") from None
    if opened.width * opened.height > MAX_PIXELS:
        raise DataError(f"{where}: more than {MAX_PIXELS} pixels")
    if opened.mode not in EIGHT_BIT_MODES:
        raise DataError(f"{where}: expected 8 bits a channel, got an image of mode {opened.mode}")
    return opened


def _shape_of(source: Source, image: PurePosixPath) -> Shape:
    opened = _open(source, image)
    channels = 1 if opened.mode in ("1", "L", "LA") else 3
    return channels, opened.height, opened.width


class _Decoder:
    """Decodes images of one source to one shape in a few threads; counts those it had to resize."""

    def __init__(self, source: Source, shape: Shape, *, may_resize: bool) -> None:
        self._source = source
        self.shape = shape
        self._may_resize = may_resize
        self.resized = 0

    def split(self, name: str, files: list[PurePosixPath], labels: np.ndarray) -> Split:
        """The images in these files as one Split."""
        pixels = np.empty((len(files), *self.shape), dtype=np.uint8)
        small = len(self._source.read(files[0])) < THREADED_FILE_BYTES
        threads = 1 if small else os.cpu_count()
        progress = Progress(console=Console(stderr=True), transient=True)
        with progress, ThreadPoolExecutor(threads) as pool:
            task = progress.add_task(f"decoding {name}", total=len(files))
            starts = range(0, len(files), CHUNK)
            chunks = [(pixels[at : at + CHUNK], files[at : at + CHUNK]) for at in starts]
            try:
                for decoded, resized in pool.map(self._decode_into, *zip(*chunks, strict=True)):
                    self.resized += resized
                    progress.advance(task, decoded)
            except BaseException:
                pool.shutdown(cancel_futures=True)  # else the rest would be decoded for nothing
                raise
        return Split(pixels, labels)

    def _decode_into(self, pixels: np.ndarray, images: list[PurePosixPath]) -> tuple[int, int]:
        resized = 0
        for index, image in enumerate(images):
            pixels[index], was_resized = self._decode(image)
            resized += was_resized
        return len(images), resized

    def _decode(self, image: PurePosixPath) -> tuple[np.ndarray, bool]:
        channels, height, width = self.shape
        opened = _open(self._source, image)
        resize = opened.size != (width, height)
        if resize and not self._may_resize:
            raise DataError(
                f"{self._source.where}: {image}: {opened.width}×{opened.height} pixels where the "
                f"first image has {width}×{height}; give the image shape to scale all to"
            )
        converted = opened.convert(MODE_OF[channels])
        if resize:
            converted = ImageOps.fit(converted, (width, height), Image.Resampling.BICUBIC)
        pixels = np.asarray(converted)
        return (pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)), resize
