"""Codec 6: range coding with the context model that the bundle carries.

A spike adds its weights to the log-odds of the spikes it speaks for, as soon as it is known: work
grows with the spikes, not with the context. Nothing is learned from a payload, so a short one pays
nothing for learning.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from splitcore.codec import range_coder
from splitcore.codec.codec import Codec
from splitcore.codec.context import PROBABILITY_BITS, CodeContext
from splitcore.codec.context_model import ODDS_LIMIT, ContextModel, probability_table
from splitcore.compiled import compiled


class Trained(Codec):
    """The best model we know, where the bundle has one; see context_model for its equation."""

    id, name, recoded = 6, "trained", True

    def usable(self, context: CodeContext) -> bool:
        """Whether the bundle carries a context model."""
        return context.model is not None

    def encode(self, spikes_tchw: np.ndarray, context: CodeContext, past_tchw: np.ndarray) -> bytes:
        """See Codec."""
        spikes_thwc = _channels_last(np.concatenate([past_tchw, spikes_tchw]))
        out = range_coder.buffer_for(spikes_tchw.size)
        length = _encode(
            spikes_thwc,
            len(past_tchw),
            context.shape[0],
            *_arrays(context.model),
            probability_table(),
            out,
        )
        return out[:length].tobytes()

    def decode(
        self, payload: bytes, context: CodeContext, past_tchw: np.ndarray, steps: int
    ) -> np.ndarray:
        """See Codec."""
        coming = np.zeros((steps, *context.shape[1:]), dtype=np.uint8)
        spikes_thwc = _channels_last(np.concatenate([past_tchw, coming]))
        data = np.frombuffer(payload, dtype=np.uint8)
        _decode(
            spikes_thwc,
            len(past_tchw),
            context.shape[0],
            *_arrays(context.model),
            probability_table(),
            data,
        )
        return np.ascontiguousarray(spikes_thwc[len(past_tchw) :].transpose(0, 3, 1, 2))

    def decode_many(
        self, payloads: Sequence[bytes], context: CodeContext
    ) -> tuple[np.ndarray, np.ndarray]:
        """See Codec: one compiled call, which other threads need not wait for."""
        steps, channels, height, width = context.shape
        spikes_nthwc = np.zeros((len(payloads), steps, height, width, channels), dtype=np.uint8)
        good = np.empty(len(payloads), dtype=np.bool_)
        _decode_many(
            spikes_nthwc,
            *_arrays(context.model),
            probability_table(),
            np.frombuffer(b"".join(payloads), dtype=np.uint8),
            np.cumsum([len(payload) for payload in payloads], dtype=np.int64),
            range_coder.buffer_for(spikes_nthwc[0].size),
            good,
        )
        return spikes_nthwc.transpose(0, 1, 4, 2, 3), good


def _channels_last(spikes_tchw: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(spikes_tchw.transpose(0, 2, 3, 1))


def _arrays(model: ContextModel | None) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    assert model is not None, "usable() was not asked"
    return model.arrays


@compiled()
def _begin(spikes, t, within, bias, before, older, odds):
    """The log-odds of step t as the steps before it leave them, written into odds (H, W, C).

    within: how many steps of the same sample lie before it.
    """
    _, height, width, channels = spikes.shape
    phase = min(within, len(bias) - 1)
    for y in range(height):
        for x in range(width):
            for c in range(channels):
                odds[y, x, c] = bias[phase, y, x, c]
    if within == 0:
        return
    for y in range(height):
        for x in range(width):
            for source in range(channels):
                if spikes[t - 1, y, x, source]:
                    for tap in range(9):
                        # the source is at (tap // 3 - 1, tap % 3 - 1) as the target sees it
                        ty, tx = y + 1 - tap // 3, x + 1 - tap % 3
                        if 0 <= ty < height and 0 <= tx < width:
                            _speak(odds, ty, tx, before, phase, tap, source)
                for lag in range(2, min(phase, 3) + 1):
                    if spikes[t - lag, y, x, source]:
                        _speak(odds, y, x, older, phase, lag - 2, source)


@compiled()
def _speak(odds, y, x, weights, phase, tap, source):
    """Add a spike's weights to the log-odds of all channels at a place, or of its own alone."""
    spoken_for = weights.shape[3]
    first = source if spoken_for == 1 else 0
    for k in range(spoken_for):
        odds[y, x, first + k] += weights[phase, tap, source, k]


