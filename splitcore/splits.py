"""Backbones and their split points, as data.

A backbone is a row of named blocks; every block boundary is a split point and carries the name of
the block before it. Channel counts are those of the published network, whose stem has `stem_width`
channels; another width scales them all.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from splitcore.errors import ConfigError

ENCODER, DECODER = "encoder", "decoder"  # the layers at the two ends of a cut, where it has them

Kind = Literal["stem", "basic", "bottleneck", "separable", "inverted", "pointwise"]


@dataclass(frozen=True)
class Block:
    """One block: its kind, output channels at the published width, stride of its spatial conv.

    stem         k×k conv
    basic        3×3 – 3×3, shortcut current into the second LIF          (ResNet-18, -34)
    bottleneck   1×1 – 3×3 – 1×1 (channels / 4 inside), shortcut          (ResNet-50)
    separable    3×3 depthwise – 1×1                                      (MobileNet v1)
    inverted     1×1 expand – 3×3 depthwise – 1×1, shortcut where it fits (MobileNet v2)
    pointwise    1×1 conv
    """

    name: str
    kind: Kind
    channels: int
    stride: int = 1
    expansion: int = 1


@dataclass(frozen=True)
class Backbone:
    """A row of blocks; stem_width is the stem's channel count in the published network."""

    name: str
    stem_width: int
    blocks: tuple[Block, ...]

    @property
    def split_points(self) -> tuple[str, ...]:
        """Where it can be cut, from the input on; the last one is behind the last conv layer."""
        return tuple(block.name for block in self.blocks)

    def index(self, split: str, field: str = "split") -> int:
        """How many blocks lie before this split point. Raises ConfigError naming the field."""
        if split not in self.split_points:
            raise ConfigError(
                f"{field}: {self.name} has no block {split!r}; "
                f"choose of {', '.join(self.split_points)}"
            )
        return self.split_points.index(split) + 1


def _residual(
    name: str, kind: Kind, depths: tuple[int, ...], widths: tuple[int, ...], stem: int
) -> Backbone:
    blocks = [Block("stem", "stem", stem)]
    for stage, (depth, width) in enumerate(zip(depths, widths, strict=True), 1):
        for index in range(1, depth + 1):
            stride = 2 if index == 1 and stage > 1 else 1
            blocks.append(Block(f"stage{stage}.block{index}", kind, width, stride))
    return Backbone(name, stem, tuple(blocks))


def _mobilenet_v1() -> Backbone:
    rows = [(64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5]
    rows += [(1024, 2), (1024, 1)]
    blocks = [Block("stem", "stem", 32)]
    blocks += [
        Block(f"block{index}", "separable", channels, stride)
        for index, (channels, stride) in enumerate(rows, 1)
    ]
    return Backbone("mobilenet_v1", 32, tuple(blocks))


def _mobilenet_v2() -> Backbone:
    rows = [(1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2)]  # t, c, n, s of its table
    rows += [(6, 96, 3, 1), (6, 160, 3, 2), (6, 320, 1, 1)]
    blocks = [Block("stem", "stem", 32)]
    for stage, (expansion, channels, repeats, stride) in enumerate(rows, 1):
        for index in range(1, repeats + 1):
            block_stride = stride if index == 1 else 1
            name = f"stage{stage}.block{index}"
            blocks.append(Block(name, "inverted", channels, block_stride, expansion))
    blocks.append(Block("head", "pointwise", 1280))
    return Backbone("mobilenet_v2", 32, tuple(blocks))


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        _residual("resnet8", "basic", (1, 1, 1), (16, 32, 64), 16),
        _residual("resnet18", "basic", (2, 2, 2, 2), (64, 128, 256, 512), 64),
        _residual("resnet34", "basic", (3, 4, 6, 3), (64, 128, 256, 512), 64),
        _residual("resnet50", "bottleneck", (3, 4, 6, 3), (256, 512, 1024, 2048), 64),
        _mobilenet_v1(),
        _mobilenet_v2(),
    )
}


def backbone_named(name: str) -> Backbone:
    """The backbone of this name. Raises ConfigError listing those there are."""
    if name not in BACKBONES:
        raise ConfigError(f"backbone: no {name!r}; choose of {', '.join(BACKBONES)}")
    return BACKBONES[name]
