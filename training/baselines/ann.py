"""A backbone as an ordinary network: the geometry of the spiking blocks, ReLU instead of spikes."""

from __future__ import annotations

import torch

from splitcore.splits import Backbone
from training import backbones
from training.blocks import Block, NeuronConfig, NormedConv, SpikingLayer
from training.byte_conv import grouped_conv


class AnnLayer(torch.nn.Module):
    """ReLU of a sum of normed convs, and of the identity shortcut where there is one."""

    def __init__(self, layer: SpikingLayer) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList(
            torch.nn.Sequential(_conv(conv), torch.nn.BatchNorm2d(len(conv.gain)))
            for conv in layer.convs
            if isinstance(conv, NormedConv)
        )
        self.identity = layer.identity

    def forward(self, *features: torch.Tensor) -> torch.Tensor:
        """Features, one tensor for each conv and one more for the identity."""
        total = features[-1] if self.identity else None
        for conv, source in zip(self.convs, features, strict=False):
            assert isinstance(conv, torch.nn.Sequential)
            current = self._current(conv, source)
            total = current if total is None else total + current
        assert total is not None
        return torch.relu(total)

    def _current(self, conv: torch.nn.Sequential, source: torch.Tensor) -> torch.Tensor:
        """Conv and norm; while training, a grouped conv by kernels whose gradients are fast."""
        weights, norm = conv
        assert isinstance(weights, torch.nn.Conv2d)
        if not self.training or weights.groups == 1:
            return conv(source)
        if torch.is_autocast_cpu_enabled():
            source = source.to(torch.get_autocast_cpu_dtype())
        stride, padding = weights.stride[0], weights.padding[0]
        assert isinstance(padding, int)
        return norm(
            grouped_conv(
                source, weights.weight, (stride, stride), (padding, padding), weights.groups
            )
        )


def _conv(conv: NormedConv) -> torch.nn.Conv2d:
    outputs, per_group, kernel, _ = conv.weight.shape
    return torch.nn.Conv2d(
        per_group * conv.groups,
        outputs,
        kernel,
        stride=conv.stride,
        padding=conv.padding,
        groups=conv.groups,
        bias=False,
    )


class AnnBlock(torch.nn.Module):
    """A row of layers with a shortcut into the last one where the spiking block has it."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(
            AnnLayer(layer) for layer in block.layers.values() if isinstance(layer, SpikingLayer)
        )
        self.shortcut = block.shortcut

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features behind the last layer."""
        *first, last = self.layers
        hidden = features
        for layer in first:
            hidden = layer(hidden)
        return last(hidden, features) if self.shortcut else last(hidden)


def ann_blocks(
    backbone: Backbone, *, width: int, input_shape: tuple[int, int, int]
) -> list[AnnBlock]:
    """The blocks of a backbone in order, for images (C, H, W)."""
    spiking = backbones.build(
        backbone,
        width=width,
        input_shape=input_shape,
        input_bits=8,
        neurons=backbones.neurons(backbone, NeuronConfig()),
    )
    return [AnnBlock(block) for block in spiking.values() if isinstance(block, Block)]
