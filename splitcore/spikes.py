"""Binary spike tensors: uint8 arrays of 0 and 1, and their packed form of eight spikes a byte.

Axis order is time, channel, height, width; a leading N, where there is one, counts samples.
"""

from __future__ import annotations

import math

import numpy as np

from splitcore.errors import CodecError, DataError

SpikeShape = tuple[int, int, int, int]


def check_spikes(spikes: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """The same spikes as contiguous uint8, or DataError when they are not binary of this shape."""
    array = np.asarray(spikes)
    if array.shape != tuple(shape):
        raise DataError(f"spikes: expected shape {tuple(shape)}, got {array.shape}")
    if array.dtype == np.bool_:
        array = array.view(np.uint8)
    if array.dtype.kind not in "iu" or (array.size and (array.min() < 0 or array.max() > 1)):
        raise DataError("spikes: expected only 0 and 1")
    return np.ascontiguousarray(array, dtype=np.uint8)


def pack(spikes: np.ndarray) -> bytes:
    """Eight spikes a byte in C order, first spike in the highest bit, zeros at the end."""
    return np.packbits(check_spikes(spikes, spikes.shape).reshape(-1)).tobytes()


def packed_size(shape: tuple[int, ...]) -> int:
    """Bytes that `pack` makes of a tensor of this shape."""
    return (math.prod(shape) + 7) // 8


def unpack(packed: bytes, shape: tuple[int, ...]) -> np.ndarray:
    """The inverse of `pack`. Raises CodecError on a wrong length or on spikes behind the end."""
    count = math.prod(shape)
    if len(packed) != packed_size(shape):
        raise CodecError(
            f"bitmap: expected {packed_size(shape)} bytes for shape {tuple(shape)}, "
            f"got {len(packed)}"
        )
    bits = np.unpackbits(np.frombuffer(packed, dtype=np.uint8))
    if bits[count:].any():
        raise CodecError("bitmap: bits are set behind the last spike")
    return bits[:count].reshape(shape)


def levels(images: np.ndarray, message_bits: int) -> np.ndarray:
    """uint8 pixels, of any shape, as graded levels 0 … 2^message_bits − 1."""
    return images >> (8 - message_bits)


def direct_code(images_nchw: np.ndarray, message_bits: int, steps: int) -> np.ndarray:
    """Pixels (uint8) as graded spikes of message_bits, the same in each of the time steps.

    Returns a read-only view (N, T, C, H, W), uint8, values 0 … 2^message_bits − 1.
    """
    images = np.asarray(images_nchw)
    if images.dtype != np.uint8 or images.ndim != 4:
        raise DataError(f"images: expected uint8 (N, C, H, W), got {images.dtype} {images.shape}")
    if not 1 <= message_bits <= 8:
        raise DataError(f"message_bits: expected 1 … 8 for uint8 pixels, got {message_bits}")
    count, *shape = images.shape
    return np.broadcast_to(levels(images, message_bits)[:, None], (count, steps, *shape))
