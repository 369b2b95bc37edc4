"""A spiking network as plain integer records: input, synapses, LIF layers, where currents meet.

    Input ──Conv──┐
                  ├─(currents add)─ LIF "a" ──Conv── LIF "b" ─┐
                  │                    └──────Identity────────┴─ LIF "c"  (residual)

A network is an `Input` and a sequence of `Lif` layers, sources before their targets. Each layer
adds the currents of all its synapses; that is all a residual connection is. The last layer is the
output.
These records are the one description shared by training, export, reference, simulator and cloud:
nothing is ever approximated after they exist.

Integer dynamics of a layer, as Lava's `fixed_pt` LIF computes them (lava/proc/lif/models.py):

    u[t] = decay(u[t-1], current_decay) + 64 · Σ w·s[t]          24 bits, wraps
    v[t] = decay(v[t-1], voltage_decay) + u[t] + 64 · bias       24 bits, clips
    s[t] = v[t] > 64 · threshold;  v[t] = 0 where s[t]           hard reset

with decay(x, d) = sign(x) · (|x| · (4096 − d) >> 12). All shapes are channels, height, width.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np

from splitcore.errors import GraphError

STATE_SHIFT = 6  # u, v and the threshold are held 64 times finer than weights
DECAY_UNITY = 4096  # decays are fractions of this
STATE_LIMIT = 1 << 23  # u and v live in 24 signed bits
WEIGHT_MIN, WEIGHT_MAX = -256, 254  # 8-bit mixed-sign weights with the lowest bit zero
BIAS_MIN, BIAS_MAX = -4096, 4095  # 13-bit signed bias mantissa (exponent fixed at 6)
THRESHOLD_MAX = 64 * 64 - 1  # lava-dl loses its comparison epsilon in float32 from 64·64 on
MAX_DELAY = 62  # steps; the limit of stock delay synapses
# A small file may not ask for all memory. Values of a network in one step, and of one layer in all
# steps of a sample, padding included; the channels of a pixel count as whole vectors, as most
# engines keep them. Several times what a ResNet of ImageNet's size takes.
MAX_NEURONS = 1 << 26
MAX_SAMPLE = 4 * MAX_NEURONS  # of all layers in all steps of a sample
LANES = 16  # values of a vector; channels are padded to a multiple of it
MAX_STRIDE = 1 << 20  # likewise padding and dilation: far above use, far below what overflows

Shape = tuple[int, int, int]
Pair = tuple[int, int]


def _integers(name: str, values: np.ndarray, ndim: int, low: int, high: int) -> np.ndarray:
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise GraphError(f"{name}: expected integers, got {array.dtype}")
    if array.ndim != ndim or array.size == 0:
        raise GraphError(f"{name}: expected {ndim} non-empty dimensions, got shape {array.shape}")
    if array.min() < low or array.max() > high:
        raise GraphError(
            f"{name}: expected values in [{low}, {high}], got [{array.min()}, {array.max()}]"
        )
    array = np.array(array, dtype=np.int32, order="C")  # a copy, the caller keeps its own
    array.setflags(write=False)
    return array


def _whole(name: str, value: int) -> int:
    try:
        return operator.index(value)
    except TypeError:
        raise GraphError(f"{name}: expected an integer, got {value!r}") from None


def _several(name: str, values: Sequence[int]) -> list[int]:
    try:
        return [_whole(name, value) for value in values]
    except TypeError:
        raise GraphError(f"{name}: expected integers, got {values!r}") from None


def _pair(name: str, value: Pair, low: int) -> Pair:
    sizes = _several(name, value)
    if len(sizes) != 2 or min(sizes) < low or max(sizes) > MAX_STRIDE:
        raise GraphError(f"{name}: expected two integers in [{low}, {MAX_STRIDE}], got {value}")
    return sizes[0], sizes[1]


def whole_vectors(channels: int) -> int:
    """Channels with those that only fill a vector."""
    return -(-channels // LANES) * LANES


def _padded(shape: Shape, padding: Pair) -> Shape:
    channels, height, width = shape
    return channels, height + 2 * padding[0], width + 2 * padding[1]


def _held(shape: Shape) -> int:
    """Values in memory, the channels of each pixel filled up to whole vectors."""
    channels, height, width = shape
    return whole_vectors(channels) * height * width


def _bounded(name: str, shape: Sequence[int]) -> None:
    if math.prod(shape) > MAX_NEURONS:
        raise GraphError(f"{name}: {tuple(shape)} is more than {MAX_NEURONS:,} values")


@dataclass(frozen=True, eq=False)
class Conv:
    """A convolution: weight_oihw (O, I/groups, kH, kW); strides, padding, dilation as (H, W)."""

    weight_oihw: np.ndarray
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    dilation: Pair = (1, 1)
    groups: int = 1

    def __post_init__(self) -> None:
        weight = _integers("conv weight", self.weight_oihw, 4, WEIGHT_MIN, WEIGHT_MAX)
        object.__setattr__(self, "weight_oihw", weight)
        object.__setattr__(self, "stride", _pair("conv stride", self.stride, 1))
        object.__setattr__(self, "padding", _pair("conv padding", self.padding, 0))
        object.__setattr__(self, "dilation", _pair("conv dilation", self.dilation, 1))
        object.__setattr__(self, "groups", _whole("conv groups", self.groups))
        if self.groups < 1 or weight.shape[0] % self.groups:
            raise GraphError(
                f"conv groups: {self.groups} does not divide {weight.shape[0]} output channels"
            )

    def output_shape(self, source: Shape) -> Shape:
        """Shape (C, H, W) of the current that a source of this shape causes."""
        out_channels, in_per_group, *kernel = self.weight_oihw.shape
        if source[0] != in_per_group * self.groups:
            raise GraphError(
                f"conv: expected {in_per_group * self.groups} input channels, got {source[0]}"
            )
        height, width = (
            (size + 2 * pad - step * (k - 1) - 1) // stride + 1
            for size, pad, step, k, stride in zip(
                source[1:], self.padding, self.dilation, kernel, self.stride, strict=True
            )
        )
        if min(height, width) < 1:
            raise GraphError(f"conv: kernel {kernel} does not fit a source of shape {source}")
        _bounded("conv: its padded source", self.held_shape(source))
        return out_channels, height, width

    def held_shape(self, source: Shape) -> Shape:
        """What is held while it is computed: the source with its padding."""
        return _padded(source, self.padding)


@dataclass(frozen=True, eq=False)
class ConvTranspose:
    """A transposed convolution (cloud half only): weight_iohw (I, O, kH, kW)."""

    weight_iohw: np.ndarray
    stride: Pair = (1, 1)
    padding: Pair = (0, 0)
    output_padding: Pair = (0, 0)

    def __post_init__(self) -> None:
        weight = _integers("transposed conv weight", self.weight_iohw, 4, WEIGHT_MIN, WEIGHT_MAX)
        object.__setattr__(self, "weight_iohw", weight)
        object.__setattr__(self, "stride", _pair("transposed conv stride", self.stride, 1))
        object.__setattr__(self, "padding", _pair("transposed conv padding", self.padding, 0))
        output_padding = _pair("transposed conv output_padding", self.output_padding, 0)
        object.__setattr__(self, "output_padding", output_padding)
        if any(extra >= step for extra, step in zip(output_padding, self.stride, strict=True)):
            raise GraphError(
                f"transposed conv output_padding: expected less than the stride {self.stride}, "
                f"got {output_padding}"
            )

    def output_shape(self, source: Shape) -> Shape:
        """Shape (C, H, W) of the current that a source of this shape causes."""
        in_channels, out_channels, *kernel = self.weight_iohw.shape
        if source[0] != in_channels:
            raise GraphError(f"transposed conv: expected {in_channels} channels, got {source[0]}")
        height, width = (
            (size - 1) * stride - 2 * pad + k + extra
            for size, stride, pad, k, extra in zip(
                source[1:], self.stride, self.padding, kernel, self.output_padding, strict=True
            )
        )
        if min(height, width) < 1:
            raise GraphError(f"transposed conv: nothing is left of a source of shape {source}")
        target = out_channels, height, width
        whole = _padded(target, self.padding)
        _bounded("transposed conv: what it makes before padding is cut", whole)
        return target

    def held_shape(self, source: Shape) -> Shape:
        """What is held while it is computed: what it makes before padding is cut."""
        return _padded(self.output_shape(source), self.padding)


@dataclass(frozen=True, eq=False)
class Dense:
    """All to all: weight_oi (O, I), I counted over the flattened C, H, W of the source.

    delay_oi, where given, holds whole steps (0 … 62) that a spike waits in each synapse.
    """

    weight_oi: np.ndarray
    delay_oi: np.ndarray | None = None

    def __post_init__(self) -> None:
        weight = _integers("dense weight", self.weight_oi, 2, WEIGHT_MIN, WEIGHT_MAX)
        object.__setattr__(self, "weight_oi", weight)
        if self.delay_oi is not None:
            delay = _integers("dense delay", self.delay_oi, 2, 0, MAX_DELAY)
            if delay.shape != weight.shape:
                raise GraphError(f"dense delay: expected shape {weight.shape}, got {delay.shape}")
            object.__setattr__(self, "delay_oi", delay if delay.any() else None)

    def output_shape(self, source: Shape) -> Shape:
        """Shape (O, 1, 1) of the current that a source of this shape causes."""
        inputs = source[0] * source[1] * source[2]
        if inputs != self.weight_oi.shape[1]:
            raise GraphError(f"dense: expected {self.weight_oi.shape[1]} inputs, got {inputs}")
        return self.weight_oi.shape[0], 1, 1

    def held_shape(self, source: Shape) -> Shape:
        """What is held while it is computed: its source."""
        return source


@dataclass(frozen=True, eq=False)
class Identity:
    """One weight for every neuron: the shortcut of a residual block, a depthwise 1×1 conv."""

    weight: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "weight", _whole("identity weight", self.weight))
        if not WEIGHT_MIN <= self.weight <= WEIGHT_MAX:
            raise GraphError(
                f"identity weight: expected a value in [{WEIGHT_MIN}, {WEIGHT_MAX}], "
                f"got {self.weight}"
            )

    def output_shape(self, source: Shape) -> Shape:
        """The source's own shape."""
        return source

    def held_shape(self, source: Shape) -> Shape:
        """What is held while it is computed: its source."""
        return source

    def as_conv(self, channels: int) -> Conv:
        """The same synapse written as a depthwise 1×1 convolution."""
        return Conv(np.full((channels, 1, 1, 1), self.weight, dtype=np.int32), groups=channels)


