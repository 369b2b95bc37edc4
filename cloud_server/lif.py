"""The LIF recursion over whole batches as one compiled loop: integers in, spikes out."""

from __future__ import annotations

import numpy as np

from splitcore.compiled import compiled
from splitcore.graph import DECAY_UNITY, STATE_SHIFT, Lif


@compiled(nogil=True)
def _run(
    drive_ntm: np.ndarray,
    bias_m: np.ndarray,
    threshold: int,
    current_keep: int,
    voltage_keep: int,
) -> None:
    count, steps, neurons = drive_ntm.shape
    u = np.zeros(neurons, dtype=np.int64)
    v = np.zeros(neurons, dtype=np.int64)
    for n in range(count):
        u[:] = 0
        v[:] = 0
        for t in range(steps):
            row = drive_ntm[n, t]
            for m in range(neurons):
                drive = np.int64(row[m]) << STATE_SHIFT
                if current_keep != 0:
                    kept = abs(u[m]) * current_keep >> 12
                    drive += kept if u[m] >= 0 else -kept
                    u[m] = drive
                kept = abs(v[m]) * voltage_keep >> 12
                voltage = (kept if v[m] >= 0 else -kept) + drive + bias_m[m]
                fired = voltage > threshold
                v[m] = 0 if fired else voltage
                row[m] = 1 if fired else 0


def fire(layer: Lif, drive_ntm: np.ndarray, channels_last: int) -> None:
    """Replace Σ w·s by the layer's spikes, in place; the equations are in `splitcore.graph`.

    drive_ntm: (samples, steps, neurons), floats that hold integers, neurons in H, W, C order;
    channels_last is C. The caller has proved with `splitcore.bounds` that no state leaves 24 bits,
    so that nothing wraps or clips.
    """
    bias = layer.bias.astype(np.int64) << STATE_SHIFT
    _run(
        drive_ntm,
        np.tile(bias, drive_ntm.shape[2] // channels_last),
        layer.threshold << STATE_SHIFT,
        DECAY_UNITY - layer.current_decay,
        DECAY_UNITY - layer.voltage_decay,
    )
