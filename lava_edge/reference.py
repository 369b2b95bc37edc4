"""The numpy twin: what the simulator must do, in the fewest lines that say it exactly.

Layers run one after the other over all time steps ("zero delay": a layer at step t sees its sources
at step t). Lava adds one step a synapse; its runtime aligns that away. State starts at zero in each
sample.

Synaptic sums run in BLAS on floats that hold every integer they can meet: float32 while no sum
can reach 2^24, float64 beyond. After the sum all is integer arithmetic as in `splitcore.graph`.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from splitcore.bounds import FLOAT32_EXACT
from splitcore.errors import DataError, GraphError
from splitcore.graph import (
    DECAY_UNITY,
    MAX_NEURONS,
    STATE_LIMIT,
    STATE_SHIFT,
    Conv,
    ConvTranspose,
    Dense,
    Graph,
    Identity,
    Lif,
    Synapse,
)

CHUNK = 32  # samples that are held at once, or fewer large ones; changes no result


@dataclass(frozen=True, eq=False)
class Trace:
    """By layer name, (N, T, C, H, W): spikes uint8; where asked for, u and v after reset, int32."""

    spikes: dict[str, np.ndarray]
    current: dict[str, np.ndarray] = field(default_factory=dict)
    voltage: dict[str, np.ndarray] = field(default_factory=dict)


def run(graph: Graph, frames_ntchw: np.ndarray, states: bool = False) -> Trace:
    """Run samples (N, T, C, H, W) of input events through the graph."""
    frames = np.asarray(frames_ntchw)
    if frames.ndim != 5 or frames.shape[2:] != graph.input.shape:
        raise DataError(
            f"frames: expected (N, T, {', '.join(map(str, graph.input.shape))}), got {frames.shape}"
        )
    if frames.dtype.kind not in "biu" or not frames.shape[1]:
        raise DataError(
            f"frames: expected whole numbers over at least one step, got {frames.dtype} of "
            f"{frames.shape[1]} steps"
        )
    if frames.size and (frames.min() < 0 or frames.max() > graph.input.max_value):
        raise DataError(f"frames: expected values in [0, {graph.input.max_value}]")
    room = MAX_NEURONS // (max(graph.held.values()) * frames.shape[1])
    chunk = max(1, min(CHUNK, room))
    parts = [
        _run_chunk(graph, frames[start : start + chunk], states)
        for start in range(0, max(1, len(frames)), chunk)
    ]

    def joined(name: str) -> dict[str, np.ndarray]:
        return {
            layer: np.concatenate([getattr(part, name)[layer] for part in parts])
            for layer in getattr(parts[0], name)
        }

    return Trace(joined("spikes"), joined("current"), joined("voltage"))


def _run_chunk(graph: Graph, frames: np.ndarray, states: bool) -> Trace:
    trace = Trace({} if graph.layers else {graph.output_name: frames})  # nothing to do: passed on
    for layer in graph.layers:
        drive: np.ndarray | int = 0
        for current in layer.currents:
            events = frames if current.source == graph.input.name else trace.spikes[current.source]
            drive = drive + synaptic_sum(
                current.synapse,
                events,
                graph.shapes[current.source],
                graph.source_max(current.source),
            )
        spikes, u, v = lif(layer, np.asarray(drive))
        trace.spikes[layer.name] = spikes
        if states:
            trace.current[layer.name], trace.voltage[layer.name] = u, v
    return trace


def synaptic_sum(
    synapse: Synapse, events_ntchw: np.ndarray, source_shape: tuple[int, int, int], source_max: int
) -> np.ndarray:
    """Σ w·s as int64 (N, T, C, H, W), wrapped as in Lava: at 24 bits, dense ones at 32."""
    count, steps = events_ntchw.shape[:2]
    if isinstance(synapse, Dense) and synapse.delay_oi is not None:
        flat = events_ntchw.reshape(count, steps, -1)
        total = sum(
            _delayed(flat, delay) @ np.where(synapse.delay_oi == delay, synapse.weight_oi, 0).T
            for delay in np.unique(synapse.delay_oi)
        )
        return _wrapped(np.asarray(total), 32).reshape(count, steps, -1, 1, 1)
    images = events_ntchw.reshape(count * steps, *source_shape)
    match synapse:
        case Identity(weight=weight):
            sums = images.astype(np.int64) * weight
        case Dense(weight_oi=weight_oi):
            dtype = _exact_float(weight_oi.reshape(len(weight_oi), -1), source_max)
            sums = images.reshape(len(images), -1).astype(dtype) @ weight_oi.T.astype(dtype)
            sums = sums[:, :, None, None]
        case Conv():
            sums = _conv(synapse, images, source_max)
        case ConvTranspose():
            sums = _conv_transpose(synapse, images, source_max)
        case _:
            raise GraphError(f"reference: no such synapse {type(synapse).__name__}")
    bits = 32 if isinstance(synapse, Dense) else 24
    return _wrapped(sums.astype(np.int64), bits).reshape(count, steps, *sums.shape[1:])


def _delayed(flat_nti: np.ndarray, delay: int) -> np.ndarray:
    late = np.zeros(flat_nti.shape, dtype=np.int64)
    if delay < flat_nti.shape[1]:
        late[:, delay:] = flat_nti[:, : flat_nti.shape[1] - delay]
    return late


def _exact_float(weight_ok: np.ndarray, source_max: int) -> type[np.floating]:
    largest = int(np.abs(weight_ok).sum(axis=1).max()) * source_max
    return np.float32 if largest < FLOAT32_EXACT else np.float64


def _windows(images: np.ndarray, kernel: tuple[int, int], synapse: Conv) -> Iterator[np.ndarray]:
    """For each kernel tap in row-major order, the pixels (M, C, H, W) that it meets."""
    (pad_y, pad_x), (step_y, step_x) = synapse.padding, synapse.dilation
    padded = np.pad(images, ((0, 0), (0, 0), (pad_y, pad_y), (pad_x, pad_x)))
    height = (padded.shape[2] - step_y * (kernel[0] - 1) - 1) // synapse.stride[0] + 1
    width = (padded.shape[3] - step_x * (kernel[1] - 1) - 1) // synapse.stride[1] + 1
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            rows = slice(ky * step_y, ky * step_y + synapse.stride[0] * (height - 1) + 1)
            columns = slice(kx * step_x, kx * step_x + synapse.stride[1] * (width - 1) + 1)
            yield padded[:, :, rows, columns][:, :, :: synapse.stride[0], :: synapse.stride[1]]


def _conv(synapse: Conv, images: np.ndarray, source_max: int) -> np.ndarray:
    out_channels, per_group, *kernel = synapse.weight_oihw.shape
    groups = synapse.groups
    dtype = _exact_float(synapse.weight_oihw.reshape(out_channels, -1), source_max)
    taps = np.stack(list(_windows(images.astype(dtype), (kernel[0], kernel[1]), synapse)), axis=2)
    count, _, _, height, width = taps.shape
    columns = taps.reshape(count, groups, per_group * kernel[0] * kernel[1], height * width)
    weight = synapse.weight_oihw.reshape(groups, out_channels // groups, -1).astype(dtype)
    return (weight @ columns).reshape(count, out_channels, height, width)


def _conv_transpose(synapse: ConvTranspose, images: np.ndarray, source_max: int) -> np.ndarray:
    _, out_channels, *kernel = synapse.weight_iohw.shape
    count, _, height, width = images.shape
    dtype = _exact_float(synapse.weight_iohw.swapaxes(0, 1).reshape(out_channels, -1), source_max)
    taps = np.einsum("mihw,iokl->moklhw", images.astype(dtype), synapse.weight_iohw.astype(dtype))
    full_height = (height - 1) * synapse.stride[0] + kernel[0] + synapse.output_padding[0]
    full_width = (width - 1) * synapse.stride[1] + kernel[1] + synapse.output_padding[1]
    full = np.zeros((count, out_channels, full_height, full_width), dtype=dtype)
    for ky in range(kernel[0]):
        for kx in range(kernel[1]):
            rows = slice(ky, ky + synapse.stride[0] * (height - 1) + 1, synapse.stride[0])
            columns = slice(kx, kx + synapse.stride[1] * (width - 1) + 1, synapse.stride[1])
            full[:, :, rows, columns] += taps[:, :, ky, kx]
    (pad_y, pad_x) = synapse.padding
    return full[:, :, pad_y : full_height - pad_y, pad_x : full_width - pad_x]


def _wrapped(sums: np.ndarray, bits: int) -> np.ndarray:
    half = 1 << bits - 1
    return (sums + half) % (2 * half) - half


def _decayed(state: np.ndarray, decay: int) -> np.ndarray:
    return np.sign(state) * (np.abs(state) * (DECAY_UNITY - decay) >> 12)


def lif_step(
    layer: Lif, drive_nchw: np.ndarray, u: np.ndarray, v: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One step of one layer from state u, v (int64): spikes, and u and v after reset.

    Lava adds in int32 and takes u back into 24 bits by one turn: what still lies outside stays so.
    """
    u = _decayed(u, layer.current_decay) + (drive_nchw.astype(np.int64) << STATE_SHIFT)
    u = _wrapped(u, 32)
    u = np.where(u > STATE_LIMIT, u - 2 * STATE_LIMIT, u)
    u = np.where(u <= -STATE_LIMIT, u + 2 * STATE_LIMIT, u)
    bias = (layer.bias.astype(np.int64) << STATE_SHIFT)[:, None, None]
    v = _wrapped(_decayed(v, layer.voltage_decay) + u + bias, 32)
    v = np.clip(v, -STATE_LIMIT + 1, STATE_LIMIT - 1)
    fired = v > layer.threshold << STATE_SHIFT
    return fired.astype(np.uint8), u, np.where(fired, 0, v)


def lif(layer: Lif, drive_ntchw: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Spikes, u and v after reset of one layer under Σ w·s; equations in `splitcore.graph`."""
    spikes = np.empty(drive_ntchw.shape, dtype=np.uint8)
    currents = np.empty(drive_ntchw.shape, dtype=np.int32)
    voltages = np.empty(drive_ntchw.shape, dtype=np.int32)
    u = np.zeros(drive_ntchw[:, 0].shape, dtype=np.int64)
    v = np.zeros_like(u)
    for step in range(drive_ntchw.shape[1]):
        fired, u, v = lif_step(layer, drive_ntchw[:, step], u, v)
        spikes[:, step], currents[:, step], voltages[:, step] = fired, u, v
    return spikes, currents, voltages
