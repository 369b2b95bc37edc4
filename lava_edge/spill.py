"""A bounded queue of packets on disk, for when the link is down longer than memory lasts.

    folder/00000001.spill   header: magic, bundle digest · records: length, crc32, one sample or
                            several that travel in one packet
    folder/00000002.spill   …

Segments are written to their end and deleted once every sample in them is answered, so nothing is
ever changed in place. A process that dies leaves at most a torn last record, which is cut off when
the folder is opened again; all other records that were not answered are sent again.
"""

from __future__ import annotations

import errno
import logging
import os
import struct
import zlib
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from io import FileIO
from pathlib import Path
from typing import BinaryIO

from splitcore.errors import LinkError, PacketError
from splitcore.packet import Packet

log = logging.getLogger(__name__)

MAGIC = b"spikebottlenet-spill-2\n"
SEGMENT_BYTES = 1 << 20
_RECORD = struct.Struct("<II")
_PACKET = struct.Struct("<QHBBI")
MAX_RECORD_BYTES = 64 << 20


@dataclass
class _Segment:
    path: Path
    size: int
    unanswered: set[int] = field(default_factory=set)
    read: int = 0  # bytes already handed out


class Spill:
    """First in, first out, whole samples and groups of them.

    Not safe to use from two threads or processes at once.
    """

    def __init__(self, folder: Path, digest: bytes, max_bytes: int = 256 << 20) -> None:
        self.folder = folder
        self._header = MAGIC + digest
        self._max_bytes = max_bytes
        self._segments: deque[_Segment] = deque()
        self._writer: FileIO | None = None
        self._waiting: deque[int] = deque()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path in sorted(folder.glob("*.spill")):
                self._recover(path)
        except OSError as error:
            raise LinkError(f"spill: {folder}: {error.strerror}") from None
        self._number = int(self._segments[-1].path.stem) if self._segments else 0

    @property
    def waiting(self) -> tuple[int, ...]:
        """Samples on disk that `take` has not handed out, oldest first."""
        return tuple(self._waiting)

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
        segment.size += len(raw)
        self._enter(segment, packets)
        return True

    def take(self) -> list[Packet] | None:
        """The oldest record not yet handed out; it stays on disk until `answered`."""
        for segment in self._segments:
            if segment.read < segment.size:
                with segment.path.open("rb") as file:
                    file.seek(segment.read)
                    packets, segment.read = next(_records(file, segment.read), ([], 0))
                if not packets:
                    raise LinkError(f"spill: {segment.path}: changed by somebody else")
                for _ in packets[0].samples:
                    self._waiting.popleft()
                return packets
        return None

    def answered(self, samples: range) -> None:
        """Forget what was one record; a segment goes when its last one does."""
        for segment in self._segments:
            if samples[0] in segment.unanswered:
                segment.unanswered.difference_update(samples)
                break
        while self._segments and not self._segments[0].unanswered:
            if len(self._segments) == 1:
                self._close_writer()
            self._segments.popleft().path.unlink(missing_ok=True)

    def _enter(self, segment: _Segment, packets: list[Packet]) -> None:
        segment.unanswered.update(packets[0].samples)
        self._waiting += packets[0].samples

    def close(self) -> None:
        """Write through to the disk. What was not answered stays for the next time."""
        self._close_writer()

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
        segment = _Segment(path, len(self._header), read=len(self._header))
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
                    f"spill: {path}: holds samples of another bundle; deliver them with that "
                    "bundle, or remove the file"
                )
            segment = _Segment(path, len(self._header), read=len(self._header))
            if header == self._header:
                for packets, end in _records(file, len(self._header)):
                    segment.size = end
                    self._enter(segment, packets)
        if not segment.unanswered:
            path.unlink()
            return
        if path.stat().st_size != segment.size:
            log.warning("spill: %s: the torn end is cut off", path)
            os.truncate(path, segment.size)
        self._segments.append(segment)


def _record(packets: list[Packet]) -> bytes:
    body = b"".join(
        _PACKET.pack(one.sample, one.step, one.codec, one.more, len(one.payload)) + one.payload
        for one in packets
    )
    return _RECORD.pack(len(body), zlib.crc32(body)) + body


def _records(file: BinaryIO, offset: int) -> Iterator[tuple[list[Packet], int]]:
    """Records' packets with the offset behind each, up to the first that is not whole."""
    while len(head := file.read(_RECORD.size)) == _RECORD.size:
        length, crc = _RECORD.unpack(head)
        if length > MAX_RECORD_BYTES:
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
        yield packets, offset


def _packets(body: bytes) -> list[Packet]:
    packets, at = [], 0
    while at < len(body):
        sample, step, codec, more, size = _PACKET.unpack_from(body, at)
        at += _PACKET.size + size
        packets.append(Packet(sample, step, codec, body[at - size : at], more))
    return packets
