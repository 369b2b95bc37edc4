"""From the parts of samples, as they travelled, to class scores: decode, then run the tail."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from splitcore.codec.context import CodeContext
from splitcore.codec.registry import decode, warm
from splitcore.errors import CodecError

Scores = Callable[[np.ndarray], np.ndarray]  # uint8 (N, T, C, H, W) -> float32 (N, classes)
Result = np.ndarray | CodecError  # scores (classes,) of a sample, or why there are none


@dataclass(frozen=True)
class Part:
    """One payload of a sample: step 0 is all of it, k = 1 … T one time step."""

    step: int
    codec: int
    payload: bytes


Parts = tuple[Part, ...]  # one sample: one whole part, or T steps in order


class Predictor:
    """Decodes samples of one bundle and scores them as one batch."""

    def __init__(self, context: CodeContext, scores: Scores) -> None:
        self._context, self._scores = context, scores

    def __call__(self, samples: Sequence[Parts]) -> list[Result]:
        """Scores (classes,) of each sample, or the CodecError that its payload deserves."""
        results: list[Result | None] = [None] * len(samples)
        code_ntchw = np.empty((len(samples), *self._context.shape), dtype=np.uint8)
        good: list[int] = []
        for index, parts in enumerate(samples):
            try:
                self._decode(parts, code_ntchw[len(good)])
                good.append(index)
            except CodecError as error:
                results[index] = error
        if good:
            scores_nk = self._scores(code_ntchw[: len(good)])
            for index, scores_k in zip(good, scores_nk, strict=True):
                results[index] = scores_k
        return [result for result in results if result is not None]

    def warm(self, samples: int) -> None:
        """Pay for compilation and first allocations before the first samples come."""
        warm(self._context)
        self._scores(np.zeros((samples, *self._context.shape), dtype=np.uint8))

    def _decode(self, parts: Parts, out_tchw: np.ndarray) -> None:
        if parts[0].step == 0:
            out_tchw[:] = decode(parts[0].codec, parts[0].payload, self._context)
            return
        for t, part in enumerate(parts):
            out_tchw[t] = decode(part.codec, part.payload, self._context, out_tchw[:t], steps=1)[0]