Synapse = Conv | ConvTranspose | Dense | Identity


@dataclass(frozen=True, eq=False)
class Current:
    """What one source (the input or an earlier layer, by name) sends through one synapse."""

    source: str
    synapse: Synapse


@dataclass(frozen=True, eq=False)
class Input:
    """What enters: shape (C, H, W); message_bits 0 for binary spikes, n for graded 0 … 2^n − 1."""

    shape: Shape
    message_bits: int = 0
    name: str = "input"

    def __post_init__(self) -> None:
        object.__setattr__(self, "shape", tuple(_several("input shape", self.shape)))
        bits = _whole("input message_bits", self.message_bits)
        object.__setattr__(self, "message_bits", bits)
        if len(self.shape) != 3 or min(self.shape) < 1:
            raise GraphError(f"input shape: expected positive (C, H, W), got {self.shape}")
        _bounded("input shape", self.shape)
        if not 0 <= self.message_bits <= 16:
            raise GraphError(f"input message_bits: expected 0 … 16, got {self.message_bits}")

    @property
    def max_value(self) -> int:
        """The largest value that an input event can carry."""
        return (1 << self.message_bits) - 1 if self.message_bits else 1


@dataclass(frozen=True, eq=False)
class Lif:
    """One layer of CUBA neurons and every current that drives it.

    bias (C,) and threshold are in weight units; decays are of 4096, current_decay 4096 meaning
    no synaptic filter. The shape (C, H, W) is derived from the currents by `Graph`.
    """

    name: str
    currents: tuple[Current, ...]
    bias: np.ndarray
    threshold: int
    voltage_decay: int
    current_decay: int = DECAY_UNITY

    def __post_init__(self) -> None:
        if not self.name or not self.currents:
            raise GraphError(f"layer {self.name!r}: expected a name and at least one current")
        bias = _integers(f"layer {self.name}: bias", self.bias, 1, BIAS_MIN, BIAS_MAX)
        object.__setattr__(self, "bias", bias)
        for field_name in ("threshold", "voltage_decay", "current_decay"):
            whole = _whole(f"layer {self.name}: {field_name}", getattr(self, field_name))
            object.__setattr__(self, field_name, whole)
        if not 0 < self.threshold <= THRESHOLD_MAX:
            raise GraphError(
                f"layer {self.name}: expected a threshold in [1, {THRESHOLD_MAX}], "
                f"got {self.threshold}"
            )
        for field_name in ("voltage_decay", "current_decay"):
            if not 0 <= getattr(self, field_name) <= DECAY_UNITY:
                raise GraphError(
                    f"layer {self.name}: expected {field_name} in [0, {DECAY_UNITY}], "
                    f"got {getattr(self, field_name)}"
                )


