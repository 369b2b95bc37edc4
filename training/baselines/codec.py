"""What a baseline sends over the link.

    features ── encoder ── code ── decoder ── features        while training (quantisation and
                                                              noise with straight-through gradients)
    features ── encoder ── code ── bytes ── code ── decoder   while it is measured

Both sides know the codec and its learned constants; nothing else reaches the decoder but bytes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
import zstandard

ZSTD_LEVEL = 19


@dataclass(frozen=True)
class Sent:
    """What crossed the link for a batch: a payload for each image, and what it decodes to."""

    payloads: tuple[bytes, ...]
    features: torch.Tensor


class FeatureCodec(torch.nn.Module, ABC):
    """A learned encoder and decoder around a step that makes bytes of a code.

    `encoder` runs on the edge, `decoder` in the cloud; subclasses say how a code becomes bytes.
    """

    encoder: torch.nn.Module
    decoder: torch.nn.Module
    value_bits = 8
    """Bits of one value of a code before anything squeezes it."""
    envelope_bytes = 0
    """Bytes of each payload that a packet of ours would carry in its envelope."""

    @abstractmethod
    def soften(self, code: torch.Tensor) -> torch.Tensor:
        """The code as the cloud will see it, differentiable; noise only while training."""

    @abstractmethod
    def pack(self, code_chw: torch.Tensor) -> bytes:
        """The payload of one image."""

    @abstractmethod
    def unpack(self, payload: bytes, shape: tuple[int, ...]) -> torch.Tensor:
        """The code (C, H, W) of a payload; shape is known to both sides."""

    def observe(self, code: torch.Tensor) -> None:
        """Learn how to send such codes (N, C, H, W): those of training images, when trained."""

    def header_bits(self, shape: tuple[int, ...]) -> int:
        """Bits of a payload's file format that both sides know and nobody sends."""
        return 0

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Features as the cloud will have them, differentiable."""
        return self.decoder(self.soften(self.encoder(features)))

    def transmit(self, features: torch.Tensor) -> Sent:
        """Send a batch as bytes and decode what arrived; no gradient."""
        with torch.no_grad():
            code = self.encoder(features)
            payloads = tuple(self.pack(image.float().cpu()) for image in code)
            arrived = [self.unpack(payload, tuple(code.shape[1:])) for payload in payloads]
            stacked = torch.stack(arrived).to(features.device, features.dtype)
            return Sent(payloads, self.decoder(stacked))


def squeeze(raw: bytes) -> bytes:
    """Through zstandard where that is shorter; a full length says that it was not."""
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=False).compress(raw)
    return packed if len(packed) < len(raw) else raw


def unsqueeze(payload: bytes, size: int) -> bytes:
    """The inverse of `squeeze` for `size` raw bytes."""
    if len(payload) == size:
        return payload
    return zstandard.ZstdDecompressor().decompress(payload, max_output_size=size)


def conv_norm(
    inputs: int, outputs: int, kernel: int, activation: torch.nn.Module, stride: int = 1
) -> torch.nn.Sequential:
    """Conv, batch norm, activation."""
    conv = torch.nn.Conv2d(inputs, outputs, kernel, stride, kernel // 2, bias=False)
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(outputs), activation)


def upscale_norm(
    inputs: int, outputs: int, stride: int, activation: torch.nn.Module
) -> torch.nn.Sequential:
    """Transposed conv that undoes a stride, or a 3×3 conv without one; batch norm, activation."""
    if stride == 1:
        return conv_norm(inputs, outputs, 3, activation)
    conv = torch.nn.ConvTranspose2d(inputs, outputs, stride, stride, bias=False)
    return torch.nn.Sequential(conv, torch.nn.BatchNorm2d(outputs), activation)
