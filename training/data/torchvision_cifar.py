"""CIFAR-10 and CIFAR-100 through torchvision, for those with a network or a cached copy.

torchvision checks the archive against the published MD5 before it reads it.
"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

import numpy as np

from splitcore.errors import DataError
from training.data.cache_folder import cache_folder
from training.data.dataset import Dataset, Split, hold_out

NAMES = {"cifar10": "CIFAR-10", "cifar100": "CIFAR-100"}
VALIDATION = 5000  # of the 50,000 training images


def load(name: str, seed: int = 0, root: Path | None = None) -> Dataset:
    """Load `cifar10` or `cifar100`, held in `root`. Raises DataError when it cannot be had."""
    from torchvision import datasets  # pulls in torch, which no other source needs

    kind = {"cifar10": datasets.CIFAR10, "cifar100": datasets.CIFAR100}[name]
    root = root or cache_folder()
    try:
        # torchvision prints its progress to stdout, which belongs to the answer alone.
        with contextlib.redirect_stdout(sys.stderr):
            parts = [kind(str(root), train=train, download=True) for train in (True, False)]
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{NAMES[name]}: cannot be downloaded to {root} ({error}); "
            "give a folder or zip of class folders instead"
        ) from None
    train, test = (
        Split(np.ascontiguousarray(part.data.transpose(0, 3, 1, 2)), np.asarray(part.targets))
        for part in parts
    )
    train, validation = hold_out(train, VALIDATION, seed, NAMES[name])
    return Dataset(NAMES[name], tuple(parts[0].classes), train, validation, test)
