"""Kinds of number that a safetensors file can hold and numpy cannot."""

from __future__ import annotations

import json
from pathlib import Path

BYTES = {"BF16": 2, "F8_E4M3": 1, "F8_E5M2": 1}


def renumber(path: Path, old: str, new: str) -> None:
    """Say of every one-dimensional tensor of kind `old` that its bytes are numbers of `new`."""
    raw = path.read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    for name, tensor in header.items():
        if name != "__metadata__" and tensor["dtype"] == old:
            first, last = tensor["data_offsets"]
            tensor.update(dtype=new, shape=[(last - first) // BYTES[new]])
    said = json.dumps(header).encode()
    path.write_bytes(len(said).to_bytes(8, "little") + said + raw[8 + size :])
