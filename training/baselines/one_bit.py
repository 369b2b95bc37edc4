"""A CNN whose bottleneck is one bit a value, with a straight-through gradient; no time, no spikes.

    edge    k×k conv, batch norm, sign
    cloud   conv, or transposed conv where there is a stride, batch norm, ReLU

Its bits go through the very codecs that carry our spikes, as spikes of a single step, with firing
rates and a context model of the training images' codes that both sides know, as in a bundle.
"""

from __future__ import annotations

import numpy as np
import torch

from splitcore.codec import context_fit
from splitcore.codec.context import CodeContext
from splitcore.codec.context_model import ContextModel
from splitcore.codec.registry import decode, encode_best
from training.baselines.codec import FeatureCodec, conv_norm, upscale_norm


class OneBit(FeatureCodec):
    """code_channels of one bit a position."""

    value_bits = 1
    envelope_bytes = 1  # the codec's id

    def __init__(self, channels: int, code_channels: int, stride: int = 1, kernel: int = 3) -> None:
        super().__init__()
        self.encoder = conv_norm(channels, code_channels, kernel, torch.nn.Identity(), stride)
        self.decoder = upscale_norm(code_channels, channels, stride, torch.nn.ReLU())
        self._rates = (0.5,) * code_channels
        self._model: ContextModel | None = None

    def soften(self, code: torch.Tensor) -> torch.Tensor:
        """0 or 1; the gradient passes where the value is within ±1 (Hubara et al. 2016)."""
        bits = (code.detach() > 0).to(code.dtype)
        within = code.clamp(-1, 1)
        return bits + within - within.detach()

    def observe(self, code: torch.Tensor) -> None:
        """Take rates and context model from the codes of training images."""
        bits = (code > 0).to(torch.uint8).numpy()[:, None]
        self._rates = tuple(float(rate) for rate in bits.mean(axis=(0, 1, 3, 4), dtype=np.float64))
        self._model = context_fit.fit(bits)

    def _context(self, shape: tuple[int, ...]) -> CodeContext:
        return CodeContext((1, shape[0], shape[1], shape[2]), self._rates, self._model)

    def pack(self, code_chw: torch.Tensor) -> bytes:
        """The codec's id, then its payload."""
        bits = (code_chw.detach() > 0).to(torch.uint8).numpy()[None]
        codec_id, payload = encode_best(bits, self._context(bits.shape[1:]))
        return bytes([codec_id]) + payload

    def unpack(self, payload: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        """The bits of a payload."""
        bits = decode(payload[0], payload[1:], self._context(shape))
        return torch.from_numpy(bits[0].astype(np.float32))
