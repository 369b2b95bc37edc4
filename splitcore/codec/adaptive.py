"""Codec 5: range coding with probabilities counted from the payload's own past.

Spikes are coded in T, C, H, W order. The context of one is its channel and five spikes before it
(0 where outside):

    bit 0  the neuron to the left          bit 2  the same neuron one step ago
    bit 1  the neuron above                bit 3  the same neuron two steps ago
    bit 4  the same place in the channel before

Each context counts spikes and silences as if it had already seen STRENGTH neurons firing at its
channel's rate (with STRENGTH = 1 and rate 1/2 that is the Krichevsky-Trofimov estimator):

    P(spike) = (spikes + STRENGTH · rate) / (visits + STRENGTH)

in whole 65536ths. Past steps of a stream are counted before the payload's first spike.
"""

from __future__ import annotations

import numpy as np

from splitcore.codec import range_coder
from splitcore.codec.codec import Codec
from splitcore.codec.context import PROBABILITY_BITS, CodeContext
from splitcore.compiled import compiled

STRENGTH = 2
CONTEXTS = 32
_ONE = 1 << PROBABILITY_BITS
_FLOOR = 16


class Adaptive(Codec):
    """Needs no trained model; pays for learning, so it wants payloads of a thousand spikes."""

    id, name, recoded = 5, "adaptive", True

    def encode(self, spikes_tchw: np.ndarray, context: CodeContext, past_tchw: np.ndarray) -> bytes:
        """See Codec."""
        spikes = np.concatenate([past_tchw, spikes_tchw])
        out = range_coder.buffer_for(spikes_tchw.size)
        length = _encode(spikes, len(past_tchw), context.rates_q16, out)
        return out[:length].tobytes()

    def decode(
        self, payload: bytes, context: CodeContext, past_tchw: np.ndarray, steps: int
    ) -> np.ndarray:
        """See Codec."""
        spikes = np.concatenate([past_tchw, np.zeros((steps, *context.shape[1:]), dtype=np.uint8)])
        _decode(spikes, len(past_tchw), context.rates_q16, np.frombuffer(payload, dtype=np.uint8))
        return spikes[len(past_tchw) :]


@compiled()
def _context(spikes, t, c, y, x):
    context = 0
    if x > 0:
        context |= spikes[t, c, y, x - 1]
    if y > 0:
        context |= spikes[t, c, y - 1, x] << 1
    if t > 0:
        context |= spikes[t - 1, c, y, x] << 2
    if t > 1:
        context |= spikes[t - 2, c, y, x] << 3
    if c > 0:
        context |= spikes[t, c - 1, y, x] << 4
    return context


@compiled()
def _tables(rates_q16):
    ones = np.empty((len(rates_q16), CONTEXTS), dtype=np.int64)
    visits = np.full((len(rates_q16), CONTEXTS), STRENGTH, dtype=np.int64)
    for c in range(len(rates_q16)):
        ones[c] = STRENGTH * rates_q16[c]
    return ones, visits


@compiled()
def _probability(ones, visits):
    return min(max(ones // visits, _FLOOR), _ONE - _FLOOR)


@compiled(nogil=True)
def _encode(spikes, first, rates_q16, out):
    ones, visits = _tables(rates_q16)
    at, low, size = 0, np.int64(0), np.int64(range_coder.TOP)
    steps, channels, height, width = spikes.shape
    for t in range(steps):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    bit = spikes[t, c, y, x]
                    k = _context(spikes, t, c, y, x)
                    if t >= first:
                        p16 = _probability(ones[c, k], visits[c, k])
                        at, low, size = range_coder.put(out, at, low, size, bit, p16)
                    ones[c, k] += _ONE * bit
                    visits[c, k] += 1
    return range_coder.finish(out, at, low, size)


@compiled(nogil=True)
def _decode(spikes, first, rates_q16, data):
    ones, visits = _tables(rates_q16)
    offset, at = range_coder.start(data)
    size = np.int64(range_coder.TOP)
    steps, channels, height, width = spikes.shape
    for t in range(steps):
        for c in range(channels):
            for y in range(height):
                for x in range(width):
                    k = _context(spikes, t, c, y, x)
                    if t >= first:
                        p16 = _probability(ones[c, k], visits[c, k])
                        bit, at, offset, size = range_coder.get(data, at, offset, size, p16)
                        spikes[t, c, y, x] = bit
                    else:
                        bit = spikes[t, c, y, x]
                    ones[c, k] += _ONE * bit
                    visits[c, k] += 1
