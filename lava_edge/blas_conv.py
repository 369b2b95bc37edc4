"""An exact `lava.proc.conv.utils.conv` that sums in BLAS instead of per channel pair.

Lava's own routine convolves every pair of channels on its own. This one gathers the kernel taps and
multiplies once a group, in floats that hold every integer they can meet: float32 while no sum can
reach 2^24, float64 beyond. The same integers come out; a test compares both.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from splitcore.bounds import FLOAT32_EXACT


def conv(
    input_: np.ndarray,
    weight: np.ndarray,
    kernel_size: Any,
    stride: Any,
    padding: Any,
    dilation: Any,
    groups: int,
) -> np.ndarray:
    """Lava's arguments: input (W, H, C), weight (O, kW, kH, I/groups); a true convolution."""
    (kw, kh), (sx, sy) = (tuple(int(v) for v in pair) for pair in (kernel_size, stride))
    (px, py), (dx, dy) = (tuple(int(v) for v in pair) for pair in (padding, dilation))
    events = np.asarray(input_)
    largest = int(np.abs(events).max(initial=0)) if events.dtype != np.bool_ else 1
    reach = int(np.abs(weight.reshape(len(weight), -1)).sum(axis=1).max()) * largest
    dtype = np.float32 if reach < FLOAT32_EXACT else np.float64
    padded = np.pad(events.astype(dtype), ((px, px), (py, py), (0, 0)))
    width = (padded.shape[0] - dx * (kw - 1) - 1) // sx + 1
    height = (padded.shape[1] - dy * (kh - 1) - 1) // sy + 1
    # A convolution flips its kernel: tap (i, j) meets weight (kw - 1 - i, kh - 1 - j).
    taps = np.stack(
        [
            padded[i * dx :, j * dy :][: sx * (width - 1) + 1 : sx, : sy * (height - 1) + 1 : sy]
            for i in range(kw)
            for j in range(kh)
        ],
        axis=2,
    )
    flipped = weight[:, ::-1, ::-1].reshape(groups, len(weight) // groups, kw * kh, -1)
    taps = taps.reshape(width * height, kw * kh, groups, -1)
    out = np.einsum("pkgc,gokc->pgo", taps, flipped.astype(dtype), optimize=True)
    return out.reshape(width, height, len(weight)).astype(weight.dtype)


def install() -> None:
    """Make every Conv process that is built from now on use it. Call before the runtime forks."""
    from lava.proc.conv import utils

    utils.conv = conv
