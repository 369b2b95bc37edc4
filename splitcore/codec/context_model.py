"""The trained context model: what a code spike's past says about it, as a few integers.

Spikes are coded in T, H, W, C order (at one place all channels follow each other). The log-odds of
a spike, in 256ths, is a bias plus one weight for each spike among

    now      the same step: the places to the left, above left, above, above right (all channels),
             and the earlier channels at the same place
    before   one step ago: the 3 × 3 places around (all channels)
    older    two and three steps ago: the same place (all channels)

In a model of wide codes each channel sees itself alone there: its weights then grow with the
channels and not with their square. Each of the first steps has weights of its own (its "phase": 0,
1, 2, 3 and later), and a bias for each neuron. P(spike) = 1 / (1 + exp(-log-odds)), in whole
65536ths from a table that is computed in decimal arithmetic, so that no machine's exp can make two
sides disagree.
"""

from __future__ import annotations

import decimal
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from splitcore.errors import BundleError, CodecError
from splitcore.spikes import SpikeShape
from splitcore.tensors import load_tensors, save_tensors

FORMAT = "spikebottlenet-context-1"
_TENSORS = ("bias", "now", "before", "older")  # in the file, in the order of the fields
MAX_PHASES = 4
MAX_CHANNELS = 2048  # sums of int16 weights then stay inside int32
ODDS_UNITY = 256  # weights are log-odds in these parts
ODDS_LIMIT = 11 * ODDS_UNITY  # P between 1.1 and 65534.9 of 65536: never 0 or 1
NOW_OFFSETS = ((0, -1), (-1, -1), (-1, 0), (-1, 1), (0, 0))  # (y, x) of the source
BEFORE_OFFSETS = tuple((y, x) for y in (-1, 0, 1) for x in (-1, 0, 1))


def phases(steps: int) -> int:
    """How many phases a code of this many steps has."""
    return min(steps, MAX_PHASES)


@dataclass(frozen=True, eq=False)
class ContextModel:
    """Weights as int16 (phase, tap, source channel, coded channel); bias_phwc for each neuron.

    shape: (T, C, H, W) of the code. P = phases(T).
    bias_phwc (P, H, W, C), now_pkcc (P, 5, C, S), before_pkcc (P, 9, C, S) and
    older_pkcc (P, 2, C, S); S is C, or 1 where a channel's spikes speak for itself alone.
    """

    shape: SpikeShape
    bias_phwc: np.ndarray
    now_pkcc: np.ndarray
    before_pkcc: np.ndarray
    older_pkcc: np.ndarray

    def __post_init__(self) -> None:
        steps, channels, height, width = self.shape
        if channels > MAX_CHANNELS:
            raise CodecError(
                f"context model: expected at most {MAX_CHANNELS} channels, got {channels}"
            )
        count = phases(steps)
        spoken_for = 1 if self.now_pkcc.shape[-1:] == (1,) else channels
        expected = {
            "bias_phwc": (count, height, width, channels),
            "now_pkcc": (count, len(NOW_OFFSETS), channels, spoken_for),
            "before_pkcc": (count, len(BEFORE_OFFSETS), channels, spoken_for),
            "older_pkcc": (count, MAX_PHASES - 2, channels, spoken_for),
        }
        for name, shape in expected.items():
            array = np.asarray(getattr(self, name))
            if array.dtype != np.int16 or array.shape != shape:
                raise CodecError(
                    f"context model: {name}: expected int16 {shape}, "
                    f"got {array.dtype} {array.shape}"
                )
            object.__setattr__(self, name, np.ascontiguousarray(array))

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """bias, now, before, older."""
        return self.bias_phwc, self.now_pkcc, self.before_pkcc, self.older_pkcc


def save(model: ContextModel, path: Path) -> None:
    """Write the model as one safetensors file."""
    tensors: dict[str, np.ndarray] = dict(zip(_TENSORS, model.arrays, strict=True))
    save_tensors(tensors, path, {"format": FORMAT})


def load(path: Path, shape: SpikeShape) -> ContextModel:
    """Read what `save` wrote for a code of this shape. Raises BundleError naming the file."""
    metadata, tensors = load_tensors(path)
    if metadata.get("format") != FORMAT:
        raise BundleError(f"{path}: expected format {FORMAT}, got {metadata.get('format')!r}")
    try:
        return ContextModel(shape, *(tensors[name] for name in _TENSORS))
    except KeyError as error:
        raise BundleError(f"{path}: tensor {error} is missing") from None
    except CodecError as error:
        raise BundleError(f"{path}: {error}") from None


@lru_cache(maxsize=1)
def probability_table() -> np.ndarray:
    """P(spike) · 65536, rounded, for log-odds -ODDS_LIMIT … ODDS_LIMIT; int64, read-only."""
    with decimal.localcontext(decimal.Context(prec=28)):
        falling = [(-decimal.Decimal(odds) / ODDS_UNITY).exp() for odds in range(ODDS_LIMIT + 1)]
        rising = [int((65536 / (1 + value)).to_integral_value()) for value in falling]
    table = np.array([65536 - p16 for p16 in rising[:0:-1]] + rising, dtype=np.int64)
    table.setflags(write=False)
    return table
