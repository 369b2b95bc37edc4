"""What edge and cloud both know before a payload arrives."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from splitcore.bundle import MANIFEST, Bundle
from splitcore.codec import context_model
from splitcore.codec.context_model import ContextModel
from splitcore.errors import BundleError, CodecError
from splitcore.packet import MAX_GROUP
from splitcore.spikes import SpikeShape, check_spikes

MAX_SPIKES = 1 << 24  # of one tensor; bounds what any payload can make us allocate
PROBABILITY_BITS = 16
RATE_FLOOR = 1 << 4  # of 2^16: a channel said to be silent may still fire, for 12 bits


@dataclass(frozen=True, eq=False)
class CodeContext:
    """shape (T, C, H, W) of one sample, firing rates of its C channels, the trained model if any.

    Raises CodecError when they do not fit together.
    """

    shape: SpikeShape
    rates: tuple[float, ...]
    model: ContextModel | None = None

    def __post_init__(self) -> None:
        if len(self.shape) != 4 or min(self.shape) < 1 or math.prod(self.shape) > MAX_SPIKES:
            raise CodecError(
                f"codec: expected positive (T, C, H, W) of at most {MAX_SPIKES} spikes, "
                f"got {self.shape}"
            )
        rates = tuple(float(rate) for rate in self.rates)
        if len(rates) != self.shape[1] or not all(0 <= rate <= 1 for rate in rates):
            raise CodecError(f"codec: expected {self.shape[1]} rates in [0, 1], got {self.rates}")
        if self.model is not None and self.model.shape != tuple(self.shape):
            raise CodecError(
                f"codec: the context model is for {self.model.shape}, the code is {self.shape}"
            )
        object.__setattr__(self, "shape", tuple(int(size) for size in self.shape))
        object.__setattr__(self, "rates", rates)

    @cached_property
    def rates_q16(self) -> np.ndarray:
        """Rates as whole 65536ths, int64 (C,), kept away from 0 and 1: the same on any machine."""
        rates = np.rint(np.asarray(self.rates) * (1 << PROBABILITY_BITS)).astype(np.int64)
        return np.clip(rates, RATE_FLOOR, (1 << PROBABILITY_BITS) - RATE_FLOOR)

    def past(self, past_tchw: np.ndarray | None) -> np.ndarray:
        """The steps already known to both sides, checked; none when not given."""
        if past_tchw is None:
            return np.zeros((0, *self.shape[1:]), dtype=np.uint8)
        if past_tchw.ndim != 4 or len(past_tchw) >= self.shape[0]:
            raise CodecError(
                f"codec: expected fewer than {self.shape[0]} past steps, "
                f"got shape {past_tchw.shape}"
            )
        return check_spikes(past_tchw, (len(past_tchw), *self.shape[1:]))

    def check_steps(self, steps: int, past: int) -> None:
        """Raise CodecError where so many steps behind so many are no part of a sample, nor a group.

        A group is k whole samples: k·T steps with none before.
        """
        total = self.shape[0]
        if 1 <= steps <= total - past:
            return
        whole = past == 0 and steps > 0 and steps % total == 0
        if not whole or steps // total > largest_group(self.shape):
            raise CodecError(
                f"codec: {steps} steps behind {past} are neither a part of {total} nor 1 … "
                f"{largest_group(self.shape)} whole samples"
            )


def largest_group(shape: SpikeShape) -> int:
    """How many samples of this shape may share a payload: together they hold MAX_SPIKES at most."""
    return min(MAX_GROUP, MAX_SPIKES // math.prod(shape))


def of_bundle(bundle: Bundle) -> CodeContext:
    """What a bundle says of its code. Raises BundleError naming the file that makes no sense."""
    manifest, path = bundle.manifest, bundle.context_path
    model = context_model.load(path, manifest.spike_shape) if path else None
    try:
        return CodeContext(manifest.spike_shape, manifest.code_rates, model)
    except CodecError as error:
        raise BundleError(f"{bundle.path / MANIFEST}: {error}") from None
