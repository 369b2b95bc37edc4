"""A bounded queue of packets on disk, for what is not answered when the link or the process ends.

    folder/00000001.spill   header: magic, bundle digest · records: mark, head, packets of one
                            sample or of several that travel in one packet
    folder/00000002.spill   …

Segments are written to their end and deleted once every sample in them is answered; the last is
then emptied and written again. All that ever changes in place is the mark, one byte that says
whether a record was answered. A process that dies leaves at most a torn last record, which is cut
off when the folder is opened again; all other records that were not answered are sent again.
Nothing waits for the disk until a segment ends: a machine that dies can lose the newest.

A disk that changes bytes costs the records that it hits. Damaged packets are lost by the numbers
that their head says. A head that cannot be read costs what is behind it up to the next that can;
nobody knows what that was, so the file is kept for good, as 00000001.damaged.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import struct
import weakref
import zlib
from collections import deque
from collections.abc import Iterator, KeysView
from dataclasses import dataclass
from io import FileIO
from pathlib import Path
from typing import NamedTuple

from splitcore.errors import LinkError, PacketError
from splitcore.packet import Packet

log = logging.getLogger(__name__)

MAGIC = b"spikebottlenet-spill-4\n"
SEGMENT_BYTES = 1 << 20
WAITS, ANSWERED = b"\x00", b"\xff"  # marks; any other waits, too: an answer twice harms nobody
SYNC = b"\xd7rec"  # a head is searched by it
_HEAD = struct.Struct("<4sQBII")  # sync, first sample, further ones, bytes and crc32 of the packets
_CRC = struct.Struct("<I")  # of the head
_BEFORE = len(WAITS) + _HEAD.size + _CRC.size  # bytes of a record before its packets
_PACKET = struct.Struct("<QHBBI")


@dataclass(eq=False)
class _Segment:
    path: Path
    size: int
    unanswered: int = 0  # samples
    damaged: bool = False

    @property
    def damaged_path(self) -> Path:
        """Where it is kept for good if it is damaged."""
        return self.path.with_suffix(".damaged")


@dataclass(frozen=True, eq=False)
class _Record:
    segment: _Segment
    offset: int
    size: int
    samples: range


class _Head(NamedTuple):
    samples: range
    size: int  # of the whole record
    crc: int  # of its packets


@dataclass(frozen=True)
class Taken:
    """A record off the disk. packets: none where it cannot be read any more, `problem` says why."""

    samples: range
    packets: list[Packet]
    problem: str = ""


class Spill:
    """First in, first out, whole samples and groups of them.

    Not safe to use from two threads at once; a second process is refused until `close`.
    """

    def __init__(self, folder: Path, digest: bytes, max_bytes: int = 256 << 20) -> None:
        self.folder = folder
        self._header = MAGIC + digest
        self._max_bytes = max_bytes
        self._segments: deque[_Segment] = deque()
        self._writer: FileIO | None = None  # of the last segment
        self._has_room = True  # as far as is known
        self._untaken: deque[_Record] = deque()
        self._unanswered: dict[int, _Record] = {}
        self._damage: list[str] = []
        self._number = 0
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._unlock = weakref.finalize(self, os.close, _locked(folder))
            for path in sorted(folder.glob("*.*")):
                if path.stem.isdecimal():  # others are somebody's copies
                    self._find(path)
            for segment in tuple(self._segments):
                self._drop_answered(segment)
        except OSError as error:
            raise LinkError(f"spill: {folder}: {error.strerror}") from None

    @property
    def unanswered(self) -> KeysView[int]:
        """Samples on disk without an answer, handed out or not, oldest first."""
        return self._unanswered.keys()

    @property
    def bytes_used(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def take_damage(self) -> list[str]:
        """Of each file with a head that could not be read, once, what to tell of it."""
        damage, self._damage = self._damage, []
        return damage

    def put(self, packets: list[Packet], taken: bool = False) -> bool:
        """Append the packets of a sample or group; False where there is no room for them.

        taken: whether the caller has them at hand, so that `take` leaves them out.
        """
        raw = _record(packets)
        try:
            if self.bytes_used + len(raw) + len(self._header) > self._max_bytes:
                raise OSError(errno.EDQUOT, f"{self._max_bytes} bytes are its limit")
            segment = self._writable()
            writer = self._writer
            assert writer is not None
            try:
                if writer.write(raw) != len(raw):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                os.truncate(segment.path, segment.size)
                raise
        except OSError as error:
            if self._has_room:
                log.warning("spill: %s: no room: %s", self.folder, error.strerror)
            self._has_room = False
            return False
        self._has_room = True
        record = _Record(segment, segment.size, len(raw), packets[0].samples)
        self._enter(record)
        if not taken:
            self._untaken.append(record)
        segment.size += len(raw)
        return True

    def take(self) -> Taken | None:
        """The oldest record not yet handed out; it stays on disk until `answered`."""
        if not self._untaken:
            return None
        record = self._untaken.popleft()
        try:
            with record.segment.path.open("rb") as file:
                file.seek(record.offset)
                return Taken(record.samples, _packets(file.read(record.size), record.samples))
        except OSError as error:
            problem = error.strerror
        except (struct.error, PacketError):
            problem = "damaged, or changed by somebody else"
        return Taken(record.samples, [], f"spill: {record.segment.path}: {problem}")

    def answered(self, samples: range) -> None:
        """Forget what was one record; a segment goes when its last one does."""
        record = self._unanswered[samples[0]]
        self._forget(record)
        self._drop_answered(record.segment)

    def _enter(self, record: _Record) -> None:
        self._unanswered.update(dict.fromkeys(record.samples, record))
        record.segment.unanswered += len(record.samples)

    def _forget(self, record: _Record) -> None:
        for sample in record.samples:
            del self._unanswered[sample]
        record.segment.unanswered -= len(record.samples)
        try:
            with record.segment.path.open("r+b", buffering=0) as file:
                file.seek(record.offset)
                file.write(ANSWERED)
        except OSError as error:  # what is not marked is sent again by the next run, no worse
            log.warning("spill: %s: %s", record.segment.path, error.strerror)

    def _drop_answered(self, segment: _Segment) -> None:
        if segment.unanswered:
            return
        try:
            if self._writer is not None and segment is self._segments[-1]:
                os.truncate(segment.path, len(self._header))
                segment.size = len(self._header)
                return
            self._segments.remove(segment)
            if segment.damaged:
                segment.path.rename(segment.damaged_path)
            else:
                segment.path.unlink(missing_ok=True)
        except OSError as error:  # the next run finds it again, no worse
            log.warning("spill: %s: %s", segment.path, error.strerror)

    def close(self) -> None:
        """Write through to the disk. What was not answered stays for the next time."""
        self._close_writer()
        for segment in tuple(self._segments):
            self._drop_answered(segment)
        self._unlock()

    def _writable(self) -> _Segment:
        if self._writer is not None and self._segments[-1].size < SEGMENT_BYTES:
            return self._segments[-1]
        self._close_writer()
        self._number += 1
        path = self.folder / f"{self._number:08d}.spill"
        try:
            with path.open("xb") as file:
                file.write(self._header)
        except OSError:
            path.unlink(missing_ok=True)
            raise
        segment = _Segment(path, len(self._header))
        self._writer = path.open("ab", buffering=0)
        self._segments.append(segment)
        return segment

    def _close_writer(self) -> None:
        writer, self._writer = self._writer, None
        if writer is not None:
            try:
                if self._segments[-1].unanswered:
                    os.fsync(writer.fileno())
                writer.close()
            except OSError as error:
                log.warning("spill: %s: %s", self.folder, error.strerror)

    def _find(self, path: Path) -> None:
        """A file that an earlier run left."""
        if path.suffix in (".spill", ".damaged"):
            self._number = max(self._number, int(path.stem))
        if path.suffix == ".spill":
            self._recover(path)

    def _recover(self, path: Path) -> None:
        raw = path.read_bytes()
        if not self._header.startswith(raw[: len(self._header)]):
            raise LinkError(
                f"spill: {path}: holds samples of another bundle or release; deliver them "
                "with that, or remove the file"
            )
        segment = _Segment(path, len(raw))
        self._segments.append(segment)
        for at, head in _heads(raw, len(self._header)):
            if at + (_BEFORE if head is None else head.size) > len(raw):
                log.warning("spill: %s: the torn end is cut off", path)
                os.truncate(path, at)
                segment.size = at
            elif head is None:
                segment.damaged = True
            elif raw[at : at + 1] != ANSWERED:
                self._enter_recovered(_Record(segment, at, head.size, head.samples))
        if segment.damaged:
            self._damage.append(
                f"spill: {path}: part of it cannot be read, what was there is lost; the file is "
                f"kept, as {segment.damaged_path.name} once nothing else in it waits"
            )
            log.warning(self._damage[-1])

    def _enter_recovered(self, record: _Record) -> None:
        """Of two records with one sample the first was answered and could not be marked."""
        for earlier in {self._unanswered[k] for k in record.samples if k in self._unanswered}:
            self._untaken.remove(earlier)
            self._forget(earlier)
        self._enter(record)
        self._untaken.append(record)


def _record(packets: list[Packet]) -> bytes:
    body = b"".join(
        _PACKET.pack(one.sample, one.step, one.codec, one.more, len(one.payload)) + one.payload
        for one in packets
    )
    first = packets[0]
    head = _HEAD.pack(SYNC, first.sample, first.more, len(body), zlib.crc32(body))
    return WAITS + head + _CRC.pack(zlib.crc32(head)) + body


def _heads(raw: bytes, at: int) -> Iterator[tuple[int, _Head | None]]:
    """Where each record begins, and its head; None for all that cannot be read up to the next."""
    while at < len(raw):
        head = _head(raw, at)
        yield at, head
        at = at + head.size if head is not None else _next_head(raw, at)


def _head(raw: bytes, at: int) -> _Head | None:
    start, end = at + len(WAITS), at + _BEFORE - _CRC.size
    if raw[end : end + _CRC.size] != _CRC.pack(zlib.crc32(raw[start:end])):
        return None
    sync, sample, more, length, crc = _HEAD.unpack_from(raw, start)
    return _Head(range(sample, sample + more + 1), _BEFORE + length, crc) if sync == SYNC else None


def _next_head(raw: bytes, at: int) -> int:
    """Where the next record begins whose head can be read, or the end."""
    while (sync := raw.find(SYNC, at + len(WAITS) + 1)) >= 0:
        at = sync - len(WAITS)
        if _head(raw, at) is not None:
            return at
    return len(raw)


def _packets(raw: bytes, samples: range) -> list[Packet]:
    """The packets of a record. Raises PacketError where it is not that of these samples."""
    head, body = _head(raw, 0), raw[_BEFORE:]
    if head is None or head.samples != samples or zlib.crc32(body) != head.crc:
        raise PacketError("not what was written")
    packets, at = [], 0
    while at < len(body):
        sample, step, codec, more, size = _PACKET.unpack_from(body, at)
        at += _PACKET.size + size
        packets.append(Packet(sample, step, codec, body[at - size : at], more))
    return packets


def _locked(folder: Path) -> int:
    """A descriptor of the folder that nobody else holds while it is open; it ends with us."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EWOULDBLOCK, errno.EAGAIN):
            raise LinkError(
                f"spill: {folder}: is in use by another edge; give each a folder of its own"
            ) from None
        raise
    return descriptor
