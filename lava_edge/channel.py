"""Bytes between the caller's process and the simulator: length-prefixed records on two pipes.

    caller ── feed: batches of frames ──> simulator ── results: records ──> caller

Both pipes are bounded by the kernel, so a slow reader stops a fast writer: that is all the
backpressure there is. Frames go to the very OS process that needs them and results come straight
from the one that has them; no Lava Process is spent on it.
"""

from __future__ import annotations

import enum
import os
import struct
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from splitcore.errors import SimulationError

_FEED = struct.Struct("<IBBQ")  # samples, spread, bytes a value, bytes
_RESULT = struct.Struct("<BHQHqQ")  # kind, layer, sample, step, monotonic ns, bytes
MAX_PAYLOAD_BYTES = 1 << 32


class Spread(enum.IntEnum):
    """What a batch of frames holds."""

    SAMPLES = 0  # (samples, T, C, H, W)
    STATIC = 1  # (samples, C, H, W): the same in each step
    STEP = 2  # (1, C, H, W): one step of one sample


class Kind(enum.IntEnum):
    """What a record holds. Spikes and states are one sample's (T, C, H, W) of one layer."""

    READY = 0  # compiled and waiting for frames
    SPIKES = 1  # packed, eight a byte
    VOLTAGE = 2  # int32
    CURRENT = 3  # int32
    COUNTS = 4  # int64 (fields of Counts, layers)
    STEP = 5  # packed output spikes (C, H, W) of one step
    ERROR = 6  # text


@dataclass(frozen=True, eq=False)
class Batch:
    """Frames of some samples as they came: see Spread."""

    samples: int
    spread: Spread
    values: bytes
    value_bytes: int

    def frames(self, shape: tuple[int, ...]) -> np.ndarray:
        """The values as (samples, T or 1, C, H, W)."""
        dtype = np.uint8 if self.value_bytes == 1 else np.uint16
        return np.frombuffer(self.values, dtype=dtype).reshape(self.samples, -1, *shape)


@dataclass(frozen=True, eq=False)
class Record:
    """One result with where it belongs."""

    kind: Kind
    layer: int
    sample: int
    step: int
    time_ns: int
    payload: bytes


def pack_batch(frames: np.ndarray, samples: int, spread: Spread) -> list[memoryview]:
    """A batch as the buffers to write."""
    values = np.ascontiguousarray(frames)
    if values.dtype not in (np.uint8, np.uint16):
        raise SimulationError(f"frames: expected uint8 or uint16, got {values.dtype}")
    header = _FEED.pack(samples, spread, values.itemsize, values.nbytes)
    return [memoryview(header), values.data.cast("B")]


def unpack_record(buffer: bytearray) -> Record | None:
    """Take the first record off a buffer, or None while it is not all there."""
    if len(buffer) < _RESULT.size:
        return None
    kind, layer, sample, step, time_ns, size = _RESULT.unpack_from(buffer)
    if kind not in Kind.__members__.values() or size > MAX_PAYLOAD_BYTES:
        raise SimulationError("the simulator sent a damaged record")
    if len(buffer) < _RESULT.size + size:
        return None
    payload = bytes(memoryview(buffer)[_RESULT.size : _RESULT.size + size])
    del buffer[: _RESULT.size + size]
    return Record(Kind(kind), layer, sample, step, time_ns, payload)


class Channel:
    """The simulator's ends of both pipes. `lock` keeps records whole where many processes write."""

    def __init__(
        self, feed_fd: int, result_fd: int, lock: AbstractContextManager[object] | None = None
    ) -> None:
        self._feed_fd, self._result_fd = feed_fd, result_fd
        self._lock = lock or nullcontext()

    def read(self) -> Batch | None:
        """The next batch; None at the end of the frames. Blocks."""
        header = self._read_exactly(_FEED.size)
        if header is None:
            return None
        samples, spread, value_bytes, size = _FEED.unpack(header)
        values = self._read_exactly(size)
        if values is None:
            return None
        return Batch(samples, Spread(spread), values, value_bytes)

    def _read_exactly(self, size: int) -> bytes | None:
        buffer = bytearray(size)
        view = memoryview(buffer)
        done = 0
        while done < size:
            got = os.readv(self._feed_fd, [view[done:]])
            if got == 0:
                return None
            done += got
        return bytes(buffer)

    def write(
        self,
        kind: Kind,
        payload: bytes = b"",
        *,
        layer: int = 0,
        sample: int = 0,
        step: int = 0,
        time_ns: int = 0,
    ) -> None:
        """Send one record whole. Blocks while the caller is slow."""
        header = _RESULT.pack(kind, layer, sample, step, time_ns, len(payload))
        view = memoryview(header + payload)
        with self._lock:
            while view:
                view = view[os.write(self._result_fd, view) :]
