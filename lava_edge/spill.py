"""A bounded queue of packets on disk, for when the link is down longer than memory lasts.

    folder/00000001.spill   header: magic, bundle digest · records: mark, length, crc32, one sample
                            or several that travel in one packet
    folder/00000002.spill   …

Segments are written to their end and deleted once every sample in them is answered. All that ever
changes in place is the mark, one byte that says whether a record was answered. A process that dies
leaves at most a torn last record, which is cut off when the folder is opened again; all other
records that were not answered are sent again.
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
from typing import BinaryIO

from splitcore.errors import LinkError, PacketError
from splitcore.packet import Packet

log = logging.getLogger(__name__)

MAGIC = b"spikebottlenet-spill-3\n"
SEGMENT_BYTES = 1 << 20
WAITS, ANSWERED = 0x00, 0xFF  # marks; one wrong bit makes neither of them
_RECORD = struct.Struct("<BII")
_PACKET = struct.Struct("<QHBBI")
MAX_RECORD_BYTES = 64 << 20


@dataclass(eq=False)
class _Segment:
    path: Path
    size: int
    unanswered: int = 0  # samples


@dataclass(frozen=True, eq=False)
class _Record:
    segment: _Segment
    offset: int
    samples: range


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
        self._writer: FileIO | None = None
        self._untaken: deque[_Record] = deque()
        self._unanswered: dict[int, _Record] = {}
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._unlock = weakref.finalize(self, os.close, _locked(folder))
            for path in sorted(folder.glob("*.spill")):
                if path.stem.isdecimal():  # others are somebody's copies
                    self._recover(path)
        except OSError as error:
            raise LinkError(f"spill: {folder}: {error.strerror}") from None
        self._number = int(self._segments[-1].path.stem) if self._segments else 0

    @property
    def unanswered(self) -> KeysView[int]:
        """Samples on disk without an answer, handed out or not, oldest first."""
        return self._unanswered.keys()

    @property
    def drained(self) -> bool:
        """Whether `take` has handed out everything."""
        return not self._untaken

    @property
    def bytes_used(self) -> int:
        """Bytes of all segments."""
        return sum(segment.size for segment in self._segments)

    def put(self, packets: list[Packet]) -> bool:
        """Append the packets of a sample or group; False where there is no room for them."""
        raw = _record(packets)
        if self.bytes_used + len(raw) + len(self._header) > self._max_bytes:
            return False
        try:
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
            log.warning("spill: %s: %s", self.folder, error.strerror)
            return False
        self._enter(segment, packets)
        segment.size += len(raw)
        return True

    def take(self) -> Taken | None:
        """The oldest record not yet handed out; it stays on disk until `answered`."""
        if not self._untaken:
            return None
        record = self._untaken.popleft()
        problem = "changed by somebody else"
        try:
            with record.segment.path.open("rb") as file:
                file.seek(record.offset)
                packets, _, _ = next(_records(file, record.offset), ([], False, 0))
            if packets and packets[0].samples == record.samples:
                return Taken(record.samples, packets)
        except OSError as error:
            problem = str(error.strerror)
        return Taken(record.samples, [], f"spill: {record.segment.path}: {problem}")

    def answered(self, samples: range) -> None:
        """Forget what was one record; a segment goes when its last one does."""
        self._forget(self._unanswered[samples[0]])

    def _enter(self, segment: _Segment, packets: list[Packet]) -> None:
        record = _Record(segment, segment.size, packets[0].samples)
        self._untaken.append(record)
        self._unanswered.update(dict.fromkeys(record.samples, record))
        segment.unanswered += len(record.samples)

    def _forget(self, record: _Record) -> None:
        for sample in record.samples:
            del self._unanswered[sample]
        record.segment.unanswered -= len(record.samples)
        try:
            with record.segment.path.open("r+b") as file:
                file.seek(record.offset)
                file.write(bytes([ANSWERED]))
            while self._segments and not self._segments[0].unanswered:
                if len(self._segments) == 1:
                    self._close_writer()
                self._segments.popleft().path.unlink(missing_ok=True)
        except OSError as error:  # what is not marked is sent again by the next run, no worse
            log.warning("spill: %s: %s", record.segment.path, error.strerror)

    def close(self) -> None:
        """Write through to the disk. What was not answered stays for the next time."""
        self._close_writer()
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
                os.fsync(writer.fileno())
                writer.close()
            except OSError as error:
                log.warning("spill: %s: %s", self.folder, error.strerror)

    def _recover(self, path: Path) -> None:
        with path.open("rb") as file:
            header = file.read(len(self._header))
            if len(header) == len(self._header) and header != self._header:
                raise LinkError(
                    f"spill: {path}: holds samples of another bundle or release; deliver them "
                    "with that, or remove the file"
                )
            segment = _Segment(path, len(self._header))
            if header == self._header:
                for packets, answered, end in _records(file, segment.size):
                    if not answered:
                        self._enter_recovered(segment, packets)
                    segment.size = end
        if not segment.unanswered:
            path.unlink()
            return
        if path.stat().st_size != segment.size:
            log.warning("spill: %s: the torn end is cut off", path)
            os.truncate(path, segment.size)
        self._segments.append(segment)

    def _enter_recovered(self, segment: _Segment, packets: list[Packet]) -> None:
        """Of two records with one sample the first was answered and could not be marked."""
        samples = packets[0].samples
        for record in {self._unanswered[k] for k in samples if k in self._unanswered}:
            self._untaken.remove(record)
            self._forget(record)
        self._enter(segment, packets)


def _record(packets: list[Packet]) -> bytes:
    body = b"".join(
        _PACKET.pack(one.sample, one.step, one.codec, one.more, len(one.payload)) + one.payload
        for one in packets
    )
    return _RECORD.pack(WAITS, len(body), zlib.crc32(body)) + body


def _records(file: BinaryIO, offset: int) -> Iterator[tuple[list[Packet], bool, int]]:
    """Records' packets, whether they were answered, and the offset behind each, up to the first
    that is not whole."""
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        mark, length, crc = _RECORD.unpack(head)
        if mark not in (WAITS, ANSWERED) or length > MAX_RECORD_BYTES:
            return
        body = file.read(length)
        if len(body) != length or zlib.crc32(body) != crc:
            return
        offset += _RECORD.size + length
        try:
            packets = _packets(body)
        except (struct.error, PacketError):
            return
        if not packets:
            return
        yield packets, mark == ANSWERED, offset


def _packets(body: bytes) -> list[Packet]:
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
