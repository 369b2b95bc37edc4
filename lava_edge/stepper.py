"""The arithmetic of the leaf, one time step of many samples at once.

Layers see their sources at the same step ("zero delay"), so relays fold away; who needs Lava's
delays adds them outside. State starts at zero in each sample. Two engines, the same integers:

    CompiledStepper   numba kernels, event-driven; the rule
    NumpyStepper      the reference's own routines; where numba is absent, where synapses have
                      delays, and where sums could leave 24 bits and have to wrap
"""

from __future__ import annotations

import logging
import os
from typing import Protocol

import numpy as np

from lava_edge import reference
from measure.counts import Counts, count
from splitcore.graph import Current, Dense, Graph

try:
    from lava_edge import compiled_stepper, kernels
except ImportError:  # numba is optional: the numpy engine is exact, only slower
    compiled_stepper = kernels = None

log = logging.getLogger(__name__)


class Stepper(Protocol):
    """What the leaf needs of an engine. Arrays are (N, C, H, W) of the samples last stepped."""

    def reset(self, samples: int) -> None:
        """Begin new samples, at most as many as the engine was built for."""

    def step(self, frames_nchw: np.ndarray, *, repeated: bool = False) -> None:
        """Advance one time step; `repeated` says that the frames are those of the step before."""

    def spikes(self, layer: str) -> np.ndarray:
        """This step's spikes, uint8."""
        ...

    def current(self, layer: str) -> np.ndarray:
        """This step's u, int32."""
        ...

    def voltage(self, layer: str) -> np.ndarray:
        """This step's v after reset, int32."""
        ...

    def pack(self, layer: str, packed: np.ndarray, step: int) -> None:
        """Set this step's spikes in zeroed bytes (N, …) that hold a sample's as `spikes.pack`."""

    def counts(self) -> Counts:
        """What the samples have done since the last reset."""
        ...


def build(graph: Graph, samples: int, *, states: bool = False, threads: int = 1) -> Stepper:
    """The fastest engine that is exact for this graph, for up to this many samples at once."""
    if compiled_stepper is None:
        reason = "numba is not installed"
    elif (reason := compiled_stepper.unfit(graph)) is None:
        return compiled_stepper.CompiledStepper(graph, samples, states=states, threads=threads)
    log.warning("the leaf runs on numpy: %s", reason)
    return NumpyStepper(graph)


class NumpyStepper:
    """Plain numpy, built from the reference's own synapses: exact, and needs nothing else."""

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._history: dict[str, list[np.ndarray]] = {}
        self._state: dict[str, tuple[np.ndarray, np.ndarray]] = {}

    def reset(self, samples: int) -> None:
        """Begin new samples."""
        shapes = self._graph.shapes
        self._history = {name: [] for name in shapes}
        self._state = {
            layer.name: (
                np.zeros((samples, *shapes[layer.name]), dtype=np.int64),
                np.zeros((samples, *shapes[layer.name]), dtype=np.int64),
            )
            for layer in self._graph.layers
        }

    def step(self, frames_nchw: np.ndarray, *, repeated: bool = False) -> None:
        """Advance all samples by one time step."""
        del repeated
        graph = self._graph
        self._history[graph.input.name].append(frames_nchw)
        for layer in graph.layers:
            drive = sum(self._sum(current) for current in layer.currents)
            spikes, *state = reference.lif_step(layer, np.asarray(drive), *self._state[layer.name])
            self._state[layer.name] = (state[0], state[1])
            self._history[layer.name].append(spikes)

    def _sum(self, current: Current) -> np.ndarray:
        events = self._history[current.source]
        delayed = isinstance(current.synapse, Dense) and current.synapse.delay_oi is not None
        return reference.synaptic_sum(
            current.synapse,
            np.stack(events if delayed else events[-1:], axis=1),
            self._graph.shapes[current.source],
            self._graph.source_max(current.source),
        )[:, -1]

    def spikes(self, layer: str) -> np.ndarray:
        """This step's spikes."""
        return self._history[layer][-1]

    def current(self, layer: str) -> np.ndarray:
        """This step's u."""
        return self._state[layer][0].astype(np.int32)

    def voltage(self, layer: str) -> np.ndarray:
        """This step's v after reset."""
        return self._state[layer][1].astype(np.int32)

    def pack(self, layer: str, packed: np.ndarray, step: int) -> None:
        """Set this step's spikes in packed bytes."""
        spikes = self.spikes(layer)
        sample, place = np.nonzero(spikes.reshape(len(spikes), -1))
        bit = place + step * spikes[0].size
        np.bitwise_or.at(packed, (sample, bit >> 3), (128 >> (bit & 7)).astype(np.uint8))

    def counts(self) -> Counts:
        """What the samples have done since the last reset."""
        stacks = {name: np.stack(steps, axis=1) for name, steps in self._history.items()}
        return count(self._graph, stacks.pop(self._graph.input.name), stacks)


def warm_up() -> None:
    """Load or compile every kernel, so that later steps (and forked processes) find them ready."""
    if compiled_stepper is None or kernels is None:
        return
    try:
        compiled_stepper.touch_kernels()
    except Exception as error:  # a full disk, a damaged cache: neither is needed to compute
        log.warning("compiled kernels are not kept: %s", error)
        kernels.forget_cache()
        compiled_stepper.touch_kernels()


def available_threads() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0))
