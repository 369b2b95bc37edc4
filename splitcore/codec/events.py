"""Codec 2: address events, as the gaps between them.

A spike's address is its index in T, C, H, W order. Each event is the number of silent places since
the event before, as a little-endian base-128 number: 7 bits a byte, the high bit says that more
follow. No spikes, no bytes.
"""

from __future__ import annotations

import numpy as np

from splitcore.codec.codec import Codec
from splitcore.codec.context import CodeContext
from splitcore.errors import CodecError

MAX_BYTES = 4  # of one gap: 28 bits, more than MAX_SPIKES needs


class Events(Codec):
    """Cheap for a few spikes in many places: a byte a spike while gaps stay below 128."""

    id, name = 2, "events"

    def encode(self, spikes_tchw: np.ndarray, context: CodeContext, past_tchw: np.ndarray) -> bytes:
        """See Codec."""
        gaps = np.diff(np.flatnonzero(spikes_tchw), prepend=-1) - 1
        digits = (gaps[:, None] >> (7 * np.arange(MAX_BYTES))) & 127
        sizes = 1 + (gaps[:, None] >> (7 * np.arange(1, MAX_BYTES)) > 0).sum(axis=1)
        place = np.arange(MAX_BYTES)
        more = place < sizes[:, None] - 1
        return (digits | more << 7)[place < sizes[:, None]].astype(np.uint8).tobytes()

    def decode(
        self, payload: bytes, context: CodeContext, past_tchw: np.ndarray, steps: int
    ) -> np.ndarray:
        """See Codec."""
        shape = (steps, *context.shape[1:])
        flat = np.zeros(int(np.prod(shape)), dtype=np.uint8)
        data = np.frombuffer(payload, dtype=np.uint8)
        ends = np.flatnonzero(data < 128)
        if len(data) and (len(ends) == 0 or ends[-1] != len(data) - 1):
            raise CodecError("events: the last event is cut off")
        sizes = np.diff(ends, prepend=-1)
        if (sizes > MAX_BYTES).any() or ((sizes > 1) & (data[ends] == 0)).any():
            raise CodecError("events: a gap is not written in its shortest form")
        starts = ends - sizes + 1
        place = np.arange(len(data)) - np.repeat(starts, sizes)
        digits = (data & 127).astype(np.int64) << (7 * place)
        gaps = np.add.reduceat(digits, starts) if len(starts) else digits
        addresses = np.cumsum(gaps + 1) - 1
        if len(addresses) and addresses[-1] >= len(flat):
            raise CodecError(f"events: an address lies outside shape {shape}")
        flat[addresses] = 1
        return flat.reshape(shape)
