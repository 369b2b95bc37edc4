"""Codec 3: the bitmap, compressed by zstandard.

The frame has no magic number, content size or checksum: the shape is known and the packet has its
own checksum.
"""

from __future__ import annotations

import numpy as np
import zstandard

from splitcore import spikes
from splitcore.codec.codec import Codec
from splitcore.codec.context import CodeContext
from splitcore.errors import CodecError

LEVEL = 9
# No content size, checksum or dictionary. python-zstandard allocates what a content size claims,
# whatever max_output_size says.
FRAME_DESCRIPTOR = b"\x00"
MAX_WINDOW_BYTES = 1 << 22  # no bitmap of MAX_SPIKES is longer than 2 MiB


class BitmapZstd(Codec):
    """General-purpose compression, for comparison and for repetitive codes."""

    id, name = 3, "bitmap+zstd"

    def encode(self, spikes_tchw: np.ndarray, context: CodeContext, past_tchw: np.ndarray) -> bytes:
        """See Codec."""
        packed = spikes.pack(spikes_tchw)
        parameters = zstandard.ZstdCompressionParameters.from_level(
            LEVEL,
            source_size=len(packed),
            format=zstandard.FORMAT_ZSTD1_MAGICLESS,
            write_content_size=0,
        )
        return zstandard.ZstdCompressor(compression_params=parameters).compress(packed)

    def decode(
        self, payload: bytes, context: CodeContext, past_tchw: np.ndarray, steps: int
    ) -> np.ndarray:
        """See Codec."""
        shape = (steps, *context.shape[1:])
        if payload[:1] != FRAME_DESCRIPTOR:
            raise CodecError("bitmap+zstd: not the frame header that we write")
        decompressor = zstandard.ZstdDecompressor(
            max_window_size=MAX_WINDOW_BYTES, format=zstandard.FORMAT_ZSTD1_MAGICLESS
        )
        try:
            packed = decompressor.decompress(
                payload,
                max_output_size=spikes.packed_size(shape),
                allow_extra_data=False,
            )
        except zstandard.ZstdError as error:
            raise CodecError(f"bitmap+zstd: {error}") from None
        return spikes.unpack(packed, shape)
