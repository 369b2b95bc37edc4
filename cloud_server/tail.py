"""The cloud half in PyTorch: code spikes in, class scores out, integer for integer.

Time is folded into the batch for every synapse (a spiking layer's synapses know no time), then one
compiled loop runs the neurons over their steps:

    (N·T, C, H, W) channels-last ── conv2d ──(+)── LIF over T ── … ── mean ── scores (N, classes)

Synaptic sums are float32 and exact: `splitcore.bounds` proves at load that Σ|w|·s stays below 2^24
and that no neuron's state leaves 24 bits, so wrapping and clipping never happen.
"""

from __future__ import annotations

import numpy as np
import torch
from torch.nn import functional

from cloud_server import lif
from splitcore import bounds
from splitcore.errors import DataError, GraphError
from splitcore.graph import Conv, ConvTranspose, Dense, Identity, Lif, Shape, Synapse
from splitcore.spikes import check_spikes
from splitcore.tail import Tail

CHUNK_BYTES = 16 << 20  # of the widest layer; bounds memory and stays near the cache


class TailEngine:
    """A callable: code_ntchw uint8 (N, T, C, H, W) of 0 and 1 -> scores float32 (N, classes)."""

    def __init__(self, tail: Tail, steps: int) -> None:
        """Prepare weights. Raises OverflowBoundError where exactness cannot be proved."""
        bounds.check(tail.graph, steps)
        self.tail, self.steps = tail, steps
        self._weights = {
            id(current.synapse): _weight(current.synapse, tail.graph.shapes[current.source])
            for _, current in tail.graph.currents()
            if not isinstance(current.synapse, Identity)
        }
        widest = max(int(np.prod(shape)) for shape in tail.graph.shapes.values())
        self._chunk = max(1, CHUNK_BYTES // (4 * widest * steps))
        self._last_use = {current.source: layer.name for layer, current in tail.graph.currents()}

    def __call__(self, code_ntchw: np.ndarray) -> np.ndarray:
        """Scores (N, classes) of N samples; how they are batched changes nothing."""
        return self.tail.scores_of_rates(self.rates(code_ntchw))

    def rates(self, code_ntchw: np.ndarray) -> np.ndarray:
        """Mean firing (N, C) of the last layer over time and space, float64."""
        if code_ntchw.ndim != 5:
            raise DataError(f"code: expected (N, T, C, H, W), got {code_ntchw.shape}")
        shape = (len(code_ntchw), self.steps, *self.tail.graph.input.shape)
        code = check_spikes(code_ntchw, shape)
        parts = [
            self._chunk_rates(code[start : start + self._chunk])
            for start in range(0, len(code), self._chunk)
        ]
        return np.concatenate([np.zeros((0, self.tail.graph.output_shape[0])), *parts])

    def spikes(self, code_ntchw: np.ndarray) -> np.ndarray:
        """Spikes (N, T, C, H, W) uint8 of the last layer, for checks against other engines."""
        output = self._run(code_ntchw).to(torch.uint8).contiguous().numpy()
        return output.reshape(len(code_ntchw), self.steps, *self.tail.graph.output_shape)

    def _chunk_rates(self, code_ntchw: np.ndarray) -> np.ndarray:
        channels, height, width = self.tail.graph.output_shape
        counts = self._run(code_ntchw).sum(dim=(2, 3), dtype=torch.float64).numpy()
        counts = counts.reshape(len(code_ntchw), self.steps, channels).sum(axis=1)
        return counts / (self.steps * height * width)

    def _run(self, code_ntchw: np.ndarray) -> torch.Tensor:
        graph = self.tail.graph
        count = len(code_ntchw)
        folded = code_ntchw.reshape(count * self.steps, *graph.input.shape).astype(np.float32)
        code = torch.from_numpy(folded).contiguous(memory_format=torch.channels_last)
        events = {graph.input.name: code}
        with torch.inference_mode():
            for layer in graph.layers:
                events[layer.name] = self._layer(layer, events, count)
                for current in layer.currents:
                    if self._last_use[current.source] == layer.name:
                        events.pop(current.source, None)
        return events[graph.output_name]

    def _layer(self, layer: Lif, events: dict[str, torch.Tensor], count: int) -> torch.Tensor:
        drive: torch.Tensor | None = None
        for current in layer.currents:
            source = events[current.source]
            match current.synapse:
                case Identity(weight=weight):
                    drive = source * weight if drive is None else drive.add_(source, alpha=weight)
                case synapse:
                    sums = _sums(synapse, source, self._weights[id(synapse)])
                    drive = sums if drive is None else drive.add_(sums)
        assert drive is not None  # a Lif has at least one current
        drive_mhwc = drive.permute(0, 2, 3, 1).contiguous()
        flat = drive_mhwc.view(count, self.steps, -1)
        lif.fire(layer, flat.numpy(), channels_last=drive.shape[1])
        return drive_mhwc.permute(0, 3, 1, 2)


def _weight(synapse: Synapse, source: Shape) -> torch.Tensor:
    """The weights as float32, laid out for channels-last activations."""
    match synapse:
        case Conv(weight_oihw=weight) | ConvTranspose(weight_iohw=weight):
            tensor = torch.from_numpy(weight.astype(np.float32))
            return tensor.contiguous(memory_format=torch.channels_last)
        case Dense(weight_oi=weight, delay_oi=None):
            ordered = weight.reshape(len(weight), *source).transpose(0, 2, 3, 1)
            return torch.from_numpy(ordered.reshape(len(weight), -1).astype(np.float32))
        case _:
            raise GraphError(f"tail: no way to run {type(synapse).__name__} with delays")


def _sums(synapse: Synapse, source: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    match synapse:
        case Conv(stride=stride, padding=padding, dilation=dilation, groups=groups):
            return functional.conv2d(source, weight, None, stride, padding, dilation, groups)
        case ConvTranspose(stride=stride, padding=padding, output_padding=extra):
            return functional.conv_transpose2d(source, weight, None, stride, padding, extra)
        case Dense():
            flat = source.permute(0, 2, 3, 1).reshape(len(source), -1)
            return functional.linear(flat, weight)[:, :, None, None]
        case _:
            raise GraphError(f"tail: no such synapse {type(synapse).__name__}")