@compiled()
def _spread(odds, now, phase, y, x, source):
    """Add what a spike of this step says about the places still to be coded."""
    height, width, _ = odds.shape
    for c in range(source + 1, now.shape[3]):
        odds[y, x, c] += now[phase, 4, source, c]
    if x + 1 < width:
        _speak(odds, y, x + 1, now, phase, 0, source)
    if y + 1 < height:
        if x + 1 < width:
            _speak(odds, y + 1, x + 1, now, phase, 1, source)
        _speak(odds, y + 1, x, now, phase, 2, source)
        if x > 0:
            _speak(odds, y + 1, x - 1, now, phase, 3, source)


@compiled()
def _probability(odds, table):
    return table[min(max(odds, -ODDS_LIMIT), ODDS_LIMIT) + ODDS_LIMIT]


@compiled(nogil=True)
def _encode(spikes, first, sample_steps, bias, now, before, older, table, out):
    at, low, size = 0, np.int64(0), np.int64(range_coder.TOP)
    steps, height, width, channels = spikes.shape
    odds = np.empty((height, width, channels), dtype=np.int32)
    for t in range(first, steps):
        within = t % sample_steps
        _begin(spikes, t, within, bias, before, older, odds)
        phase = min(within, len(bias) - 1)
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    bit = spikes[t, y, x, c]
                    p16 = _probability(odds[y, x, c], table)
                    at, low, size = range_coder.put(out, at, low, size, bit, p16)
                    if bit:
                        _spread(odds, now, phase, y, x, c)
    return range_coder.finish(out, at, low, size)


@compiled(nogil=True)
def _decode(spikes, first, sample_steps, bias, now, before, older, table, data):
    offset, at = range_coder.start(data)
    size = np.int64(range_coder.TOP)
    steps, height, width, channels = spikes.shape
    odds = np.empty((height, width, channels), dtype=np.int32)
    for t in range(first, steps):
        within = t % sample_steps
        _begin(spikes, t, within, bias, before, older, odds)
        phase = min(within, len(bias) - 1)
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    p16 = _probability(odds[y, x, c], table)
                    bit, at, offset, size = range_coder.get(data, at, offset, size, p16)
                    spikes[t, y, x, c] = bit
                    if bit:
                        _spread(odds, now, phase, y, x, c)


@compiled(nogil=True)
def _decode_many(spikes, bias, now, before, older, table, data, ends, again, good):
    """Payload n, data[ends[n-1]:ends[n]], into spikes[n]; good[n]: it is what encodes them."""
    start, steps = 0, spikes.shape[1]
    for n in range(len(spikes)):
        payload = data[start : ends[n]]
        start = ends[n]
        good[n] = len(payload) <= len(again)
        if not good[n]:
            continue
        _decode(spikes[n], 0, steps, bias, now, before, older, table, payload)
        length = _encode(spikes[n], 0, steps, bias, now, before, older, table, again)
        good[n] = np.array_equal(again[:length], payload)


def code_length(spikes_tchw: np.ndarray, model: ContextModel) -> float:
    """-log2 P(spikes) under the model, with the probabilities that the coder uses."""
    bits_of = -np.log2(probability_table() / (1 << PROBABILITY_BITS))
    return float(_length(_channels_last(spikes_tchw), *model.arrays, bits_of))


@compiled()
def _length(spikes, bias, now, before, older, bits_of):
    total = 0.0
    steps, height, width, channels = spikes.shape
    odds = np.empty((height, width, channels), dtype=np.int32)
    for t in range(steps):
        _begin(spikes, t, t, bias, before, older, odds)
        phase = min(t, len(bias) - 1)
        for y in range(height):
            for x in range(width):
                for c in range(channels):
                    bit = spikes[t, y, x, c]
                    # P(silence) = 1 - P(spike) is the table at the mirrored log-odds
                    total += _probability(odds[y, x, c] if bit else -odds[y, x, c], bits_of)
                    if bit:
                        _spread(odds, now, phase, y, x, c)
    return total
