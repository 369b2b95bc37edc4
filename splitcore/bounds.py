"""Proof, from the integers alone, that no state of a network can leave the chip's 24 bits.

Lava wraps a conv's sum a and the current u at 24 bits and clips the voltage v; SLAYER does none of
it. Where no input whatever can reach these limits, all engines compute the same. Per channel, with
every event at its largest or absent (positive and negative weights kept apart, taps that fall on
padding left out):

    a_low ≤ a ≤ a_high                                             a = Σ over currents of Σ w·s
    u_high[t] = decay(u_high[t-1]) + 64 · a_high                                     u_low alike
    v_low[t] = min(0, decay(v_low[t-1]) + u_low[t] + 64 · bias)
    v_high[t] = decay(min(v_high[t-1], 64 · threshold)) + u_high[t] + 64 · bias
                                                      (a neuron above its threshold was reset)

The recursions run as long as a sample does, with the integer decay.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import numpy as np

from splitcore.errors import OverflowBoundError
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
    Lif,
    Shape,
    Synapse,
)

FLOAT32_EXACT = 1 << 24  # engines that sum in float32 are exact while Σ|w|·s stays below


@dataclass(frozen=True)
class LayerBound:
    """What one layer can reach at most, as magnitudes.

    summed: Σ|w|·s of its largest current (a float32 partial sum); activation: |Σ w·s| over all its
    currents; current: |u|; voltage: |v| before reset. u and v are in state units (64 times finer),
    and are followed no further than the first step in which one leaves 24 bits.
    """

    name: str
    summed: int
    activation: int
    current: int
    voltage: int


def bounds(graph: Graph, steps: int) -> tuple[LayerBound, ...]:
    """The bound of every layer, for samples of this many steps."""
    return tuple(_layer(graph, layer, steps) for layer in graph.layers)


def check(graph: Graph, steps: int) -> tuple[LayerBound, ...]:
    """The bounds, or OverflowBoundError naming the first layer that could leave 24 bits."""
    found = bounds(graph, steps)
    for bound in found:
        for quantity, reached, limit, why in (
            ("Σ|w|·s", bound.summed, FLOAT32_EXACT, "exact float32 sums"),
            ("|a|", bound.activation, STATE_LIMIT, "24-bit sums"),
            ("|u|", bound.current, STATE_LIMIT, "24-bit current"),
            ("|v|", bound.voltage, STATE_LIMIT, "24-bit voltage"),
        ):
            if reached >= limit:
                raise OverflowBoundError(
                    f"layer {bound.name}: {quantity} can reach {reached:,}, the limit is "
                    f"{limit - 1:,} ({why}); {_remedy(graph, bound.name, quantity)}"
                )
    return found


def _remedy(graph: Graph, name: str, quantity: str) -> str:
    layer = next(layer for layer in graph.layers if layer.name == name)
    remedies = ["scale its weights, bias and threshold down together"]
    if graph.input.message_bits > 1 and graph.input.name in {c.source for c in layer.currents}:
        remedies.append("use fewer input message bits")
    if quantity == "|u|" and layer.current_decay < DECAY_UNITY:
        remedies.append("raise its current decay")
    if quantity == "|v|":
        remedies.append("raise its voltage decay or run fewer steps")
    return " or ".join(remedies)


def _layer(graph: Graph, layer: Lif, steps: int) -> LayerBound:
    parts = [_sums(graph, current) for current in layer.currents]
    low, high = (np.sum([part[side] for part in parts], axis=0) for side in (0, 1))
    bias = layer.bias.astype(np.int64) << STATE_SHIFT
    u_low, u_high, v_low, v_high = _run(layer, low, high, bias, steps)
    return LayerBound(
        layer.name,
        summed=max(int(part[2].max()) for part in parts),
        activation=_magnitude(low, high),
        current=_magnitude(u_low, u_high),
        voltage=_magnitude(v_low, v_high),
    )


def _magnitude(low: np.ndarray, high: np.ndarray) -> int:
    return int(max(-low.min(), high.max()))


def _decayed(state: np.ndarray, decay: int) -> np.ndarray:
    return np.sign(state) * (np.abs(state) * (DECAY_UNITY - decay) >> 12)


def _run(
    layer: Lif, low: np.ndarray, high: np.ndarray, bias: np.ndarray, steps: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Lowest and highest u, then v, within so many steps of a sample."""
    u_low, u_high, v_low, v_high = (np.zeros_like(bias) for _ in range(4))
    lowest, highest = v_low, v_high
    for _ in range(steps):
        u_low = _decayed(u_low, layer.current_decay) + (low << STATE_SHIFT)
        u_high = _decayed(u_high, layer.current_decay) + (high << STATE_SHIFT)
        v_low = np.minimum(_decayed(v_low, layer.voltage_decay) + u_low + bias, 0)
        kept = np.clip(v_high, 0, layer.threshold << STATE_SHIFT)
        v_high = _decayed(kept, layer.voltage_decay) + u_high + bias
        lowest, highest = np.minimum(lowest, v_low), np.maximum(highest, v_high)
        # Past the limit the proof has failed already; stopping keeps the numbers far from int64's.
        if max(u_high.max(), -u_low.min(), highest.max(), -lowest.min()) >= STATE_LIMIT:
            break
    return u_low, u_high, lowest, highest


