"""The compiled engine of the leaf: event-driven numba kernels over padded, channels-last state.

Each layer's spikes are kept as a sorted list of events a sample; each current picks its kernel once
and its way (scatter or gather) in every step. Samples go through all layers a few at a time so that
their state stays in cache, and are spread over threads: the kernels run without the GIL.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from lava_edge import kernels
from lava_edge.layout import drive_shape, margin, scatters
from measure.counts import Counts, fan_out
from splitcore.graph import (
    DECAY_UNITY,
    STATE_LIMIT,
    STATE_SHIFT,
    Conv,
    ConvTranspose,
    Current,
    Dense,
    Graph,
    Identity,
    Input,
    Lif,
    Shape,
    Synapse,
    whole_vectors,
)

# Scattering wins while events × vectors a kernel < this × rows of fields that gathering visits.
# Measured on Zen 4; the higher figure is for the unrolled kernel of 3×3 with 16 channels.
SCATTER_COST, SCATTER_COST_UNROLLED = 6, 12
MAX_WEIGHT_BYTES = 1 << 28  # of a grouped convolution with the zeros between its groups
CHUNK = 4  # samples that go through all layers together, so that their state stays in cache


def unfit(graph: Graph) -> str | None:
    """Why the compiled engine cannot run this graph, or None."""
    for layer in graph.layers:
        total = 0
        for current in layer.currents:
            synapse = current.synapse
            if isinstance(synapse, ConvTranspose):
                return f"layer {layer.name} is a transposed convolution"
            if isinstance(synapse, Dense) and synapse.delay_oi is not None:
                return f"layer {layer.name} has synapses with delays"
            weight = _weight_of(synapse)
            reach = int(np.abs(weight.reshape(len(weight), -1)).sum(axis=1).max())
            total += reach * graph.source_max(current.source)
            if _expanded_bytes(graph, layer, current) > MAX_WEIGHT_BYTES:
                return f"the grouped weights of layer {layer.name} would need too much memory"
        if total >= STATE_LIMIT:
            return f"the sums of layer {layer.name} could leave 24 bits"
    return None


def _weight_of(synapse: object) -> np.ndarray:
    match synapse:
        case Identity(weight=weight):
            return np.array([[weight]])
        case Dense(weight_oi=weight):
            return weight
        case Conv(weight_oihw=weight):
            return weight
    raise AssertionError(f"no such synapse: {synapse}")


def _expanded_bytes(graph: Graph, layer: Lif, current: Current) -> int:
    """What the kernels' copy of a grouped convolution takes: zeros between its groups included."""
    sources, targets = graph.shapes[current.source][0], graph.shapes[layer.name][0]
    groups = _groups(current.synapse, sources)
    if groups == 1 or _is_depthwise(graph, layer, current):
        return 0
    taps = math.prod(_weight_of(current.synapse).shape[2:])
    return 2 * taps * whole_vectors(sources) * whole_vectors(targets)


def _groups(synapse: Synapse, sources: int) -> int:
    match synapse:
        case Identity():
            return sources
        case Conv(groups=groups):
            return groups
        case _:
            return 1


def _is_depthwise(graph: Graph, layer: Lif, current: Current) -> bool:
    """Whether the depthwise kernel runs this current; what comes from the input it does not."""
    sources, targets = graph.shapes[current.source][0], graph.shapes[layer.name][0]
    apart = not isinstance(current.synapse, Dense) and current.source != graph.input.name
    return apart and _groups(current.synapse, sources) == sources == targets


def _aligned(shape: tuple[int, ...], dtype: type[np.generic]) -> np.ndarray:
    """Zeros that begin on a cache line, so that no vector of a pixel straddles two."""
    size = math.prod(shape) * np.dtype(dtype).itemsize
    raw = np.zeros(size + 64, dtype=np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + size].view(dtype).reshape(shape)


@dataclass(eq=False)
class _Source:
    """Events of the input or a layer, a list a sample; starts says where each pixel's begin."""

    shape: Shape
    channels: int  # padded
    events: np.ndarray
    starts: np.ndarray
    values: np.ndarray  # of a graded input; else a stand-in
    spikes: np.ndarray


