"""The split model: backbone blocks, an encoder and a decoder at the cut, a readout.

    pixels ── edge blocks ── encoder ──(code spikes)── decoder ── cloud blocks ── mean ── scores

`forward` takes levels (N, C, H, W) or events (N, T, C, H, W) and returns scores for each step;
`encode` and `decode` are the two halves on real spikes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from splitcore.errors import ConfigError
from splitcore.graph import Graph, Input, Lif
from splitcore.splits import Backbone
from splitcore.tail import Tail
from training import backbones
from training.blocks import NeuronConfig, Norm, NormedConv, SpikingLayer

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class BottleneckConfig:
    """Code channels, spatial stride and kernel of the encoder; the decoder mirrors them."""

    channels: int
    stride: int = 1
    kernel: int = 3


class SplitModel(torch.nn.Module):
    """A backbone cut at one of its split points.

    input_shape (C, H, W), input_bits of the graded pixels (0: binary events), steps T.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        split: str,
        bottleneck: BottleneckConfig,
        width: int,
        input_shape: Shape,
        input_bits: int,
        classes: int,
        steps: int,
        neuron: NeuronConfig,
    ) -> None:
        super().__init__()
        self.backbone, self.split, self.steps = backbone, split, steps
        self.input = Input(input_shape, input_bits)
        cut = backbone.index(split)
        blocks = list(
            backbones.build(
                backbone,
                width=width,
                input_shape=input_shape,
                input_bits=input_bits,
                neuron=neuron,
            ).items()
        )
        self.edge = torch.nn.ModuleDict(dict(blocks[:cut]))
        self.cloud = torch.nn.ModuleDict(dict(blocks[cut:]))
        self.feature_shape = self._shape_after(self.edge)
        features, height, width_px = self.feature_shape
        out = [
            (size + 2 * (bottleneck.kernel // 2) - bottleneck.kernel) // bottleneck.stride + 1
            for size in (height, width_px)
        ]
        if min(out) < 1 or bottleneck.kernel % 2 == 0:
            raise ConfigError(
                f"bottleneck: kernel {bottleneck.kernel} (odd) and stride {bottleneck.stride} do "
                f"not fit features of {height}×{width_px} at {split}"
            )
        self.code_shape: Shape = (bottleneck.channels, out[0], out[1])
        self.encoder = SpikingLayer(
            [
                NormedConv(
                    features, bottleneck.channels, bottleneck.kernel, stride=bottleneck.stride
                )
            ],
            neuron,
        )
        padding = bottleneck.kernel // 2
        missing = tuple(
            size - ((small - 1) * bottleneck.stride - 2 * padding + bottleneck.kernel)
            for size, small in zip((height, width_px), out, strict=True)
        )
        self.decoder = SpikingLayer(
            [
                NormedConv(
                    bottleneck.channels,
                    features,
                    bottleneck.kernel,
                    stride=bottleneck.stride,
                    output_padding=(missing[0], missing[1]) if bottleneck.stride > 1 else None,
                )
            ],
            neuron,
        )
        last = backbones.scaled(backbone.blocks[-1].channels, backbone, width)
        self.readout = torch.nn.Linear(last, classes)
        for layer in self.spiking_layers():
            layer.steps = steps

    def _shape_after(self, blocks: torch.nn.ModuleDict) -> Shape:
        graph = _lower(blocks, self.input)
        return graph.output_shape

    def spiking_layers(self) -> list[SpikingLayer]:
        """Every layer of LIF neurons in order of construction."""
        return [module for module in self.modules() if isinstance(module, SpikingLayer)]

    def edge_layers(self) -> list[SpikingLayer]:
        """The layers of the edge half, the encoder last."""
        edge = [module for module in self.edge.modules() if isinstance(module, SpikingLayer)]
        return [*edge, self.encoder]

    def set_norm(self, norm: Norm) -> None:
        """Switch how every layer normalises while it trains."""
        for layer in self.spiking_layers():
            layer.norm = norm

    def _events(self, frames: torch.Tensor) -> torch.Tensor:
        """Levels (N, C, H, W) or events (N, T, C, H, W), any dtype, as (T·N, C, H, W)."""
        if frames.ndim == 4:
            frames = frames[:, None].expand(-1, self.steps, -1, -1, -1)
        events = frames.transpose(0, 1).flatten(0, 1).float()
        return events.contiguous(memory_format=torch.channels_last)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Code spikes (T·N, C, H, W) of the edge half."""
        events = self._events(frames)
        for block in self.edge.values():
            events = block(events)
        return self.encoder(events)

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Scores for each step (T, N, classes) of code spikes (T·N, C, H, W)."""
        events = self.decoder(code)
        for block in self.cloud.values():
            events = block(events)
        rate = events.float().mean((2, 3))
        return self.readout(rate).unflatten(0, (self.steps, -1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Scores for each step (T, N, classes); their mean over time is the answer."""
        return self.decode(self.encode(frames))

    def lower(self) -> tuple[Graph, Tail]:
        """The two halves as integer records; a copy, nothing is approximated."""
        edge = _lower(self.edge, self.input, ("encoder", self.encoder))
        code = Input(self.code_shape, name="code")
        cloud = _lower(self.cloud, code, first=("decoder", self.decoder))
        weight = self.readout.weight.detach().cpu().numpy()
        return edge, Tail(cloud, weight, self.readout.bias.detach().cpu().numpy())


def _lower(
    blocks: torch.nn.ModuleDict,
    source: Input,
    last: tuple[str, SpikingLayer] | None = None,
    first: tuple[str, SpikingLayer] | None = None,
) -> Graph:
    records: list[Lif] = []

    def emit(name: str, layer: SpikingLayer, sources: tuple[str, ...]) -> str:
        records.append(layer.record(name, sources))
        return name

    hidden = source.name
    if first is not None:
        hidden = emit(*first, (hidden,))
    for block_name, block in blocks.items():
        prefix = block_name.replace("/", ".")
        hidden = block.lower(
            hidden, lambda name, layer, sources, at=prefix: emit(f"{at}.{name}", layer, sources)
        )
    if last is not None:
        emit(*last, (hidden,))
    return Graph(source, tuple(records))
