"""Tensors in safetensors files: one content, the same bytes; and those that others wrote."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from splitcore.errors import BundleError

LENGTH_BYTES = 8  # before the header: its length, little-endian


def save_tensors(
    tensors: dict[str, np.ndarray], path: Path, metadata: dict[str, str] | None = None
) -> None:
    """Write tensors and metadata.

    safetensors writes several metadata in an order of chance, which would give the same weights
    another digest; here they are sorted.
    """
    raw = save(tensors, metadata)
    body = LENGTH_BYTES + int.from_bytes(raw[:LENGTH_BYTES], "little")
    header = json.loads(raw[LENGTH_BYTES:body])
    if metadata is not None:
        header["__metadata__"] = dict(sorted(metadata.items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text = text.ljust(-(-len(text) // 8) * 8)  # tensors begin at whole words
    path.write_bytes(len(text).to_bytes(LENGTH_BYTES, "little") + text + raw[body:])


def load_tensors(path: Path) -> tuple[dict[str, str], dict[str, np.ndarray]]:
    """Metadata and tensors, by name. Raises BundleError naming the file, and the tensor if any."""
    tensors: dict[str, np.ndarray] = {}
    try:
        with safe_open(str(path), framework="numpy") as file:
            for name in file.keys():  # noqa: SIM118
                try:
                    tensors[name] = file.get_tensor(name)
                except (TypeError, AttributeError):  # as safetensors says it of BF16 and of F8
                    dtype = file.get_slice(name).get_dtype()
                    raise BundleError(f"{path}: {name}: numpy has no numbers of {dtype}") from None
            return file.metadata() or {}, tensors
    except (OSError, SafetensorError) as error:
        raise BundleError(f"{path}: no readable safetensors file ({error})") from None
