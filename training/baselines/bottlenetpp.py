"""BottleNet++ (Shao and Zhang 2019, arXiv 1910.14315): sigmoid codes of 8 bits.

    edge    3×3 conv (2×2 with a stride of 2), batch norm, sigmoid, 8 bits a value
    cloud   conv, or transposed conv where there is a stride, batch norm, ReLU

Training adds Gaussian noise to the code, as its channel would; the link measured here loses
nothing. The bytes go through zstandard where that is shorter, which the paper does not do.
"""

from __future__ import annotations

import numpy as np
import torch

from training.baselines.codec import FeatureCodec, conv_norm, squeeze, unsqueeze, upscale_norm

LEVELS = 255


class BottleNetPlusPlus(FeatureCodec):
    """code_channels of 8 bits a position; noise: standard deviation while training."""

    def __init__(
        self, channels: int, code_channels: int, stride: int = 1, noise: float = 0.05
    ) -> None:
        super().__init__()
        self.noise = noise
        if stride == 1:
            self.encoder = conv_norm(channels, code_channels, 3, torch.nn.Sigmoid())
        else:
            self.encoder = torch.nn.Sequential(
                torch.nn.Conv2d(channels, code_channels, stride, stride, bias=False),
                torch.nn.BatchNorm2d(code_channels),
                torch.nn.Sigmoid(),
            )
        self.decoder = upscale_norm(code_channels, channels, stride, torch.nn.ReLU())

    def soften(self, code: torch.Tensor) -> torch.Tensor:
        """Rounded to 8 bits, straight through; noisy while training."""
        code = code + (torch.round(code.detach() * LEVELS) / LEVELS - code.detach())
        return code + self.noise * torch.randn_like(code) if self.training else code

    def pack(self, code_chw: torch.Tensor) -> bytes:
        """A byte for each value, squeezed."""
        levels = torch.round(code_chw.detach().float() * LEVELS).to(torch.uint8)
        return squeeze(levels.numpy().tobytes())

    def unpack(self, payload: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        """The code of a payload."""
        raw = unsqueeze(payload, int(np.prod(shape)))
        levels = np.frombuffer(raw, np.uint8).reshape(shape)
        return torch.from_numpy(levels.astype(np.float32) / LEVELS)
