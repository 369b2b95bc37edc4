"""Codec 1: one bit a neuron and step."""

from __future__ import annotations

import numpy as np

from splitcore import spikes
from splitcore.codec.codec import Codec
from splitcore.codec.context import CodeContext


class Bitmap(Codec):
    """Eight spikes a byte in T, C, H, W order; the size never depends on the spikes."""

    id, name = 1, "bitmap"

    def encode(self, spikes_tchw: np.ndarray, context: CodeContext, past_tchw: np.ndarray) -> bytes:
        """See Codec."""
        return spikes.pack(spikes_tchw)

    def decode(
        self, payload: bytes, context: CodeContext, past_tchw: np.ndarray, steps: int
    ) -> np.ndarray:
        """See Codec."""
        return spikes.unpack(payload, (steps, *context.shape[1:]))