class _Layer:
    """The state of one layer and its currents, ready for the kernels."""

    def __init__(self, graph: Graph, layer: Lif, index: int, samples: int, states: bool) -> None:
        self.layer, self.index = layer, index
        self.shape = graph.shapes[layer.name]
        channels, height, width = self.shape
        self.channels = whole_vectors(channels)
        self.size = height * width * self.channels
        margin_y, margin_x = margin(layer)
        rows, columns, _ = drive_shape(graph, layer)
        self.pitch = columns * self.channels
        self.origin = margin_y * self.pitch + margin_x * self.channels
        self.drive_size = rows * self.pitch
        self.states = states
        filtered = states or layer.current_decay < DECAY_UNITY
        self.voltage = _aligned((samples, self.size), np.int32)
        self.current = np.zeros((samples, self.size if filtered else 1), dtype=np.int32)
        self.spikes = np.zeros((samples, self.size), dtype=np.uint8)
        self.words = self.spikes.view(np.uint64)
        self.events = np.zeros((samples, self.size + 8), dtype=np.int32)
        self.starts = np.zeros((samples, height * width + 1), dtype=np.int32)
        self.emitted = np.zeros(samples, dtype=np.int64)
        self.touched = np.zeros(samples, dtype=np.uint8)
        self.busy = np.zeros(samples, dtype=np.uint8)
        bias = np.zeros(self.channels, dtype=np.int32)
        bias[:channels] = layer.bias << STATE_SHIFT
        self.bias_row = np.tile(bias, width)
        self.constants = (
            layer.voltage_decay,
            layer.current_decay,
            layer.threshold << STATE_SHIFT,
            int(filtered),
            int(layer.bias.any()),
            self.channels // 8,
            self.pitch,
            self.origin,
        )

    def source(self) -> _Source:
        """Its spikes as events for others."""
        return _Source(
            self.shape, self.channels, self.events, self.starts, self.events, self.spikes
        )

    def nchw(self, array: np.ndarray, samples: int) -> np.ndarray:
        """A flat array of this layer as (N, C, H, W), a copy."""
        channels, height, width = self.shape
        pixels = array[:samples].reshape(samples, height, width, self.channels)
        return np.array(pixels[..., :channels].transpose(0, 3, 1, 2), order="C")


