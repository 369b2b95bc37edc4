"""Real JPEG through Pillow: headers both sides know, and the upload of whole pictures.

A JPEG stream begins with tables that depend on size and quality alone. On pictures of a few
hundred bytes they would be most of the cost, so both sides are granted them and only what follows
is charged; `header_bytes` says how much that leaves out.
"""

from __future__ import annotations

import io
from functools import lru_cache

import numpy as np
import torch
from PIL import Image

from splitcore.errors import ConfigError
from training.baselines.codec import Sent

END = b"\xff\xd9"


def _encode(pixels: np.ndarray, quality: int) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", quality=quality, optimize=False)
    return stream.getvalue()


@lru_cache(maxsize=64)
def _header(shape: tuple[int, ...], quality: int) -> bytes:
    """Everything up to the end of the start-of-scan segment."""
    stream = _encode(np.zeros(shape, np.uint8), quality)
    at = 2
    while stream[at + 1] != 0xDA:  # segments carry their length; start of scan is the last one
        at += 2 + int.from_bytes(stream[at + 2 : at + 4], "big")
    return stream[: at + 2 + int.from_bytes(stream[at + 2 : at + 4], "big")]


def header_bytes(shape: tuple[int, ...], quality: int) -> int:
    """Bytes of a whole file of this shape (H, W) or (H, W, 3) that are not charged."""
    return len(_header(shape, quality)) + len(END)


def pixels_of(image_chw: np.ndarray) -> np.ndarray:
    """An image (1 or 3, H, W) as `compress` takes it: (H, W) or (H, W, 3)."""
    pixels = image_chw[0] if len(image_chw) == 1 else np.moveaxis(image_chw, 0, -1)
    return np.ascontiguousarray(pixels)


def compress(pixels: np.ndarray, quality: int) -> bytes:
    """uint8 pixels (H, W) or (H, W, 3) as JPEG without header and end mark."""
    stream, header = _encode(pixels, quality), _header(pixels.shape, quality)
    assert stream.startswith(header), "JPEG headers depend on the picture"
    assert stream.endswith(END)
    return stream[len(header) : -len(END)]


def decompress(payload: bytes, shape: tuple[int, ...], quality: int) -> np.ndarray:
    """The inverse of `compress`, as far as JPEG has one."""
    with Image.open(io.BytesIO(_header(shape, quality) + payload + END)) as picture:
        return np.asarray(picture)


class JpegUpload(torch.nn.Module):
    """Everything in the cloud: the picture goes there as JPEG; the edge computes no network."""

    def __init__(self, quality: int) -> None:
        super().__init__()
        if not 1 <= quality <= 95:
            raise ConfigError(f"JPEG upload: expected a quality of 1 … 95, got {quality}")
        self.quality = quality

    def transmit(self, images: torch.Tensor) -> Sent:
        """Images 0 … 1 (N, 1 or 3, H, W) as the cloud sees them."""
        payloads, arrived = [], []
        for image in images:
            pixels = pixels_of((image * 255).round().to(torch.uint8).cpu().numpy())
            payloads.append(compress(pixels, self.quality))
            got = decompress(payloads[-1], pixels.shape, self.quality)
            got = got[..., None] if got.ndim == 2 else got
            arrived.append(torch.from_numpy(got.copy()).permute(2, 0, 1))
        features = torch.stack(arrived).to(images.device, images.dtype) / 255
        return Sent(tuple(payloads), features)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """The decoded pictures, with the gradient of the identity."""
        with torch.no_grad():
            change = self.transmit(images).features - images
        return images + change
