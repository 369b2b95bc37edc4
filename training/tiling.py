"""Tensors as flat memory, cut into tasks for threads.

Tensors are flat: time slowest, then samples and pixels, channels fastest (channels-last). Vectors
of one value a channel come tiled to a block of pixels, so that inner loops are long and plain and
the compiler vectorises them. Work is cut into the same tasks for any number of threads, so results
do not depend on it. Threads are our own: numba's pools and torch's would fight over the cores, and
die in a forked child.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import numpy as np
import torch

BLOCK = 512  # values of one inner loop, rounded up to whole pixels
TASK = 1 << 17  # values of one time step in a task, about


@lru_cache(maxsize=1)
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads - 1, thread_name_prefix="kernel")


# A forked child has the pool but not its threads.
os.register_at_fork(after_in_child=_pool.cache_clear)


def each(tasks: int, work: Callable[[int], None]) -> None:
    """Run work(0) … work(tasks − 1) on as many threads as torch uses."""
    numbers = iter(range(tasks))  # its next() is atomic

    def take() -> None:
        for number in numbers:
            work(number)

    threads = min(torch.get_num_threads(), tasks)
    if threads == 1:
        take()
        return
    others = [_pool(torch.get_num_threads()).submit(take) for _ in range(threads - 1)]
    take()
    for other in others:
        other.result()


def supports(tensor: torch.Tensor) -> bool:
    """Whether these kernels take the tensor: on the CPU, float32 or bfloat16."""
    return tensor.device.type == "cpu" and tensor.dtype in (torch.float32, torch.bfloat16)


def channels_last(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor (M, C, H, W) with channels fastest in memory, copied only where it is not."""
    tensor = tensor.detach()
    if tensor.permute(0, 2, 3, 1).is_contiguous():
        return tensor
    return tensor.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def flat(tensor: torch.Tensor | None) -> Any:
    """The memory of a channels-last tensor as a flat array; bfloat16 as uint16 bits."""
    if tensor is None:
        return None
    flat = tensor.permute(0, 2, 3, 1).reshape(-1)
    if flat.dtype == torch.bfloat16:
        return flat.view(torch.int16).numpy().view(np.uint16)
    return flat.numpy()


class Tiling:
    """How a channels-last tensor of `values` values and `channels` channels is cut into tasks."""

    def __init__(self, values: int, channels: int) -> None:
        self.values, self.channels = values, channels
        self.repeat = -(-BLOCK // channels)
        self.width = self.repeat * channels
        blocks = -(-values // self.width)
        per_task = max(1, TASK // self.width)
        self.tasks = -(-blocks // per_task)
        self.task_values = per_task * self.width

    def range(self, task: int) -> tuple[int, int]:
        """First value and the one past the last of a task."""
        start = task * self.task_values
        return start, min(start + self.task_values, self.values)

    def tile(self, vector: torch.Tensor | None) -> Any:
        """One float32 a channel, repeated over a block."""
        if vector is None:
            return None
        return np.tile(vector.detach().to(torch.float32).numpy(), self.repeat)

    def zeros(self, *rows: int) -> np.ndarray:
        """Float32 sums for each task, a block wide."""
        return np.zeros((self.tasks, *rows, self.width), np.float32)

    def fold(self, sums: np.ndarray) -> torch.Tensor:
        """Sums of each task and block as float64 of each channel (…, C)."""
        parted = sums.reshape(*sums.shape[:-1], self.repeat, self.channels)
        return torch.from_numpy(parted.sum(axis=(0, -2), dtype=np.float64))
