"""Taps of a kernel that only ever meet padding, as on maps smaller than the kernel.

No input reaches them, so their gradient is zero. oneDNN's bfloat16 leaves it unwritten: it holds
whatever that memory held before.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from typing import Any

import torch

Sizes = Sequence[int]  # of height and width; of a shape its last two count


def reached(weight: torch.Tensor, inputs: Sizes, stride: Sizes, padding: Sizes) -> torch.Tensor:
    """A conv's kernel (O, I, kH, kW) with zeros at such taps: sums stay, gradients are zero there.

    inputs: shape (…, H, W) of what it convolves.
    """
    outputs = [
        (inputs[axis] + 2 * padding[axis] - weight.shape[axis]) // stride[axis] + 1
        for axis in (-2, -1)
    ]
    return _cleared(weight, inputs, outputs, stride, padding)


def reached_transposed(
    weight: torch.Tensor, inputs: Sizes, stride: Sizes, padding: Sizes, output_padding: Sizes
) -> torch.Tensor:
    """The same of a transposed conv's kernel (I, O, kH, kW), some of which only make padding."""
    outputs = [
        (inputs[axis] - 1) * stride[axis]
        + (weight.shape[axis] - 2 * padding[axis] + output_padding[axis])
        for axis in (-2, -1)
    ]
    return _cleared(weight, outputs, inputs, stride, padding)


def _cleared(
    weight: torch.Tensor, wide: Sizes, narrow: Sizes, stride: Sizes, padding: Sizes
) -> torch.Tensor:
    rows, columns = (
        _reached(weight.shape[axis], wide[axis], narrow[axis], stride[axis], padding[axis])
        for axis in (-2, -1)
    )
    if all(rows) and all(columns):
        return weight
    live = torch.tensor(rows)[:, None] & torch.tensor(columns)
    return torch.where(live.to(weight.device), weight, 0.0)


@lru_cache(maxsize=256)
def _reached(kernel: int, wide: int, narrow: int, stride: int, padding: int) -> tuple[bool, ...]:
    """Whether each tap meets one of `wide` places from one of the kernel's `narrow` positions."""
    return tuple(
        any(0 <= position * stride - padding + tap < wide for position in range(narrow))
        for tap in range(kernel)
    )


@contextmanager
def unreached_are_zero(model: torch.nn.Module) -> Iterator[None]:
    """While it is open, weight gradients of the model's torch.nn.Conv2d are zero at such taps."""
    with ExitStack() as stack:
        for conv in model.modules():
            if isinstance(conv, torch.nn.Conv2d) and conv.weight.requires_grad:
                guard = _Guard(conv)
                stack.callback(conv.register_forward_hook(guard.note).remove)
                stack.callback(conv.weight.register_hook(guard.clean).remove)
        yield


class _Guard:
    """Knows what a conv last convolved, and cleans its gradient by that."""

    def __init__(self, conv: torch.nn.Conv2d) -> None:
        self._conv = conv
        self._inputs: Sizes | None = None  # a conv may be run by other means than its own forward

    def note(self, _conv: torch.nn.Module, inputs: tuple[torch.Tensor], _output: Any) -> None:
        self._inputs = inputs[0].shape

    def clean(self, gradient: torch.Tensor) -> torch.Tensor:
        if self._inputs is None:
            return gradient
        padding = self._conv.padding
        assert not isinstance(padding, str)
        return reached(gradient, self._inputs, self._conv.stride, padding)
