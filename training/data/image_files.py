"""Image files in a folder or a zip, read by their relative path; nothing is unpacked to disk."""

from __future__ import annotations

import lzma
import os
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Protocol

from splitcore.errors import DataError

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".ppm", ".pgm"})
MAX_DEPTH = 4  # one wrapping folder, train or test, a class, a file
MAX_FILES = 5_000_000
MAX_FOLDERS = 250_000  # train and test of as many classes as there may be, and some
MAX_FILE_BYTES = 64 << 20


@dataclass(frozen=True)
class Listing:
    """Relative paths of all folders and of all image files, each sorted."""

    folders: tuple[PurePosixPath, ...]
    images: tuple[PurePosixPath, ...]


class Source(Protocol):
    """A place that lists image files and gives their bytes; may be read from several threads."""

    where: Path
    listing: Listing

    def read(self, image: PurePosixPath) -> bytes:
        """The bytes of one listed image. Raises DataError naming it."""
        ...


@contextmanager
def open_source(path: Path) -> Iterator[Source]:
    """A folder or a zip file as a source. Raises DataError when it is neither."""
    if path.is_dir():
        yield _Folder(path)
        return
    try:
        archive = zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, NotImplementedError, ValueError) as error:
        raise DataError(f"{path}: neither a folder nor a readable zip file ({error})") from None
    with archive:
        yield _Zip(path, archive)


def _hidden(path: PurePosixPath) -> bool:
    """Whether an operating system put it there: dot files and macOS resource forks."""
    return any(part.startswith((".", "__MACOSX")) for part in path.parts)


def _listing(where: Path, folders: set[PurePosixPath], images: list[PurePosixPath]) -> Listing:
    if len(images) > MAX_FILES:
        raise DataError(f"{where}: more than {MAX_FILES} images")
    return Listing(tuple(sorted(folders)), tuple(sorted(images)))


def _require_few(where: Path, folders: set[PurePosixPath]) -> None:
    if len(folders) > MAX_FOLDERS:
        raise DataError(f"{where}: more than {MAX_FOLDERS} folders")


class _Folder:
    def __init__(self, path: Path) -> None:
        self.where = path
        folders: set[PurePosixPath] = set()
        images: list[PurePosixPath] = []
        self._walk(PurePosixPath(), (), folders, images)
        self.listing = _listing(path, folders, images)

    def _walk(
        self,
        at: PurePosixPath,
        above: tuple[tuple[int, int], ...],
        folders: set[PurePosixPath],
        images: list[PurePosixPath],
    ) -> None:
        """above: device and inode of the folders on the way here; a link to one is no folder."""
        try:
            with os.scandir(self.where / at) as entries:
                status = os.stat(self.where / at)
                above = (*above, (status.st_dev, status.st_ino))
                for entry in entries:
                    here = at / entry.name
                    if _hidden(here):
                        continue
                    if entry.is_dir():  # links to folders too
                        status = entry.stat()
                        if (status.st_dev, status.st_ino) in above:
                            continue
                        folders.add(here)
                        _require_few(self.where, folders)
                        if len(here.parts) < MAX_DEPTH:
                            self._walk(here, above, folders, images)
                    elif here.suffix.lower() in SUFFIXES and len(images) <= MAX_FILES:
                        images.append(here)
        except OSError as error:
            raise DataError(f"{self.where / at}: cannot be read ({error.strerror})") from None

    def read(self, image: PurePosixPath) -> bytes:
        path = self.where / image
        try:
            if not path.is_file():  # a pipe of that name would block for ever
                raise DataError(f"{path}: no regular file")
            if path.stat().st_size > MAX_FILE_BYTES:
                raise DataError(f"{path}: larger than {MAX_FILE_BYTES >> 20} MiB")
            return path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None


class _Zip:
    def __init__(self, path: Path, archive: zipfile.ZipFile) -> None:
        self.where = path
        self._archive = archive
        self._members: dict[PurePosixPath, zipfile.ZipInfo] = {}
        folders: set[PurePosixPath] = set()
        for member in archive.infolist():
            inside = PurePosixPath(member.filename)
            if _hidden(inside):
                continue
            if len(inside.parts) > MAX_DEPTH + 1:
                start = "/".join(inside.parts[: MAX_DEPTH + 1])
                raise DataError(f"{path}: {start[:200]}/…: lies too deep in folders")
            if inside.parent not in folders:
                folders.update(parent for parent in inside.parents if parent.parts)
            if member.is_dir():
                folders.add(inside)
            elif inside.suffix.lower() in SUFFIXES:
                if inside in self._members:
                    raise DataError(f"{path}: holds {inside} twice")
                self._members[inside] = member
            _require_few(path, folders)
        self.listing = _listing(path, folders, list(self._members))

    def read(self, image: PurePosixPath) -> bytes:
        member = self._members[image]
        # zipfile gives at most as many bytes as this declares, whatever the data would inflate to.
        if member.file_size > MAX_FILE_BYTES:
            raise DataError(f"{self.where}: {image}: larger than {MAX_FILE_BYTES >> 20} MiB")
        try:
            return self._archive.read(member)
        except (
            zipfile.BadZipFile,
            zlib.error,
            lzma.LZMAError,
            EOFError,
            OSError,
            ValueError,  # a name in the member's own header that is no text
        ) as error:
            raise DataError(f"{self.where}: {image}: damaged ({error})") from None
        except (RuntimeError, NotImplementedError) as error:  # a password, a rare compression
            raise DataError(f"{self.where}: {image}: cannot be unpacked ({error})") from None
