"""Codec contexts and spikes for the tests of this folder and for the fuzz."""

from __future__ import annotations

import numpy as np
from hypothesis import strategies as st

from splitcore.codec.context import CodeContext
from splitcore.codec.context_model import ContextModel, phases
from splitcore.spikes import SpikeShape


def random_model(
    shape: SpikeShape, seed: int, spread: int = 300, alone: bool = False
) -> ContextModel:
    """A model whose log-odds are drawn; spread 32767 draws from all that a file can hold.

    alone: each channel sees itself alone, as in models of wide codes.
    """
    rng = np.random.default_rng(seed)
    steps, channels, height, width = shape
    count = phases(steps)

    def drawn(*size: int) -> np.ndarray:
        return rng.integers(-spread, spread + 1, size).astype(np.int16)

    return ContextModel(
        shape,
        drawn(count, height, width, channels),
        *(drawn(count, taps, channels, 1 if alone else channels) for taps in (5, 9, 2)),
    )


def context(
    shape: SpikeShape, seed: int = 0, rate: float = 0.2, spread: int = 300, alone: bool = False
) -> CodeContext:
    """A context with a random model and the same rate in every channel."""
    return CodeContext(shape, (rate,) * shape[1], random_model(shape, seed, spread, alone))


def spikes(shape: SpikeShape, rate: float, seed: int) -> np.ndarray:
    """Independent spikes, uint8."""
    return (np.random.default_rng(seed).random(shape) < rate).astype(np.uint8)


shapes = st.tuples(st.integers(1, 6), st.integers(1, 5), st.integers(1, 7), st.integers(1, 7))
rates = st.sampled_from([0.0, 1e-9, 0.01, 0.2, 0.5, 0.9, 1.0])
seeds = st.integers(0, 2**32 - 1)