def _sums(graph: Graph, current: Current) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """By channel: the lowest and the highest Σ w·s, and the largest Σ |w|·s, of one current."""
    shape = graph.shapes[current.source]
    match current.synapse:
        case Identity(weight=value):
            weight = np.full((shape[0], 1), value)
        case Dense(weight_oi=weight) | Conv(weight_oihw=weight):
            pass
        case ConvTranspose(weight_iohw=weight_iohw):
            weight = weight_iohw.swapaxes(0, 1)
    largest = graph.source_max(current.source)

    def reached(part: np.ndarray) -> np.ndarray:
        return largest * _most(current.synapse, shape, part.astype(np.int64))

    return -reached(np.maximum(-weight, 0)), reached(np.maximum(weight, 0)), reached(np.abs(weight))


def _most(synapse: Synapse, shape: Shape, weight: np.ndarray) -> np.ndarray:
    """By output channel, the largest sum of these magnitudes (O, …) that meet in one neuron."""
    match synapse:
        case Identity() | Dense():
            return weight.sum(axis=1)
        case Conv():
            before = np.zeros((len(weight), *(size + 1 for size in weight.shape[2:])), np.int64)
            before[:, 1:, 1:] = weight.sum(axis=1).cumsum(axis=1).cumsum(axis=2)
            (top, bottom), (left, right) = (_taps_met(synapse, shape, axis) for axis in (0, 1))
            rows = before[:, bottom] - before[:, top]
            return (rows[:, :, right] - rows[:, :, left]).max(axis=(1, 2))
        case ConvTranspose(stride=(down, right)):
            _, _, height, width = weight.shape  # no tap is met beyond the kernel, however far apart
            phases = itertools.product(range(min(down, height)), range(min(right, width)))
            sums = [weight[:, :, y::down, x::right].sum(axis=(1, 2, 3)) for y, x in phases]
            return np.max(sums, axis=0)


def _taps_met(conv: Conv, shape: Shape, axis: int) -> np.ndarray:
    """The distinct rows of kernel taps that lie on the image at once: from, and up to (2, rows)."""
    taps, apart = conv.weight_oihw.shape[2 + axis], conv.dilation[axis]
    first = np.arange(conv.output_shape(shape)[1 + axis]) * conv.stride[axis] - conv.padding[axis]
    begin, end = (np.clip(-((first - at) // apart), 0, taps) for at in (0, shape[1 + axis]))
    return np.unique([begin, end], axis=1)
