"""Random integer heads for `bench edge` whose every layer fires at a wanted rate.

No training: what a step costs depends on shapes and firing rates alone. Weights are drawn, then
each layer's threshold is set so that it fires at that rate on the frames of the benchmark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lava_edge import reference
from splitcore.graph import THRESHOLD_MAX, Conv, Current, Graph, Identity, Input, Lif, Synapse
from splitcore.spikes import direct_code

STEPS = 4
PIXEL_BITS = 6
VOLTAGE_DECAY = 1024  # a quarter of 4096


@dataclass(frozen=True, eq=False)
class BenchHead:
    """A head, frames (N, T, C, H, W) coded directly from images, and every layer's spikes."""

    name: str
    graph: Graph
    frames_ntchw: np.ndarray
    spikes: dict[str, np.ndarray]

    @property
    def rates(self) -> list[float]:
        """Spikes a neuron and step, layer by layer."""
        return [float(self.spikes[layer.name].mean()) for layer in self.graph.layers]


class HeadBuilder:
    """Adds layers one by one, calibrated on the spikes of those before them."""

    def __init__(self, rate: float, *, images: int = 4, size: int = 32, seed: int = 0) -> None:
        self._rng = np.random.default_rng(seed)
        self._rate = rate
        self.input = Input((3, size, size), PIXEL_BITS)
        levels = self._rng.integers(0, 256, (images, 3, size, size)).astype(np.uint8)
        self.frames = direct_code(levels, PIXEL_BITS, STEPS)
        self._events: dict[str, np.ndarray] = {self.input.name: self.frames}
        self._layers: list[Lif] = []

    def conv(
        self, source: str, channels: int, kernel: int = 3, stride: int = 1, depthwise: bool = False
    ) -> Current:
        """A random convolution from a source, padded so that stride 1 keeps the size."""
        inputs = self._events[source].shape[2]
        groups = inputs if depthwise else 1
        # Small weights on pixels keep the sums within 24 bits, as an exporter would.
        low, high = (-5, 6) if source == self.input.name else (-22, 24)
        shape = (channels, inputs // groups, kernel, kernel)
        pad = kernel // 2
        weight = 2 * self._rng.integers(low, high, shape)
        return Current(source, Conv(weight, (stride, stride), (pad, pad), groups=groups))

    def lif(self, *currents: Current) -> str:
        """A layer driven by these currents that fires at the wanted rate; its name."""
        name = f"layer{len(self._layers)}"
        drive = sum(
            reference.synaptic_sum(
                current.synapse,
                self._events[current.source],
                self._events[current.source].shape[2:],  # type: ignore[arg-type]
                self.input.max_value if current.source == self.input.name else 1,
            )
            for current in currents
        )
        low, high = 1, THRESHOLD_MAX
        while low < high:
            middle = (low + high) // 2
            if self._fire(name, currents, middle, np.asarray(drive))[1].mean() > self._rate:
                low = middle + 1
            else:
                high = middle
        layer, self._events[name] = self._fire(name, currents, low, np.asarray(drive))
        self._layers.append(layer)
        return name

    @staticmethod
    def _fire(
        name: str, currents: tuple[Current, ...], threshold: int, drive: np.ndarray
    ) -> tuple[Lif, np.ndarray]:
        channels = drive.shape[2]
        layer = Lif(name, currents, np.zeros(channels, dtype=int), threshold, VOLTAGE_DECAY)
        return layer, reference.lif(layer, drive)[0]

    def done(self, name: str) -> BenchHead:
        """The head as built so far."""
        return BenchHead(name, Graph(self.input, tuple(self._layers)), self.frames, self._events)


def chain(layers: int = 10, channels: int = 16, rate: float = 0.1) -> BenchHead:
    """3×3 convolutions one after the other on 32×32 maps: what stock NetX can run as well."""
    builder = HeadBuilder(rate)
    name = builder.input.name
    for _ in range(layers):
        name = builder.lif(builder.conv(name, channels))
    return builder.done(f"{layers} layers of {channels} channels at {rate:g}")


def resnet18_head(width: int = 32, rate: float = 0.1) -> BenchHead:
    """ResNet-18's stem and first two stages: nine layers, shortcuts as currents."""
    builder = HeadBuilder(rate)
    name = builder.lif(builder.conv(builder.input.name, width))
    for channels, stride in ((width, 1), (width, 1), (2 * width, 2), (2 * width, 1)):
        inner = builder.lif(builder.conv(name, channels, stride=stride))
        shortcut: Synapse = Identity(40)
        if stride > 1:
            shortcut = builder.conv(name, channels, kernel=1, stride=stride).synapse
        name = builder.lif(builder.conv(inner, channels), Current(name, shortcut))
    return builder.done(f"resnet18 width {width}, two stages")


def mobilenet_head(width: int = 32, rate: float = 0.1) -> BenchHead:
    """MobileNet's stem and three depthwise separable blocks."""
    builder = HeadBuilder(rate)
    name = builder.lif(builder.conv(builder.input.name, width))
    channels = width
    for grown, stride in ((2 * width, 1), (4 * width, 2), (4 * width, 1)):
        name = builder.lif(builder.conv(name, channels, stride=stride, depthwise=True))
        name = builder.lif(builder.conv(name, grown, kernel=1))
        channels = grown
    return builder.done(f"mobilenet_v1 width {width}, three blocks")


def single_neuron() -> BenchHead:
    """The least network there is: what a step costs beyond arithmetic."""
    builder = HeadBuilder(0.5, size=1)
    builder.lif(builder.conv(builder.input.name, 1, kernel=1))
    return builder.done("one neuron")
