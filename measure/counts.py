"""What a network did, counted: spikes, synaptic operations, graded products, neuron updates.

A synaptic operation is one event passing one synapse: fan-out is exact, so a spike near a border
passes fewer synapses than one in the middle, and one that a stride skips passes none. Synapses are
structural: a kernel tap inside the map counts whatever its weight, zero included, because the chip
stores and reads it. Operations are booked on the layer that the synapse drives:

    synops[l] = Σ over currents of l with a binary source, over spikes, of fan-out
    macs[l]   = the same over nonzero events of a graded input: products, not additions

Relays, the steps that a shortcut's events wait, are booked apart: events × relays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from splitcore.errors import DataError, GraphError
from splitcore.graph import Conv, ConvTranspose, Dense, Graph, Identity, Shape, Synapse

FIELDS = ("spikes", "synops", "macs", "neuron_updates", "relay_events")


@dataclass(frozen=True, eq=False)
class Counts:
    """Exact counts of N samples through L layers: int64 arrays (N, L), layers in graph order."""

    layers: tuple[str, ...]
    spikes: np.ndarray  # emitted by the layer
    synops: np.ndarray  # binary events arriving through its synapses
    macs: np.ndarray  # nonzero graded events arriving through its synapses
    neuron_updates: np.ndarray  # neurons × steps
    relay_events: np.ndarray  # events × relays they wait in on their way to the layer

    def __post_init__(self) -> None:
        shape = np.shape(self.spikes)
        for name in FIELDS:
            array = np.asarray(getattr(self, name), dtype=np.int64)
            if array.ndim != 2 or array.shape != shape or array.shape[1] != len(self.layers):
                raise DataError(
                    f"counts: {name}: expected shape (N, {len(self.layers)}), got {array.shape}"
                )
            object.__setattr__(self, name, array)

    def __len__(self) -> int:
        """Samples."""
        return len(self.spikes)

    def take(self, samples: np.ndarray) -> Counts:
        """The counts of these samples."""
        return Counts(self.layers, *(getattr(self, name)[samples] for name in FIELDS))

    def followed_by(self, other: Counts) -> Counts:
        """The same samples through these layers and then the other's."""
        return Counts(
            (*self.layers, *other.layers),
            *(np.hstack([getattr(self, name), getattr(other, name)]) for name in FIELDS),
        )

    def total(self) -> dict[str, int]:
        """Each field summed over all samples and layers."""
        return {name: int(getattr(self, name).sum()) for name in FIELDS}


def concatenate(parts: Sequence[Counts]) -> Counts:
    """The samples of all parts, one after the other."""
    if not parts or any(part.layers != parts[0].layers for part in parts):
        raise DataError("counts: expected at least one part, all of the same layers")
    return Counts(
        parts[0].layers, *(np.concatenate([getattr(p, name) for p in parts]) for name in FIELDS)
    )


def fan_out(synapse: Synapse, source: Shape) -> np.ndarray:
    """Synapses that leave each neuron of a source (C, H, W): int64, broadcasts to that shape."""
    target = synapse.output_shape(source)
    match synapse:
        case Identity():
            return np.ones((1, 1, 1), dtype=np.int64)
        case Dense(weight_oi=weight):
            return np.full((1, 1, 1), len(weight), dtype=np.int64)
        case Conv(weight_oihw=weight):
            rows, columns = (
                _taps(target[axis + 1], weight.shape[2 + axis], stride, dilation, pad, size)
                for axis, (stride, dilation, pad, size) in enumerate(
                    zip(synapse.stride, synapse.dilation, synapse.padding, source[1:], strict=True)
                )
            )
            return (rows[:, None] * columns[None, :] * (len(weight) // synapse.groups))[None]
        case ConvTranspose(weight_iohw=weight):
            rows, columns = (
                _transposed_taps(source[axis + 1], weight.shape[2 + axis], stride, pad, size)
                for axis, (stride, pad, size) in enumerate(
                    zip(synapse.stride, synapse.padding, target[1:], strict=True)
                )
            )
            return (rows[:, None] * columns[None, :] * weight.shape[1])[None]
        case _:
            raise GraphError(f"fan-out: no such synapse {type(synapse).__name__}")


def _taps(out: int, kernel: int, stride: int, dilation: int, pad: int, size: int) -> np.ndarray:
    """How many (output, tap) pairs read each of `size` places along one axis."""
    places = (np.arange(out)[:, None] * stride + np.arange(kernel)[None] * dilation - pad).ravel()
    return np.bincount(places[(places >= 0) & (places < size)], minlength=size)


def _transposed_taps(size: int, kernel: int, stride: int, pad: int, out: int) -> np.ndarray:
    places = np.arange(size)[:, None] * stride + np.arange(kernel)[None] - pad
    return ((places >= 0) & (places < out)).sum(axis=1)


def count(graph: Graph, frames_ntchw: np.ndarray, spikes: dict[str, np.ndarray]) -> Counts:
    """Exact counts of a run: input events (N, T, C, H, W) and each layer's spikes by name."""
    frames = np.asarray(frames_ntchw)
    if frames.ndim != 5 or frames.shape[2:] != graph.input.shape:
        raise DataError(f"frames: expected (N, T, *{graph.input.shape}), got {frames.shape}")
    samples, steps = frames.shape[:2]
    names = tuple(layer.name for layer in graph.layers)
    for name in names:
        expected = (samples, steps, *graph.shapes[name])
        if name not in spikes or spikes[name].shape != expected:
            got = spikes[name].shape if name in spikes else "none"
            raise DataError(f"spikes of layer {name}: expected shape {expected}, got {got}")
    # events[source] (N, C, H, W): in how many steps each neuron sent something
    events = {name: np.count_nonzero(spikes[name], axis=1) for name in names}
    events[graph.input.name] = np.count_nonzero(frames, axis=1)
    fields = {name: np.zeros((samples, len(names)), dtype=np.int64) for name in FIELDS}
    for index, layer in enumerate(graph.layers):
        fields["spikes"][:, index] = events[layer.name].sum(axis=(1, 2, 3))
        fields["neuron_updates"][:, index] = steps * np.prod(graph.shapes[layer.name])
        for current in layer.currents:
            sent = events[current.source]
            passed = (sent * fan_out(current.synapse, graph.shapes[current.source])).sum((1, 2, 3))
            graded = current.source == graph.input.name and graph.input.message_bits > 0
            fields["macs" if graded else "synops"][:, index] += passed
            relayed = sent.sum(axis=(1, 2, 3)) * graph.relays(layer, current)
            fields["relay_events"][:, index] += relayed
    return Counts(names, **fields)
