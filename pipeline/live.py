"""The edge live: a frame a time step goes into the simulator, its spikes go out at once.

    frames ──(bounded)──> Lava ── step's spikes ──> uplink ──> cloud
       ^ a slow cloud stops the uplink, it the simulator, and that the source

The wait from a step's last spike until gRPC has written its encoded bytes is measured.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from lava_edge.runtime import stream
from lava_edge.uplink import Answer, Uplink
from splitcore.bundle import Bundle


@dataclass(frozen=True, eq=False)
class LiveRun:
    """code_ntchw: the spikes that were sent; answers in order.

    to_wire_us: from a step's last spike in the simulator until gRPC's send of its bytes was done.
    """

    code_ntchw: np.ndarray
    answers: tuple[Answer, ...]
    to_wire_us: tuple[float, ...]

    @property
    def to_wire_percentiles_us(self) -> tuple[float, float] | None:
        """Median and 95th percentile; None where no step was timed."""
        if not self.to_wire_us:
            return None
        median, late = np.percentile(self.to_wire_us, (50, 95)).tolist()
        return median, late


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
    spiked_ns: dict[tuple[int, int], int] = {}
    written_ns: dict[tuple[int, int], int] = {}

    def on_written(sample: int, step: int, at_ns: int) -> None:
        written_ns.setdefault((sample, step), at_ns)

    frames = (frame for sample in frames_ntchw for frame in sample)
    with Uplink(server, bundle, on_written=on_written, **access) as uplink:
        steps = stream(bundle.edge_path, frames, manifest.steps)
        bundle.require_unchanged()  # its file has been read
        for step in steps:
            spiked_ns[step.sample, step.step + 1] = step.spiked_ns
            uplink.send_step(step.sample, step.step + 1, step.code_chw)
            code[step.sample, step.step] = step.code_chw
            if step.step + 1 == manifest.steps:
                advance()
        answers = {answer.sample: answer for answer in uplink.answers()}
    # The answer to the last step may overtake gRPC's word that it was written.
    waits = tuple((at_ns - spiked_ns[key]) / 1000 for key, at_ns in written_ns.items())
    return LiveRun(code, tuple(answers[i] for i in range(len(frames_ntchw))), waits)
