"""The split model: backbone blocks, an encoder and a decoder at the cut, a readout.

    pixels ── edge blocks ── encoder ──(code spikes)── decoder ── cloud blocks ── mean ── scores

Without a bottleneck there is no encoder and no decoder: the spikes at the cut are the code.
`forward` takes levels (N, C, H, W) or events (N, T, C, H, W) and returns scores for each step;
`encode` and `decode` are the two halves on real spikes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch

from splitcore.errors import ConfigError
from splitcore.graph import Graph, Input, Lif
from splitcore.splits import DECODER, ENCODER, Backbone
from splitcore.tail import Tail
from training import backbones
from training.blocks import Block, NeuronConfig, Norm, NormedConv, SpikingLayer

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class BottleneckConfig:
    """Code channels, spatial stride and kernel of the encoder; the decoder mirrors them.

    encoder_decay, decoder_decay: the voltage decay of their neurons, where it is not that of the
    block beside them.
    """

    channels: int
    stride: int = 1
    kernel: int = 3
    encoder_decay: float | None = None
    decoder_decay: float | None = None


class SplitModel(torch.nn.Module):
    """A backbone cut at one of its split points.

    bottleneck: None sends the features as they are. input_shape (C, H, W), input_bits of the
    graded pixels (0: binary events), steps T. decays: the voltage decay from a block on, where it
    is not the neuron's; the encoder has that of the block before it, the decoder that of the next,
    unless the bottleneck says another.
    """

    def __init__(
        self,
        backbone: Backbone,
        *,
        split: str,
        bottleneck: BottleneckConfig | None,
        width: int,
        input_shape: Shape,
        input_bits: int,
        classes: int,
        steps: int,
        neuron: NeuronConfig,
        decays: Mapping[str, float] | None = None,
    ) -> None:
        super().__init__()
        self.backbone, self.split = backbone, split
        self.input = Input(input_shape, input_bits)
        cut = backbone.index(split)
        neurons = backbones.neurons(backbone, neuron, decays)
        blocks = list(
            backbones.build(
                backbone,
                width=width,
                input_shape=input_shape,
                input_bits=input_bits,
                neurons=neurons,
            ).items()
        )
        self.edge = torch.nn.ModuleDict(dict(blocks[:cut]))
        self.cloud = torch.nn.ModuleDict(dict(blocks[cut:]))
        self.feature_shape = self.shape_after(len(self.edge))
        self.code_shape: Shape = self.feature_shape
        self.encoder: SpikingLayer | None = None
        self.decoder: SpikingLayer | None = None
        if bottleneck is not None:
            each = list(neurons.values())
            self._squeeze(bottleneck, each[cut - 1], each[min(cut, len(each) - 1)])
        last = backbones.scaled(backbone.blocks[-1].channels, backbone, width)
        self.readout = torch.nn.Linear(last, classes)
        self.set_steps(steps)

    def _squeeze(
        self, bottleneck: BottleneckConfig, before: NeuronConfig, behind: NeuronConfig
    ) -> None:
        """Put encoder and decoder in at the cut, with the neurons of their neighbours."""
        (features, height, width), kernel = self.feature_shape, bottleneck.kernel
        padding, stride = kernel // 2, bottleneck.stride
        out = [(size + 2 * padding - kernel) // stride + 1 for size in (height, width)]
        if min(out) < 1 or kernel % 2 == 0:
            raise ConfigError(
                f"bottleneck: kernel {kernel} (odd) and stride {stride} do not fit features of "
                f"{height}×{width} at {self.split}"
            )
        self.code_shape = (bottleneck.channels, out[0], out[1])
        squeeze = NormedConv(features, bottleneck.channels, kernel, stride=stride)
        missing = tuple(
            size - ((small - 1) * stride - 2 * padding + kernel)
            for size, small in zip((height, width), out, strict=True)
        )
        restore = NormedConv(
            bottleneck.channels,
            features,
            kernel,
            stride=stride,
            output_padding=(missing[0], missing[1]) if stride > 1 else None,
        )
        self.encoder = SpikingLayer([squeeze], _decaying(before, bottleneck.encoder_decay))
        self.decoder = SpikingLayer([restore], _decaying(behind, bottleneck.decoder_decay))

    def set_steps(self, steps: int) -> None:
        """Run this many time steps from now on; the weights know no number of steps."""
        self.steps = steps
        for layer in self.spiking_layers():
            layer.set_steps(steps)

    def set_backward_steps(self, chosen: range) -> None:
        """Let gradients flow through these neighbouring time steps alone."""
        for layer in self.spiking_layers():
            layer.backward_steps = chosen

    def shape_after(self, blocks: int) -> Shape:
        """(C, H, W) of what the first `blocks` edge blocks give."""
        shape = self.input.shape
        for block in list(self.edge.values())[:blocks]:
            assert isinstance(block, Block)
            shape = block.output_shape(shape)
        return shape

    def first_blocks(self, blocks: int) -> torch.nn.ModuleDict:
        """The first so many edge blocks by name."""
        return torch.nn.ModuleDict(dict(list(self.edge.items())[:blocks]))

    def spiking_layers(self) -> list[SpikingLayer]:
        """Every layer of LIF neurons in order of construction."""
        return [module for module in self.modules() if isinstance(module, SpikingLayer)]

    def edge_layers(self) -> list[SpikingLayer]:
        """The layers of the edge half, the encoder last."""
        edge = [module for module in self.edge.modules() if isinstance(module, SpikingLayer)]
        return edge if self.encoder is None else [*edge, self.encoder]

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

    def features(self, frames: torch.Tensor, blocks: int | None = None) -> torch.Tensor:
        """Spikes (T·N, C, H, W) of the last edge block, or of its block number `blocks`."""
        events = self._events(frames)
        for block in list(self.edge.values())[:blocks]:
            events = block(events)
        return events

    def features_after(
        self, events: torch.Tensor, blocks: int, until: int | None = None
    ) -> torch.Tensor:
        """The same from what the first `blocks` blocks gave; of block number `until`."""
        for block in list(self.edge.values())[blocks:until]:
            events = block(events)
        return events

    def squeeze(self, features: torch.Tensor) -> torch.Tensor:
        """Code spikes of the spikes that `features` gives."""
        return features if self.encoder is None else self.encoder(features)

    def encode(self, frames: torch.Tensor) -> torch.Tensor:
        """Code spikes (T·N, C, H, W) of the edge half."""
        return self.squeeze(self.features(frames))

    def decode(self, code: torch.Tensor) -> torch.Tensor:
        """Scores for each step (T, N, classes) of code spikes (T·N, C, H, W)."""
        events = code if self.decoder is None else self.decoder(code)
        for block in self.cloud.values():
            events = block(events)
        rate = events.float().mean((2, 3))
        return self.readout(rate).unflatten(0, (self.steps, -1))

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """Scores for each step (T, N, classes); their mean over time is the answer."""
        return self.decode(self.encode(frames))

    def lower(self) -> tuple[Graph, Tail]:
        """The two halves as integer records; a copy, nothing is approximated."""
        last = None if self.encoder is None else (ENCODER, self.encoder)
        first = None if self.decoder is None else (DECODER, self.decoder)
        edge = _lower(self.edge, self.input, last=last)
        code = Input(self.code_shape, name="code")
        cloud = _lower(self.cloud, code, first=first)
        weight = self.readout.weight.detach().cpu().numpy()
        return edge, Tail(cloud, weight, self.readout.bias.detach().cpu().numpy())


def _decaying(neuron: NeuronConfig, decay: float | None) -> NeuronConfig:
    """The neuron with another voltage decay, where there is one."""
    return neuron if decay is None else replace(neuron, voltage_decay=decay)


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
