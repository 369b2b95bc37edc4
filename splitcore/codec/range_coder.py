"""A binary range coder in integers, compiled: the same bytes on every machine.

A payload is a binary fraction; bytes behind its end read as zeros. `low` and `size` are the current
interval in units of 2^-40 of the bytes already written, 2^32 < size <= 2^40, so that a probability
of 16 bits loses nothing measurable. A carry runs back through the bytes already written. The coder
ends with the shortest bytes inside its interval.

Arithmetic is int64 throughout: size · 2^16 stays below 2^57, and numba makes a float of int64 and
uint64 together. G. N. N. Martin, "Range encoding", 1979.
"""

from __future__ import annotations

import numpy as np

from splitcore.codec.codec import longest_payload
from splitcore.codec.context import PROBABILITY_BITS
from splitcore.compiled import compiled

TOP_BITS = 40
TOP = 1 << TOP_BITS
BOTTOM = 1 << (TOP_BITS - 8)
TAIL_BYTES = TOP_BITS // 8


def buffer_for(spikes: int) -> np.ndarray:
    """Room for the longest payload."""
    return np.zeros(longest_payload(spikes), dtype=np.uint8)


@compiled()
def put(out, at, low, size, bit, p16):
    """Write one bit whose chance of being 1 is p16 / 65536, 0 < p16 < 65536."""
    bound = (size * p16) >> PROBABILITY_BITS
    if bit:
        size = bound
    else:
        low += bound
        size -= bound
        if low >= TOP:
            low -= TOP
            _carry(out, at)
    while size <= BOTTOM:
        out[at] = low >> (TOP_BITS - 8)
        at += 1
        low = (low & (BOTTOM - 1)) << 8
        size <<= 8
    return at, low, size


@compiled()
def _carry(out, at):
    back = at - 1
    while out[back] == 255:
        out[back] = 0
        back -= 1
    out[back] += 1


@compiled()
def finish(out, at, low, size):
    """Write the shortest end; returns the length of the payload."""
    for kept in range(TAIL_BYTES + 1):
        unit = np.int64(1) << (TOP_BITS - 8 * kept)
        value = (low + unit - 1) // unit * unit
        if value < low + size:
            break
    if value >= TOP:
        value -= TOP
        _carry(out, at)
    for _ in range(TAIL_BYTES):
        out[at] = value >> (TOP_BITS - 8)
        value = (value & (BOTTOM - 1)) << 8
        at += 1
    while at > 0 and out[at - 1] == 0:
        at -= 1
    return at


@compiled()
def start(data):
    """The first bytes of a payload as the decoder's offset; returns offset and next place."""
    offset = np.int64(0)
    for at in range(TAIL_BYTES):
        offset = (offset << 8) | (np.int64(data[at]) if at < len(data) else np.int64(0))
    return offset, TAIL_BYTES


@compiled()
def get(data, at, offset, size, p16):
    """Read one bit; returns bit, at, offset, size."""
    bound = (size * p16) >> PROBABILITY_BITS
    if offset < bound:
        bit = np.uint8(1)
        size = bound
    else:
        bit = np.uint8(0)
        offset -= bound
        size -= bound
    while size <= BOTTOM:
        offset = (offset << 8) | (np.int64(data[at]) if at < len(data) else np.int64(0))
        at += 1
        size <<= 8
    return bit, at, offset, size
