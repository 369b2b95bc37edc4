"""The arithmetic of the leaf, one time step of many samples at once.

Layers see their sources at the same step ("zero delay"), so relays fold away; who needs Lava's
delays adds them outside. State starts at zero in each sample.
"""

from __future__ import annotations

import numpy as np

from lava_edge import reference
from measure import counts
from splitcore.graph import Dense, Graph


class NumpyStepper:
    """Plain numpy, built from the reference's own synapses: exact, and needs nothing else."""

    def __init__(self, graph: Graph, steps: int, batch: int) -> None:
        self._graph, self._steps = graph, steps
        self._history: dict[str, list[np.ndarray]] = {}
        self._drives: dict[str, list[np.ndarray]] = {}
        self._state: dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]] = {}

    def reset(self) -> None:
        """Forget all state: a new sample begins."""
        self._history = {name: [] for name in self._graph.shapes}
        self._drives = {layer.name: [] for layer in self._graph.layers}

    def step(self, frames_nchw: np.ndarray) -> None:
        """Advance all samples by one time step."""
        graph = self._graph
        self._history[graph.input.name].append(frames_nchw)
        for layer in graph.layers:
            drive: np.ndarray | int = 0
            for current in layer.currents:
                events = self._history[current.source]
                delayed = (
                    isinstance(current.synapse, Dense) and current.synapse.delay_oi is not None
                )
                stack = np.stack(events if delayed else events[-1:], axis=1)
                drive = (
                    drive
                    + reference.synaptic_sum(
                        current.synapse,
                        stack,
                        graph.shapes[current.source],
                        graph.source_max(current.source),
                    )[:, -1:]
                )
            self._drives[layer.name].append(np.asarray(drive))
            trace = reference.lif(layer, np.concatenate(self._drives[layer.name], axis=1))
            self._state[layer.name] = (trace[0], trace[1], trace[2])
            self._history[layer.name].append(trace[0][:, -1])

    def spikes(self, layer: str) -> np.ndarray:
        """This step's spikes (N, C, H, W) of a layer."""
        return self._state[layer][0][:, -1]

    def current(self, layer: str) -> np.ndarray:
        """This step's u."""
        return self._state[layer][1][:, -1]

    def voltage(self, layer: str) -> np.ndarray:
        """This step's v after reset."""
        return self._state[layer][2][:, -1]

    def counts(self) -> counts.Counts:
        """What the samples have done since the last reset."""
        frames = np.stack(self._history[self._graph.input.name], axis=1)
        spikes = {
            layer.name: np.stack(self._history[layer.name], axis=1) for layer in self._graph.layers
        }
        return counts.count(self._graph, frames, spikes)


Stepper = NumpyStepper


def build(graph: Graph, steps: int, batch: int) -> Stepper:
    """The fastest stepper there is for this graph."""
    return NumpyStepper(graph, steps, batch)
