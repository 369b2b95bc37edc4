"""Where to train: what --device may say."""

from __future__ import annotations

import torch

from splitcore.errors import UsageError


def require(device: str) -> None:
    """Raise UsageError unless torch can compute on `device` here: cpu, cuda or cuda:N."""
    kind, _, number = device.partition(":")
    if device == "cpu":
        return
    if kind != "cuda" or (":" in device and not number.isdecimal()):
        raise UsageError(f"--device {device}: expected cpu, cuda or cuda:N")
    available = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if available <= int(number or 0):
        raise UsageError(f"--device {device}: there is no such CUDA device here; use cpu")
