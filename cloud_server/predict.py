"""From the parts of samples, as they travelled, to class scores: decode, then run the tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from splitcore import spikes
from splitcore.bundle import Manifest
from splitcore.errors import CodecError

Scores = Callable[[np.ndarray], np.ndarray]  # uint8 (N, T, C, H, W) -> float32 (N, classes)


@dataclass(frozen=True)
class Part:
    """One payload of a sample: step 0 is all of it, k = 1 … T one time step."""

    step: int
    codec: int
    payload: bytes


Parts = tuple[Part, ...]  # one sample: one whole part, or T steps in order


class Predictor:
    """Decodes samples of one bundle and scores them as one batch."""

    def __init__(self, manifest: Manifest, scores: Scores) -> None:
        self._shape = manifest.spike_shape
        self._scores = scores

    def __call__(self, samples: Sequence[Parts]) -> list[np.ndarray | CodecError]:
        """Scores (classes,) of each sample, or the CodecError that its payload deserves."""
        found: list[np.ndarray | CodecError] = [CodecError("not decoded")] * len(samples)
        code = np.empty((len(samples), *self._shape), dtype=np.uint8)
        good: list[int] = []
        for index, parts in enumerate(samples):
            try:
                self._decode(parts, code[len(good)])
                good.append(index)
            except CodecError as error:
                found[index] = error
        if good:
            scores_nk = self._scores(code[: len(good)])
            for index, scores_k in zip(good, scores_nk, strict=True):
                found[index] = scores_k
        return found

    def _decode(self, parts: Parts, out_tchw: np.ndarray) -> None:
        for part in parts:
            if part.codec != 1:
                raise CodecError(f"codec: no codec has the id {part.codec}")
            if part.step == 0:
                out_tchw[:] = spikes.unpack(part.payload, self._shape)
            else:
                out_tchw[part.step - 1] = spikes.unpack(part.payload, self._shape[1:])