@dataclass(frozen=True, eq=False)
class Graph:
    """An input and its layers, sources before targets. Raises GraphError if they do not fit.

    Without layers the input's events are the output: the cloud half behind the last layer's cut.
    """

    input: Input
    layers: tuple[Lif, ...]
    shapes: dict[str, Shape] = field(init=False)

    def __post_init__(self) -> None:
        shapes: dict[str, Shape] = {self.input.name: self.input.shape}
        for layer in self.layers:
            if layer.name in shapes:
                raise GraphError(f"layer {layer.name}: the name is taken")
            layer_shapes: list[Shape] = []
            for current in layer.currents:
                if current.source not in shapes:
                    raise GraphError(
                        f"layer {layer.name}: source {current.source!r} is not before it"
                    )
                try:
                    layer_shapes.append(current.synapse.output_shape(shapes[current.source]))
                    _bounded("its neurons", layer_shapes[-1])
                except GraphError as error:
                    raise GraphError(f"layer {layer.name}: {error}") from None
            if len(set(layer_shapes)) != 1:
                raise GraphError(f"layer {layer.name}: currents of shapes {layer_shapes} meet")
            if layer.bias.shape != (layer_shapes[0][0],):
                raise GraphError(
                    f"layer {layer.name}: expected {layer_shapes[0][0]} biases, "
                    f"got {layer.bias.shape}"
                )
            shapes[layer.name] = layer_shapes[0]
        object.__setattr__(self, "shapes", shapes)
        self.require_room(1)

    @cached_property
    def held(self) -> dict[str, int]:
        """Values that the input and each layer hold in one step, or that a current of it does."""
        held = {self.input.name: _held(self.input.shape)}
        for layer in self.layers:
            shapes = [self.shapes[layer.name]]
            shapes += [each.synapse.held_shape(self.shapes[each.source]) for each in layer.currents]
            held[layer.name] = max(map(_held, shapes))
        return held

    def require_room(self, steps: int) -> None:
        """Raise GraphError where samples of so many steps would take more memory than any use."""
        total = sum(self.held.values())
        name, most = max(self.held.items(), key=lambda each: each[1])
        if total > MAX_NEURONS or total * steps > MAX_SAMPLE or most * steps > MAX_NEURONS:
            raise GraphError(
                f"network: {total:,} values in each of {steps} steps, {most:,} of them in {name}, "
                f"are more than {MAX_NEURONS:,} a step and a layer, {MAX_SAMPLE:,} in all"
            )

    @property
    def output_name(self) -> str:
        """The layer whose spikes leave the graph, or the input where there is none."""
        return self.layers[-1].name if self.layers else self.input.name

    @property
    def output_shape(self) -> Shape:
        """Shape (C, H, W) of what leaves the graph."""
        return self.shapes[self.output_name]

    def currents(self) -> Iterator[tuple[Lif, Current]]:
        """Every current with the layer it drives, in order."""
        for layer in self.layers:
            for current in layer.currents:
                yield layer, current

    def source_max(self, source: str) -> int:
        """The largest value an event of this source carries: 1 but for a graded input."""
        return self.input.max_value if source == self.input.name else 1

    def followed_by(self, other: Graph) -> Graph:
        """One graph of both: this one's output is the other's input. Raises GraphError."""
        if other.input.message_bits or other.input.shape != self.output_shape:
            raise GraphError(f"{self.output_name}: its spikes are not the next graph's input")
        names = {other.input.name: self.output_name}
        behind = [
            replace(
                layer,
                currents=tuple(
                    replace(each, source=names.get(each.source, each.source))
                    for each in layer.currents
                ),
            )
            for layer in other.layers
        ]
        return Graph(self.input, (*self.layers, *behind))

    @cached_property
    def depth(self) -> dict[str, int]:
        """Synapses on the longest way from the input to each layer; in Lava, its delay in steps."""
        depth = {self.input.name: 0}
        for layer in self.layers:
            depth[layer.name] = 1 + max(depth[current.source] for current in layer.currents)
        return depth

    def relays(self, layer: Lif, current: Current) -> int:
        """Steps that this current must wait so that it meets the layer's deepest one."""
        return self.depth[layer.name] - self.depth[current.source] - 1

    @property
    def is_chain(self) -> bool:
        """Whether each layer is driven by the layer before it alone."""
        previous = self.input.name
        for layer in self.layers:
            if [current.source for current in layer.currents] != [previous]:
                return False
            previous = layer.name
        return True
