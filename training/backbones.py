"""Backbones of `splitcore.splits` as SLAYER blocks. Nothing here knows where a network is cut."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch

from splitcore.splits import Backbone
from splitcore.splits import Block as BlockSpec
from training.blocks import Block, NeuronConfig, NormedConv, SpikingLayer

LARGE_IMAGE = 96  # pixels; from here on the stem is 7×7 with stride 4, without pooling


def scaled(channels: int, backbone: Backbone, width: int) -> int:
    """Channels at this stem width; at least 4, a multiple of 4."""
    return max(4, round(channels * width / backbone.stem_width / 4) * 4)


def neurons(
    backbone: Backbone,
    neuron: NeuronConfig,
    decays: Mapping[str, float] | None = None,
) -> dict[str, NeuronConfig]:
    """The neurons of each block; decays: the voltage decay from a block on."""
    found: dict[str, NeuronConfig] = {}
    for name in backbone.split_points:
        neuron = replace(neuron, voltage_decay=(decays or {}).get(name, neuron.voltage_decay))
        found[name] = neuron
    return found


def build(
    backbone: Backbone,
    *,
    width: int,
    input_shape: tuple[int, int, int],
    input_bits: int,
    neurons: Mapping[str, NeuronConfig],
) -> torch.nn.ModuleDict:
    """The blocks in order by name. input_shape (C, H, W); input_bits of the graded pixels; neurons
    of each block.
    """
    blocks: dict[str, Block] = {}
    channels = input_shape[0]
    for spec in backbone.blocks:
        neuron = neurons[spec.name]
        out = scaled(spec.channels, backbone, width)
        if spec.kind == "stem":
            stem = _stem(channels, out, backbone, max(input_shape[1:]))
            input_max = (1 << input_bits) - 1 if input_bits else 1
            block = Block({"conv": SpikingLayer([stem], neuron, input_max=input_max)}, False)
        else:
            block = _block(spec, channels, out, neuron)
        blocks[spec.name.replace(".", "/")] = block  # a module's name may hold no dot
        channels = out
    return torch.nn.ModuleDict(blocks)


def _stem(channels: int, out: int, backbone: Backbone, pixels: int) -> NormedConv:
    if pixels >= LARGE_IMAGE:
        return NormedConv(channels, out, 7, stride=4)
    stride = 2 if backbone.name.startswith("mobilenet") and pixels > 32 else 1
    return NormedConv(channels, out, 3, stride=stride)


def _block(spec: BlockSpec, channels: int, out: int, neuron: NeuronConfig) -> Block:
    match spec.kind:
        case "basic":
            rows = [(channels, out, 3, spec.stride, 1), (out, out, 3, 1, 1)]
            names, shortcut = ("conv1", "conv2"), True
        case "bottleneck":
            inside = out // 4
            rows = [
                (channels, inside, 1, 1, 1),
                (inside, inside, 3, spec.stride, 1),
                (inside, out, 1, 1, 1),
            ]
            names, shortcut = ("conv1", "conv2", "conv3"), True
        case "separable":
            rows = [(channels, channels, 3, spec.stride, channels), (channels, out, 1, 1, 1)]
            names, shortcut = ("depthwise", "pointwise"), False
        case "inverted":
            inside = channels * spec.expansion
            rows = [(inside, inside, 3, spec.stride, inside), (inside, out, 1, 1, 1)]
            names: tuple[str, ...] = ("depthwise", "project")
            if spec.expansion > 1:
                rows = [(channels, inside, 1, 1, 1), *rows]
                names = ("expand", *names)
            shortcut = spec.stride == 1 and channels == out
        case "pointwise":
            rows, names, shortcut = [(channels, out, 1, 1, 1)], ("conv",), False
        case _:
            raise AssertionError(f"backbone table has an unknown block kind {spec.kind!r}")
    same = spec.stride == 1 and channels == out
    layers: dict[str, SpikingLayer] = {}
    for name, (inputs, outputs, kernel, stride, groups) in zip(names, rows, strict=True):
        convs = [NormedConv(inputs, outputs, kernel, stride=stride, groups=groups)]
        joins = shortcut and name == names[-1]
        if joins and not same:
            convs.append(NormedConv(channels, out, 1, stride=spec.stride))
        layers[name] = SpikingLayer(convs, neuron, identity=joins and same)
    return Block(layers, shortcut)