class _Sum:
    """One current: which kernel runs on which weights."""

    def __init__(self, graph: Graph, part: _Layer, current: Current, source: _Source) -> None:
        self.source = source
        layer = part.layer
        self.from_input = current.source == graph.input.name
        self.graded = self.from_input and graph.input.message_bits > 0
        shape = source.shape
        synapse = current.synapse
        if isinstance(synapse, Identity):
            synapse = synapse.as_conv(shape[0])
        target = graph.shapes[layer.name]
        out_channels = whole_vectors(target[0])
        fan = np.broadcast_to(fan_out(synapse, shape), (1, *shape[1:]))
        self.fan = np.ascontiguousarray(fan.reshape(-1))
        self.depthwise = _is_depthwise(graph, layer, current)
        if isinstance(synapse, Dense):
            by_place = synapse.weight_oi.reshape(-1, *shape)
            geometry = (*shape[1:], 1, 1, 0, 0, 1, 1, 1, 1)
        else:
            assert isinstance(synapse, Conv)
            by_place = synapse.weight_oihw if self.depthwise else _ungrouped(synapse)
            kernel = synapse.weight_oihw.shape[2:]
            geometry = (
                *kernel,
                *synapse.stride,
                *synapse.padding,
                *synapse.dilation,
                *target[1:],
            )
        self.geometry = tuple(
            int(size)
            for size in (
                *(*shape[1:], source.channels, *geometry, out_channels),
                *(part.pitch, part.origin),
            )
        )
        self._prepare_scatter(synapse)
        self.weight = _taps_first(by_place, 1 if self.depthwise else source.channels, out_channels)

    def _prepare_scatter(self, synapse: Synapse) -> None:
        _, width, channels, kernel_y, kernel_x = self.geometry[:5]
        out_height, out_width, out_channels = self.geometry[11:14]
        if not (scatters(synapse) and isinstance(synapse, Conv)):
            self.flipped = np.zeros(1, dtype=np.int16)
            self.places = self.rows = np.zeros(1, dtype=np.int32)
            self.few = 0
            return
        weight = synapse.weight_oihw[:, :, ::-1, ::-1].transpose(1, 2, 3, 0)
        padded = np.zeros((channels, kernel_y, kernel_x, out_channels), dtype=np.int16)
        padded[: weight.shape[0], :, :, : weight.shape[3]] = weight
        self.flipped = padded.reshape(-1)
        along = np.arange(width * channels)
        self.places = (along // channels * out_channels).astype(np.int32)
        self.rows = (along % channels * padded[0].size).astype(np.int32)
        vectors = padded[0].size // 16
        visits = out_height * out_width * kernel_y * -(-out_channels // 64)
        unrolled = kernel_y == 3 and kernel_x * out_channels == 48
        cost = SCATTER_COST_UNROLLED if unrolled else SCATTER_COST
        self.few = cost * visits // vectors

    def add(
        self, lo: int, hi: int, drive: np.ndarray, touched: np.ndarray, passed: np.ndarray
    ) -> None:
        """Run the kernel for samples lo … hi; drive starts at lo."""
        source = self.source
        if self.graded:
            kernels.gather_graded(
                source.events, source.values, source.starts, lo, hi,
                self.geometry, self.weight, self.fan, drive, touched, passed,
            )  # fmt: skip
            return
        if not self.depthwise:
            kernels.gather(
                source.events, source.starts, lo, hi, self.geometry, self.weight, self.flipped,
                self.places, self.rows, self.few, self.fan, drive, touched, passed,
            )  # fmt: skip
            return
        kernels.depthwise(
            source.spikes, source.starts, lo, hi,
            self.geometry, self.weight, self.fan, drive, touched, passed,
        )  # fmt: skip


def _ungrouped(synapse: Conv) -> np.ndarray:
    """The same weights (O, I, kH, kW) without groups: zero between them."""
    weight, groups = synapse.weight_oihw, synapse.groups
    if groups == 1:
        return weight
    out, per_group, *kernel = weight.shape
    full = np.zeros((out, per_group * groups, *kernel), dtype=weight.dtype)
    each = out // groups
    for group in range(groups):
        rows = slice(group * each, (group + 1) * each)
        full[rows, group * per_group : (group + 1) * per_group] = weight[rows]
    return full


def _taps_first(weight_oihw: np.ndarray, in_channels: int, out_channels: int) -> np.ndarray:
    """(kH·kW·I, O) int16, flat, both channel axes padded with zeros."""
    out, inputs, height, width = weight_oihw.shape
    padded = np.zeros((height, width, in_channels, out_channels), dtype=np.int16)
    padded[:, :, :inputs, :out] = weight_oihw.transpose(2, 3, 1, 0)
    return padded.reshape(-1)


class CompiledStepper:
    """Event-driven numba kernels; samples are spread over threads, chunk by chunk."""

    def __init__(
        self, graph: Graph, samples: int, *, states: bool = False, threads: int = 1
    ) -> None:
        self._graph = graph
        self._samples = 0
        self._steps = 0
        channels, height, width = graph.input.shape
        inputs = channels * height * width
        self._input = _Source(
            graph.input.shape,
            channels,
            np.zeros((samples, inputs), dtype=np.int32),
            np.zeros((samples, height * width + 1), dtype=np.int32),
            np.zeros((samples, inputs), dtype=np.int32),
            np.zeros((1, 1), dtype=np.uint8),
        )
        self._layers = [
            _Layer(graph, layer, index, samples, states) for index, layer in enumerate(graph.layers)
        ]
        self._by_name = {part.layer.name: part for part in self._layers}
        sources = {graph.input.name: self._input}
        sources.update({part.layer.name: part.source() for part in self._layers})
        self._sums = [
            [_Sum(graph, part, c, sources[c.source]) for c in part.layer.currents]
            for part in self._layers
        ]
        # passed[layer][current]: synapses passed a sample; what the input sends is kept, because a
        # frame that repeats sends the same again.
        self._passed = [[np.zeros(samples, dtype=np.int64) for _ in row] for row in self._sums]
        self._kept = {
            (layer, place): (
                _aligned((samples, self._layers[layer].drive_size), np.int32),
                np.zeros(samples, dtype=np.int64),
            )
            for layer, row in enumerate(self._sums)
            for place, current in enumerate(row)
            if current.from_input
        }
        self._sent = np.zeros(samples, dtype=np.int64)
        largest = max(part.drive_size for part in self._layers)
        self._threads = max(1, threads)
        self._drives = [_aligned((CHUNK, largest), np.int32) for _ in range(self._threads)]
        self._pool = ThreadPoolExecutor(self._threads) if self._threads > 1 else None

    def reset(self, samples: int) -> None:
        """Begin new samples."""
        self._samples, self._steps = samples, 0
        for row in self._passed:
            for passed in row:
                passed.fill(0)
        self._sent.fill(0)

    def step(self, frames_nchw: np.ndarray, *, repeated: bool = False) -> None:
        """Advance all samples by one time step."""
        self._steps += 1
        # One dtype and layout, writable: each other one would be compiled anew.
        frames = np.array(frames_nchw, dtype=np.uint16, order="C")
        parts = min(self._threads, self._samples)
        edges = [self._samples * part // parts for part in range(parts + 1)]

        def run(part: int) -> None:
            self._run(frames, repeated, edges[part], edges[part + 1], self._drives[part])

        self._each(run, parts)

    def _each(self, run: Callable[[int], None], parts: int) -> None:
        if self._pool is None or parts == 1:
            for part in range(parts):
                run(part)
        else:
            list(self._pool.map(run, range(parts)))

    def _run(
        self, frames: np.ndarray, repeated: bool, first: int, last: int, scratch: np.ndarray
    ) -> None:
        for lo in range(first, last, CHUNK):
            hi = min(lo + CHUNK, last)
            if not repeated:
                self._take(frames, lo, hi)
            self._sent[lo:hi] += self._input.starts[lo:hi, -1]
            for part, row, passed in zip(self._layers, self._sums, self._passed, strict=True):
                drive = scratch[:, : part.drive_size]
                for place, current in enumerate(row):
                    kept = self._kept.get((part.index, place))
                    if kept is None:
                        current.add(lo, hi, drive, part.touched, passed[place])
                    else:
                        kernels.add(kept[0], lo, hi, drive, part.touched)
                        passed[place][lo:hi] += kept[1][lo:hi]
                kernels.lif(
                    drive, part.current, part.voltage, part.spikes, part.words, part.events,
                    part.starts, part.emitted, part.touched, part.busy, part.bias_row,
                    part.constants, self._steps == 1, lo, hi,
                )  # fmt: skip

    def _take(self, frames: np.ndarray, lo: int, hi: int) -> None:
        """List the input's events and sum what they send; it serves until the frame changes."""
        source = self._input
        kernels.list_values(frames, source.events, source.values, source.starts, lo, hi)
        for (layer, place), (drive, passed) in self._kept.items():
            drive[lo:hi] = 0
            passed[lo:hi] = 0
            self._sums[layer][place].add(lo, hi, drive[lo:hi], self._layers[layer].touched, passed)

    def sum_input(self, samples: int) -> None:
        """Sum once more what the input's last events send: the kernel alone, for benchmarks."""
        for (layer, place), (drive, passed) in self._kept.items():
            self._sums[layer][place].add(0, samples, drive, self._layers[layer].touched, passed)

    def spikes(self, layer: str) -> np.ndarray:
        """This step's spikes."""
        part = self._by_name[layer]
        return part.nchw(part.spikes, self._samples)

    def current(self, layer: str) -> np.ndarray:
        """This step's u."""
        part = self._by_name[layer]
        return part.nchw(part.current, self._samples)

    def voltage(self, layer: str) -> np.ndarray:
        """This step's v after reset."""
        part = self._by_name[layer]
        return part.nchw(part.voltage, self._samples)

    def pack(self, layer: str, packed: np.ndarray, step: int) -> None:
        """Set this step's spikes in packed bytes."""
        part = self._by_name[layer]
        first_bit = step * math.prod(part.shape)
        kernels.pack(part.events, part.starts, part.channels, packed, self._samples, first_bit)

    def counts(self) -> Counts:
        """What the samples have done since the last reset, counted by the kernels."""
        count_, layers = self._samples, self._graph.layers
        emitted = {part.layer.name: part.emitted[:count_] for part in self._layers}
        emitted[self._graph.input.name] = self._sent[:count_]
        table = {
            name: np.zeros((count_, len(layers)), dtype=np.int64)
            for name in ("spikes", "synops", "macs", "neuron_updates", "relay_events")
        }
        for index, (layer, row) in enumerate(zip(layers, self._sums, strict=True)):
            table["spikes"][:, index] = emitted[layer.name]
            table["neuron_updates"][:, index] = self._steps * np.prod(
                self._graph.shapes[layer.name]
            )
            for place, (current, summed) in enumerate(zip(layer.currents, row, strict=True)):
                kind = "macs" if summed.graded else "synops"
                table[kind][:, index] += self._passed[index][place][:count_]
                relays = self._graph.relays(layer, current)
                table["relay_events"][:, index] += emitted[current.source] * relays
        return Counts(tuple(layer.name for layer in layers), **table)


def touch_kernels() -> None:
    """Load or compile every kernel by using it once, in each layout of its arrays: of the layers'
    drives the largest are contiguous, the others are not.
    """
    one, nine = (Conv(np.full((1, 1, side, side), 2)) for side in (1, 3))
    for bits in (0, 1):
        for first in (one, nine):
            layers = [
                Lif(name, (Current(source, synapse),), np.zeros(1, dtype=int), 1, 0)
                for name, source, synapse in (
                    ("largest", "input", one),
                    ("a", "input", first),
                    ("b", "a", one),
                    ("c", "b", Identity(2)),
                )
            ]
            engine = CompiledStepper(Graph(Input((1, 3, 3), bits), tuple(layers)), 1)
            engine.reset(1)
            engine.step(np.ones((1, 1, 3, 3), dtype=np.uint8))
            engine.pack("c", np.zeros((1, 2), dtype=np.uint8), 0)
