"""From the parts of samples, as they travelled, to class scores: decode, then run the tail."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from splitcore.codec.context import CodeContext
from splitcore.codec.registry import Coded, decode, decode_many, warm
from splitcore.errors import CodecError

Scores = Callable[[np.ndarray], np.ndarray]  # uint8 (N, T, C, H, W) -> float32 (N, classes)


class Part(NamedTuple):
    """One payload of a sample: step 0 is all of it, k = 1 … T one time step.

    Where `samples` share the payload it is number `place` of them.
    """

    step: int
    codec: int
    payload: bytes
    samples: int = 1
    place: int = 0

    @property
    def whole(self) -> Coded:
        """It as what `decode_many` takes, if it is all of the sample."""
        return Coded(self.codec, self.payload, self.samples, self.place)


Parts = tuple[Part, ...]  # one sample: one whole part, or T steps in order


@dataclass(frozen=True, eq=False)
class Scored:
    """What became of N samples: scores_nk float32 (N, classes), and the errors by place in 0 … N-1.

    The scores of a sample with an error mean nothing.
    """

    scores_nk: np.ndarray
    errors: Mapping[int, CodecError] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.scores_nk)

    def between(self, first: int, last: int) -> Scored:
        """Samples first … last - 1 as if they had been alone."""
        errors = {k - first: error for k, error in self.errors.items() if first <= k < last}
        return Scored(self.scores_nk[first:last], errors)


class Predictor:
    """Decodes samples of one bundle and scores them as one batch."""

    def __init__(self, context: CodeContext, scores: Scores) -> None:
        self._context, self._scores = context, scores

    def __call__(self, samples: Sequence[Parts]) -> Scored:
        """Scores of each sample, or the CodecError that its payload deserves."""
        # Zeros: a sample that cannot be decoded goes through the model as silence.
        code_ntchw = np.zeros((len(samples), *self._context.shape), dtype=np.uint8)
        errors = self._decode(samples, code_ntchw)
        return Scored(self._scores(code_ntchw), errors)

    def warm(self, samples: int) -> None:
        """Pay for compilation and first allocations before the first samples come."""
        warm(self._context)
        self._scores(np.zeros((samples, *self._context.shape), dtype=np.uint8))

    def _decode(self, samples: Sequence[Parts], out_ntchw: np.ndarray) -> dict[int, CodecError]:
        whole = [place for place, parts in enumerate(samples) if parts[0].step == 0]
        decoded_ntchw = np.zeros((len(whole), *self._context.shape), dtype=np.uint8)
        found = decode_many([samples[at][0].whole for at in whole], self._context, decoded_ntchw)
        out_ntchw[whole] = decoded_ntchw
        errors = {whole[place]: error for place, error in found.items()}
        for place, parts in enumerate(samples):
            if parts[0].step:
                try:
                    self._decode_steps(parts, out_ntchw[place])
                except CodecError as error:
                    errors[place] = error
        return errors

    def _decode_steps(self, parts: Parts, out_tchw: np.ndarray) -> None:
        for t, part in enumerate(parts):
            out_tchw[t] = decode(part.codec, part.payload, self._context, out_tchw[:t], steps=1)[0]
