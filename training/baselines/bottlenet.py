"""BottleNet (Eshratifar et al. 2019, arXiv 1902.01000): features as a small JPEG picture.

    edge    1×1 conv c → c', conv of stride s, batch norm, ReLU, 8 bits between minimum and maximum,
            channels tiled into one grey picture, JPEG of quality 20
    cloud   picture, tiles, conv of stride 1/s, 1×1 conv c' → c, batch norm, ReLU

JPEG counts as the identity for the gradient. Minimum and maximum travel in 16 bits each.
"""

from __future__ import annotations

import math
import struct

import numpy as np
import torch

from training.baselines import jpeg
from training.baselines.codec import FeatureCodec, conv_norm, upscale_norm

RANGE = struct.Struct("<ee")  # minimum and maximum of the code
LEVELS = 255
HALF_MAX = float(np.finfo(np.float16).max)


class BottleNet(FeatureCodec):
    """code_channels c', stride s, JPEG quality (the paper's is 20).

    A kernel of 2s − 1 looks at every position, also where the stride is wider than the paper's 2.
    """

    def __init__(
        self, channels: int, code_channels: int, stride: int = 2, quality: int = 20
    ) -> None:
        super().__init__()
        self.quality = quality
        relu = torch.nn.ReLU()
        self.encoder = torch.nn.Sequential(
            torch.nn.Conv2d(channels, code_channels, 1),
            *conv_norm(code_channels, code_channels, max(3, 2 * stride - 1), relu, stride),
        )
        self.decoder = torch.nn.Sequential(
            *upscale_norm(code_channels, code_channels, stride, relu),
            *conv_norm(code_channels, channels, 1, relu),
        )

    def soften(self, code: torch.Tensor) -> torch.Tensor:
        """Quantised, as JPEG leaves it; the gradient passes as it is."""
        with torch.no_grad():
            shape = tuple(code.shape[1:])
            seen = [self.unpack(self.pack(image), shape) for image in code.float().cpu()]
            change = torch.stack(seen).to(code.device, code.dtype) - code
        return code + change

    def pack(self, code_chw: torch.Tensor) -> bytes:
        """Range, then the tiled picture."""
        code = code_chw.detach().float().numpy()
        ends = RANGE.pack(*np.clip((code.min(), code.max()), -HALF_MAX, HALF_MAX))
        low, high = RANGE.unpack(ends)
        levels = np.rint((code - low) / ((high - low) or 1.0) * LEVELS).clip(0, LEVELS)
        return ends + jpeg.compress(_tile(levels.astype(np.uint8)), self.quality)

    def unpack(self, payload: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        """The code of a payload."""
        low, high = RANGE.unpack_from(payload)
        levels = jpeg.decompress(payload[RANGE.size :], _picture(shape), self.quality)
        code = low + _untile(levels, shape).astype(np.float32) / LEVELS * (high - low)
        return torch.from_numpy(code.astype(np.float32))

    def header_bits(self, shape: tuple[int, ...]) -> int:
        """JPEG's own, of the tiled picture."""
        return 8 * jpeg.header_bytes(_picture(shape), self.quality)


def _picture(shape: tuple[int, ...]) -> tuple[int, int]:
    rows, columns = _grid(shape[0])
    return rows * shape[1], columns * shape[2]


def _grid(channels: int) -> tuple[int, int]:
    """Rows and columns of tiles, as near a square as may be."""
    columns = math.ceil(math.sqrt(channels))
    return math.ceil(channels / columns), columns


def _tile(code_chw: np.ndarray) -> np.ndarray:
    channels, height, width = code_chw.shape
    rows, columns = _grid(channels)
    padded = np.zeros((rows * columns, height, width), np.uint8)
    padded[:channels] = code_chw
    tiles = padded.reshape(rows, columns, height, width).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(tiles.reshape(rows * height, columns * width))


def _untile(picture: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    channels, height, width = shape
    rows, columns = _grid(channels)
    tiles = picture.reshape(rows, height, columns, width).transpose(0, 2, 1, 3)
    return tiles.reshape(rows * columns, height, width)[:channels]
