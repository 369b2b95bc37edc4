"""The code spikes of many frames, by the integer engine of the cloud half run over the edge half.

It gives the spikes of every other engine (`verify` proves it) an order of magnitude faster than the
numpy reference.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from cloud_server.tail import TailEngine
from splitcore.graph import Graph
from splitcore.tail import Tail

CHUNK = 64  # samples at once, which bounds memory


def code_of(
    graph: Graph, frames_ntchw: np.ndarray, advance: Callable[[int], object] = lambda _count: None
) -> np.ndarray:
    """Spikes (N, T, C, H, W) of the graph's last layer; `advance` is told of samples done."""
    channels, steps = graph.output_shape[0], frames_ntchw.shape[1]
    engine = TailEngine(Tail(graph, np.zeros((1, channels)), np.zeros(1)), steps)
    parts = []
    for start in range(0, len(frames_ntchw), CHUNK):
        parts.append(engine.spikes(frames_ntchw[start : start + CHUNK]))
        advance(len(parts[-1]))
    return np.concatenate(parts)
