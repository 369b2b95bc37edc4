"""How many bits codes take where several samples share a payload."""

from __future__ import annotations

import numpy as np

from splitcore.codec import registry
from splitcore.codec.context import CodeContext

GROUP = 16  # samples in a payload, beside samples alone
SIZED = 1000  # samples whose sizes, in groups and as JPEG images, are averaged


def grouped_bits(code_ntchw: np.ndarray, known: CodeContext) -> float:
    """Mean payload bits a sample where `GROUP` of them share each; neighbours are drawn by lot, so
    that no order of the images helps."""
    shuffled = np.random.default_rng(0).permutation(code_ntchw)
    groups = [shuffled[at : at + GROUP] for at in range(0, len(shuffled), GROUP)]
    payloads = [registry.encode_best(np.concatenate(group), known)[1] for group in groups]
    return 8 * sum(map(len, payloads)) / len(shuffled)
