"""A CNN whose bottleneck is one bit a value, with a straight-through gradient; no time, no spikes.

    edge    k×k conv, batch norm, sign
    cloud   conv, or transposed conv where there is a stride, batch norm, ReLU

Its bits go through the very codecs that carry our spikes, as spikes of a single step, with firing
rates that both sides know.
"""

from __future__ import annotations

import numpy as np
import torch

from splitcore.codec.context import CodeContext
from splitcore.codec.registry import decode, encode_best
from training.baselines.codec import FeatureCodec, conv_norm, upscale_norm

MOMENTUM = 0.1


class OneBit(FeatureCodec):
    """code_channels of one bit a position."""

    value_bits = 1
    envelope_bytes = 1  # the codec's id

    def __init__(self, channels: int, code_channels: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.encoder = conv_norm(channels, code_channels, kernel, torch.nn.Identity(), stride)
        self.decoder = upscale_norm(code_channels, channels, stride, torch.nn.ReLU())
        self.rates: torch.Tensor
        self.register_buffer("rates", torch.full((code_channels,), 0.5))

    def soften(self, code: torch.Tensor) -> torch.Tensor:
        """0 or 1; the gradient passes where the value is within ±1 (Hubara et al. 2016)."""
        bits = (code.detach() > 0).to(code.dtype)
        if self.training:
            self.rates.lerp_(bits.float().mean((0, 2, 3)), MOMENTUM)
        within = code.clamp(-1, 1)
        return bits + within - within.detach()

    def _context(self, shape: tuple[int, ...]) -> CodeContext:
        rates = tuple(float(rate) for rate in self.rates.clamp(0, 1))
        return CodeContext((1, shape[0], shape[1], shape[2]), rates)

    def pack(self, code_chw: torch.Tensor) -> bytes:
        """The codec's id, then its payload."""
        bits = (code_chw.detach() > 0).to(torch.uint8).numpy()[None]
        codec_id, payload = encode_best(bits, self._context(bits.shape[1:]))
        return bytes([codec_id]) + payload

    def unpack(self, payload: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        """The bits of a payload."""
        bits = decode(payload[0], payload[1:], self._context(shape))
        return torch.from_numpy(bits[0].astype(np.float32))
