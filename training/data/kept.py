"""Arrays that take long to make, kept on disk: decoded images of a zip, spikes of a frozen edge.

An entry holds as long as its stamp is the same: of a zip, read in one way, its size and time.
Whatever is wrong with an entry, its arrays are made again.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from splitcore.errors import DataError
from training.data.cache_folder import cache_folder

VERSION = 1
MAX_BYTES = 1 << 30  # of one entry; larger data is read anew each time
ENTRY = "entry"
DAMAGE = (  # what reading an entry, and unpacking what it holds, may raise
    OSError,
    SafetensorError,
    AttributeError,
    KeyError,
    TypeError,
    ValueError,
    RecursionError,
    DataError,
)

T = TypeVar("T")

logger = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False)
class Kept:
    """Arrays by name, and what is told of them as plain data."""

    arrays: dict[str, np.ndarray]
    told: dict[str, Any]


def of_zip(path: Path, reading: str, make: Callable[[], Kept], unpack: Callable[[Kept], T]) -> T:
    """What `unpack` makes of what `make` gives for this zip, or of an entry where there is one.

    reading: names everything but the file that the result depends on.
    """
    status = path.stat()
    name = hashlib.sha256(os.fsencode(path.resolve()) + f"\0{reading}".encode()).hexdigest()[:32]
    return of(name, f"{VERSION} {status.st_size} {status.st_mtime_ns}", make, unpack)


def of(name: str, stamp: str, make: Callable[[], Kept], unpack: Callable[[Kept], T]) -> T:
    """What `unpack` makes of what `make` gives, or of the entry of this name and stamp.

    An entry of the name with another stamp is replaced.
    """
    entry = cache_folder() / f"{name}.safetensors"
    try:
        found = _read(entry, stamp)
        if found is not None:
            return unpack(found)
    except DAMAGE as error:
        logger.debug("%s: not used (%s)", entry, error)
    found = make()
    if sum(array.nbytes for array in found.arrays.values()) <= MAX_BYTES:
        _write(entry, stamp, found)
    return unpack(found)


def _read(entry: Path, stamp: str) -> Kept | None:
    with safe_open(entry, framework="numpy") as file:
        told = json.loads((file.metadata() or {})[ENTRY])
        if told.pop("stamp") != stamp:
            return None
        return Kept({name: file.get_tensor(name) for name in file.keys()}, told)  # noqa: SIM118


def _write(entry: Path, stamp: str, kept: Kept) -> None:
    try:
        entry.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=entry.parent) as scratch:
            whole = Path(scratch) / entry.name
            save_file(kept.arrays, whole, {ENTRY: json.dumps({**kept.told, "stamp": stamp})})
            whole.replace(entry)
    except OSError as error:
        logger.debug("%s: not kept (%s)", entry, error)
