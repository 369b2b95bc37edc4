"""Reading HDF5 that a stranger may have written: bounded data of this one file.

HDF5 can point elsewhere (soft and external links, external and virtual storage), declare sizes that
it does not hold (chunks, filters, late allocation) and carry types that run code when converted.
Files of SLAYER use none of it, so none of it is read: hard links, contiguous or compact storage,
numbers and short strings. Every error names the file and the path inside it.
"""

from __future__ import annotations

import math
import struct
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import h5py
import numpy as np

from splitcore.errors import GraphError, NetxError

MAX_FILE_BYTES = 1 << 30
MAX_MEMBERS = 4096  # of one group; a network of more layers is no network that runs here
MAX_TEXT = 256  # bytes of one string
MAX_INTEGER = 1 << 31

Member = TypeVar("Member", h5py.Group, h5py.Dataset)

_PLAIN_LAYOUTS = (h5py.h5d.CONTIGUOUS, h5py.h5d.COMPACT)
# What h5py raises on damaged files, and numpy on numbers that make no sense.
_FOREIGN_ERRORS = (
    OSError, KeyError, ValueError, TypeError, AttributeError, IndexError, ArithmeticError,
    RuntimeError, SystemError, MemoryError, NotImplementedError,
)  # fmt: skip


class GuardedFile:
    """Context manager: opens one file for reading and gives its root `Group`.

    Inside it, GraphError and whatever h5py raises become NetxError with the last path touched.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.where = "/"
        self.size = self.budget = 0

    def fail(self, message: str, where: str | None = None) -> NetxError:
        """The error to raise: file, path inside it, message."""
        return NetxError(f"{self.path}: {where or self.where}: {message}")

    def __enter__(self) -> Group:
        try:
            if not self.path.is_file():
                raise NetxError(f"{self.path}: no such file")
            self.size = self.path.stat().st_size
            if self.size > MAX_FILE_BYTES:
                raise self.fail(f"{self.size:,} bytes are more than {MAX_FILE_BYTES:,}")
            self.budget = self.size  # each byte is read once: a file takes no memory but its own
            self._file = h5py.File(self.path, "r")
            if self._file.userblock_size or self._file.id.get_create_plist().get_sizes() != (8, 8):
                raise self.fail("expected offsets of 8 bytes from the start of the file")
        except OSError as error:
            raise self.fail(f"no readable HDF5 file ({error})") from None
        return Group(self, self._file, "/")

    def heap_string(self, place: int) -> bytes:
        """The string behind a variable-length element at this byte of the file.

        The element: length (4), heap address (8), index (4). The heap: "GCOL", version, 3 reserved,
        its size (8), then objects of index (2), count (2), 4 reserved, size (8), data padded to 8.
        """
        length, heap, wanted = struct.unpack("<IQI", self._bytes(place, 16))
        if length > MAX_TEXT:
            raise self.fail(f"a string of {length:,} bytes is more than {MAX_TEXT}")
        magic, size = struct.unpack("<4s4xQ", self._bytes(heap, 16))
        if magic != b"GCOL" or not 16 <= size <= self.size - heap:
            raise self.fail("damaged string")
        at, end = heap + 16, heap + size
        while at + 16 <= end:
            index, size = struct.unpack("<H6xQ", self._bytes(at, 16))
            if index == wanted and index and size == length:
                return self._bytes(at + 16, length)
            if index == 0 or size > end - at:
                break
            at += 16 + -(-size // 8) * 8
        raise self.fail("damaged string")

    def _bytes(self, place: int, count: int) -> bytes:
        if place + count > self.size:
            raise self.fail("points behind the end of the file")
        with self.path.open("rb") as file:
            file.seek(place)
            return file.read(count)

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        try:
            self._file.close()
        except _FOREIGN_ERRORS as closing:
            error = error or closing
        if isinstance(error, NetxError):
            raise error
        if isinstance(error, GraphError):
            raise self.fail(str(error)) from None
        if isinstance(error, _FOREIGN_ERRORS):
            raise self.fail(f"damaged ({type(error).__name__}: {error})") from None


class Group:
    """One group of a guarded file."""

    def __init__(self, file: GuardedFile, group: h5py.Group, where: str) -> None:
        self.file = file
        self.where = where
        self._group = group

    def fail(self, message: str, name: str = "") -> NetxError:
        """The error to raise about this group, or about a member of it."""
        return self.file.fail(message, self._path(name))

    def _path(self, name: str) -> str:
        return f"{self.where.rstrip('/')}/{name}" if name else self.where

    def names(self) -> list[str]:
        """Names of all members."""
        self.file.where = self.where
        if len(self._group) > MAX_MEMBERS:
            raise self.fail(f"{len(self._group):,} members are more than {MAX_MEMBERS:,}")
        return list(self._group)

    def has(self, name: str) -> bool:
        """Whether there is such a member."""
        self.file.where = self._path(name)
        return self._group.id.links.exists(name.encode())

    def only(self, *known: str) -> None:
        """Refuse members that are none of the known ones: they could change the meaning."""
        for name in self.names():
            if name not in known:
                raise self.fail("unknown member", name)

    def _member(self, name: str, kind: type[Member]) -> Member:
        if not self.has(name):
            raise self.fail("missing", name)
        if not isinstance(self._group.get(name, getlink=True), h5py.HardLink):
            raise self.fail("a link to elsewhere is not followed", name)
        member = self._group[name]
        if not isinstance(member, kind):
            raise self.fail(f"expected a {kind.__name__.lower()}", name)
        return member

    def group(self, name: str) -> Group:
        """A group inside this one."""
        return Group(self.file, self._member(name, h5py.Group), self._path(name))

    def indexed(self, name: str) -> list[Group]:
        """The groups 0, 1, … n−1 inside a group, in this order."""
        parent = self.group(name)
        names = parent.names()
        for index in range(len(names)):
            if str(index) not in names:
                raise parent.fail(f"missing among {len(names)} members", str(index))
        return [parent.group(str(index)) for index in range(len(names))]

    def _plain(self, name: str) -> h5py.Dataset:
        dataset = self._member(name, h5py.Dataset)
        plist = dataset.id.get_create_plist()
        if plist.get_layout() not in _PLAIN_LAYOUTS or plist.get_nfilters():
            raise self.fail("expected plain storage, without chunks, filters or sources", name)
        if plist.get_external_count():
            raise self.fail("external storage is not read", name)
        if dataset.shape is None:
            raise self.fail("expected a value, got none", name)
        declared = math.prod(dataset.shape) * dataset.dtype.itemsize
        if declared > self.file.size:
            raise self.fail(
                f"declares {declared:,} bytes of shape {dataset.shape}; "
                f"the file has {self.file.size:,}",
                name,
            )
        if declared > self.file.budget:
            raise self.fail(
                f"declares {declared:,} bytes where {self.file.budget:,} of the file's "
                f"{self.file.size:,} are left; no data may be linked to twice",
                name,
            )
        self.file.budget -= declared
        return dataset

    def integers(self, name: str) -> np.ndarray:
        """A dataset of whole numbers as int32, whatever type it is stored as."""
        dataset = self._plain(name)
        if dataset.dtype.kind not in "biuf":
            raise self.fail(f"expected numbers, got {dataset.dtype}", name)
        return self._whole(np.asarray(dataset[()]), name)

    def _whole(self, values: np.ndarray, name: str) -> np.ndarray:
        if values.dtype.kind == "f" and not np.isfinite(values).all():
            raise self.fail("expected finite numbers", name)
        if values.size and not -MAX_INTEGER < values.min() <= values.max() < MAX_INTEGER:
            raise self.fail(f"expected numbers below {MAX_INTEGER:,}", name)
        whole = values.astype(np.int32)
        if values.dtype.kind == "f" and (whole != values).any():
            raise self.fail("expected whole numbers", name)
        return whole

    def integer(self, name: str) -> int:
        """A dataset of one whole number."""
        values = self.integers(name)
        if values.size != 1:
            raise self.fail(f"expected one number, got shape {values.shape}", name)
        return int(values.reshape(-1)[0])

    def text(self, name: str) -> str:
        """A dataset of one short string, scalar or of shape (1,)."""
        dataset = self._plain(name)
        kind = h5py.check_string_dtype(dataset.dtype)
        if kind is None or dataset.size != 1:
            raise self.fail(
                f"expected one string, got {dataset.dtype} of shape {dataset.shape}", name
            )
        if kind.length is not None:
            return self._decoded(np.asarray(dataset[()]).reshape(-1)[0], name)
        # libhdf5 2.0 allocates whatever length is declared and can loop in a damaged heap.
        place = dataset.id.get_offset()
        if place is None:
            raise self.fail("expected a stored string", name)
        return self._decoded(self.file.heap_string(place), name)

    def _decoded(self, value: bytes, name: str) -> str:
        text = value.decode("utf-8")
        if len(value) > MAX_TEXT or not text.isprintable():
            raise self.fail("expected a short printable string", name)
        return text

    def attribute(self, name: str) -> int | str | None:
        """A scalar attribute, whole number or fixed-length string; None where there is none."""
        self.file.where = self.where
        label = f"attribute {name}"
        if not h5py.h5a.exists(self._group.id, name.encode()):
            return None
        attribute = h5py.h5a.open(self._group.id, name.encode())
        if attribute.shape != () or attribute.dtype.itemsize > MAX_TEXT:
            raise self.fail("expected one value", label)
        if attribute.dtype.kind not in "biufS":
            raise self.fail(f"expected a number or plain string, got {attribute.dtype}", label)
        value = np.empty((), dtype=attribute.dtype)
        attribute.read(value)
        if value.dtype.kind == "S":
            return self._decoded(value.tobytes().rstrip(b"\0"), label)
        return int(self._whole(value, label))
