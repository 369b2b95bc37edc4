"""The edge live: a frame a time step goes into the simulator, its spikes go out at once.

    frames ──(bounded)──> Lava ── step's spikes ──> uplink ──> cloud
       ^ a slow cloud stops the uplink, it the simulator, and that the source

The wait from a step's last spike to its encoded bytes in the uplink's queue is measured.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lava_edge.runtime import stream
from lava_edge.uplink import Answer, Uplink
from splitcore.bundle import Bundle


@dataclass(frozen=True, eq=False)
class LiveRun:
    """code_ntchw: the spikes that were sent; answers in order; hand_over_us of every step."""

    code_ntchw: np.ndarray
    answers: tuple[Answer, ...]
    hand_over_us: tuple[float, ...]

    @property
    def hand_over_percentiles_us(self) -> tuple[float, float]:
        """Median and 95th percentile."""
        cuts = statistics.quantiles(self.hand_over_us, n=20, method="inclusive")
        return statistics.median(self.hand_over_us), cuts[-1]


def run(
    bundle: Bundle,
    frames_ntchw: np.ndarray,
    server: str,
    *,
    advance: Callable[[], object] = lambda: None,
    **access: Any,
) -> LiveRun:
    """Simulate and send step by step; `advance` is called for each sample sent.

    Raises LinkError naming the samples that were lost, SimulationError when the simulator died.
    """
    manifest = bundle.manifest
    code = np.zeros((len(frames_ntchw), *manifest.spike_shape), dtype=np.uint8)
    waits: list[float] = []
    frames = (frame for sample in frames_ntchw for frame in sample)
    with Uplink(server, bundle, **access) as uplink:
        for step in stream(bundle.edge_path, frames, manifest.steps):
            uplink.send_step(step.sample, step.step + 1, step.code_chw)
            waits.append((time.monotonic_ns() - step.spiked_ns) / 1000)
            code[step.sample, step.step] = step.code_chw
            if step.step + 1 == manifest.steps:
                advance()
        answers = {answer.sample: answer for answer in uplink.answers()}
    return LiveRun(code, tuple(answers[i] for i in range(len(frames_ntchw))), tuple(waits))
