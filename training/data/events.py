"""Recordings of event cameras through tonic (the extra `events`), as binary frames.

    events (x, y, t, polarity) ── T equal time bins ── 1 where any event fell ── (T, 2, H, W)

How many events fell on one pixel in one bin is given up: a bin is one step of a spiking network.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import track

from splitcore.errors import DataError
from splitcore.graph import Shape
from training.data.cache_folder import cache_folder
from training.data.dataset import Dataset, Split, hold_out, require_room

NAMES = {"nmnist": "N-MNIST", "cifar10dvs": "CIFAR10-DVS"}
TEST_SHARE, VALIDATION_SHARE = 0.1, 0.1  # CIFAR10-DVS comes without a test part


def load(
    name: str,
    seed: int,
    steps: int,
    image_shape: Shape | None = None,
    root: Path | None = None,
) -> Dataset:
    """Load `nmnist` or `cifar10dvs` as frames (N, T, 2, H, W), T the number of steps.

    image_shape (2, H, W): pixels joined in whole blocks to this size. Raises DataError when tonic
    is not installed, the recordings cannot be downloaded to `root`, or the shape does not fit.
    """
    try:
        import tonic  # pyright: ignore[reportMissingImports]
        from tonic.transforms import ToFrame  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise DataError(
            f"{name}: needs the package tonic; install this project with its extra 'events'"
        ) from None
    kind = {"nmnist": tonic.datasets.NMNIST, "cifar10dvs": tonic.datasets.CIFAR10DVS}[name]
    width, height, polarities = kind.sensor_size
    shape = image_shape or (polarities, height, width)
    if shape[0] != polarities or height % shape[1] or width % shape[2]:
        raise DataError(
            f"{name}: expected {polarities} channels and whole blocks of {height}×{width} pixels, "
            f"got {tuple(shape)}"
        )
    to_frame = ToFrame(sensor_size=kind.sensor_size, n_time_bins=steps)
    if name == "nmnist":
        raw = _recordings(name, root, lambda to: [kind(to, train=train) for train in (True, False)])
        require_room(name, sum(map(len, raw)), (steps, *shape))
        train, test = (_frames(name, part, to_frame, steps, shape) for part in raw)
    else:
        (raw,) = _recordings(name, root, lambda to: [kind(to)])
        require_room(name, len(raw), (steps, *shape))
        everything = _frames(name, raw, to_frame, steps, shape)
        train, test = hold_out(everything, round(TEST_SHARE * len(everything)), seed, name)
    train, validation = hold_out(train, round(VALIDATION_SHARE * len(train)), seed, name)
    return Dataset(NAMES[name], tuple(kind.classes), train, validation, test)


def _recordings(name: str, root: Path | None, get: Callable[[str], list[Any]]) -> list[Any]:
    root = root or cache_folder()
    try:
        with contextlib.redirect_stdout(sys.stderr):
            return get(str(root))
    except (OSError, RuntimeError) as error:
        raise DataError(f"{NAMES[name]}: cannot be downloaded to {root} ({error})") from None


def _frames(
    name: str, recordings: Any, to_frame: Callable[..., np.ndarray], steps: int, shape: Shape
) -> Split:
    channels, height, width = shape
    frames = np.empty((len(recordings), steps, *shape), dtype=np.uint8)
    labels = np.empty(len(recordings), dtype=np.int64)
    console = Console(stderr=True)
    for index in track(range(len(recordings)), f"binning {NAMES[name]}", console=console):
        events, labels[index] = recordings[index]
        hit_tchw = to_frame(events) > 0
        blocks = hit_tchw.reshape(steps, channels, height, hit_tchw.shape[2] // height, width, -1)
        frames[index] = blocks.any(axis=(3, 5))
    return Split(frames, labels)
