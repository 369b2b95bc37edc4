"""The tensors of a safetensors file, whoever wrote it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from safetensors import SafetensorError, safe_open

from splitcore.errors import BundleError


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
