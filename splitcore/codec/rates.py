"""Codec 4: every spike range-coded at its channel's firing rate, by constriction.

The rates are the bundle's, as whole 65536ths. The payload is the shortest byte string inside the
coder's final interval; bytes behind the end read as zeros.
"""

from __future__ import annotations

import numpy as np
from constriction import stream  # pyright: ignore[reportAttributeAccessIssue]

from splitcore.codec.codec import Codec
from splitcore.codec.context import PROBABILITY_BITS, CodeContext
from splitcore.errors import CodecError

_WORD_BYTES = 4
_STATE_BITS = 64


class Rates(Codec):
    """Close to the entropy of spikes that depend on nothing but their channel."""

    id, name, recoded = 4, "rates", True

    def encode(self, spikes_tchw: np.ndarray, context: CodeContext, past_tchw: np.ndarray) -> bytes:
        """See Codec."""
        encoder = stream.queue.RangeEncoder()
        symbols = spikes_tchw.reshape(-1).astype(np.int32)
        encoder.encode(symbols, _bernoulli(), _probabilities(context, len(spikes_tchw)))
        return _shortest(encoder)

    def decode(
        self, payload: bytes, context: CodeContext, past_tchw: np.ndarray, steps: int
    ) -> np.ndarray:
        """See Codec."""
        probabilities = _probabilities(context, steps)
        words = np.frombuffer(payload + bytes(-len(payload) % _WORD_BYTES), dtype=">u4")
        decoder = stream.queue.RangeDecoder(words.astype(np.uint32))
        try:
            symbols = decoder.decode(_bernoulli(), probabilities)
        except AssertionError as error:  # what constriction raises outside its interval
            raise CodecError(f"rates: {error}") from None
        return symbols.astype(np.uint8).reshape(steps, *context.shape[1:])


def _bernoulli() -> stream.model.Bernoulli:
    return stream.model.Bernoulli(perfect=False)


def _probabilities(context: CodeContext, steps: int) -> np.ndarray:
    _, _, height, width = context.shape
    rates = context.rates_q16 / (1 << PROBABILITY_BITS)
    return np.tile(np.repeat(rates, height * width), steps)


def _shortest(encoder: stream.queue.RangeEncoder) -> bytes:
    """The shortest bytes inside the encoder's interval, as a binary fraction.

    `get_compressed` answers whole 32-bit words, up to eight bytes more than are needed.
    """
    words, (low_tail, size) = encoder.pos()
    sealed = encoder.get_compressed().astype(">u4").tobytes()
    length = max((words + 2) * _WORD_BYTES, len(sealed))
    point = int.from_bytes(sealed.ljust(length, b"\0"), "big")
    shift = 8 * length - 8 * (words + 2) * _WORD_BYTES
    point >>= shift
    length -= shift // 8
    low = point - ((point - low_tail) & ((1 << _STATE_BITS) - 1))
    for dropped in range(_STATE_BITS, -1, -8):
        value = -(-low >> dropped) << dropped
        if value < low + size:
            return value.to_bytes(length, "big").rstrip(b"\0")
    raise AssertionError("an interval of at least one point holds its own low end")
