"""How well a share is known from so many samples."""

from __future__ import annotations

import math


def wilson_interval(share: float, count: int, z: float = 1.959964) -> tuple[float, float]:
    """95 % confidence interval of a share of `count` trials (Wilson 1927, doi 10.2307/2276774)."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = (
        z
        / (1 + z * z / count)
        * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    )
    return max(0.0, centre - half), min(1.0, centre + half)
