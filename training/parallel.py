"""Several processes on one training run, started by torchrun: torch's own DDP, and little else.

Every process takes its share of each batch and DDP averages the gradients, so that the step is that
of the whole batch, but for batch statistics, which each process takes over its own share. The
process of rank 0 alone writes files and prints.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from splitcore.errors import UsageError


@contextmanager
def joined(device: str) -> Iterator[str]:
    """Join the processes that torchrun started, if it did; gives this process's device."""
    if _processes() == 1:
        yield device
        return
    on_gpu = device.startswith("cuda")
    if on_gpu:
        if ":" in device:
            raise UsageError(f"--device {device}: under torchrun say cuda; each process takes one")
        device = f"cuda:{os.environ['LOCAL_RANK']}"
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if on_gpu else "gloo")
    try:
        yield device
    finally:
        dist.destroy_process_group()


def _processes() -> int:
    """How many torchrun started. Raises UsageError where something else set its variables."""
    told = {name: os.environ.get(name, "") for name in ("WORLD_SIZE", "RANK", "LOCAL_RANK")}
    if told["WORLD_SIZE"] in ("", "1"):
        return 1
    for name, value in told.items():
        if not (value.isascii() and value.isdecimal()):
            raise UsageError(
                f"{name}={value}: expected a number, as torchrun gives it; without torchrun unset "
                "WORLD_SIZE"
            )
    return int(told["WORLD_SIZE"])


def rank() -> int:
    """The number of this process; 0 where there is only one."""
    return dist.get_rank() if dist.is_initialized() else 0


def leads() -> bool:
    """Whether this process writes and prints."""
    return rank() == 0


def share(rows: np.ndarray) -> np.ndarray:
    """This process's part of a batch. Raises UsageError where it cannot be parted evenly."""
    world = dist.get_world_size() if dist.is_initialized() else 1
    if len(rows) % world:
        raise UsageError(f"recipe.batch_size: {len(rows)} cannot be shared by {world} processes")
    return rows[rank() :: world]


def noise(seed: int, epoch: int) -> np.random.Generator:
    """Random numbers for this process's part of an epoch's augmentation."""
    return np.random.default_rng((seed, epoch, rank()) if rank() else (seed, epoch))


def averaging(module: torch.nn.Module) -> torch.nn.Module:
    """The module with gradients averaged over all processes; itself where there is only one.

    To be called again whenever what requires a gradient has changed.
    """
    return DistributedDataParallel(module) if dist.is_initialized() else module


def wait() -> None:
    """Until every process is here, so that what rank 0 wrote can be read."""
    if dist.is_initialized():
        dist.barrier()
