"""Depthwise convolution of channels-last tensors and its gradients, compiled (CPU).

One multiplication a value and tap is nothing; what costs is memory, and oneDNN's gradients of
grouped convolutions walk it badly. Here a task takes a few samples and keeps one output row in the
cache. With stride 1 a tap's contribution to a row is one long product of two contiguous rows,

    out[y, :, :] += x[y + dy, dx:, :] · w[dy, dx, :]          kernel tiled along the row

with a larger stride it is one of C values for each pixel. Float32 sums of whole numbers below 2^24
are exact in any order; tasks do not depend on the number of threads, so nor do gradients.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from splitcore.compiled import compiled
from training.backward_steps import ALL, empty_but_zero_outside
from training.floats import load, store
from training.tiling import channels_last, each, flat

SAMPLES = 4  # in a task


@compiled(nogil=True, error_model="numpy")
def _multiply_add(out, at, x, start, weight, size):
    row, source = out[at : at + size], x[start : start + size]
    for j in range(size):
        row[j] += load(source[j]) * weight[j]


@compiled(nogil=True, error_model="numpy")
def _multiply_add_pair(out, x, start, other, at, size):
    row, source = x[start : start + size], other[at : at + size]
    for j in range(size):
        out[j] += load(row[j]) * load(source[j])


@compiled(nogil=True, error_model="numpy")
def _span(offset, stride, size, limit):
    """First and one past the last output whose input o·stride + offset lies in 0 … size − 1."""
    first = max(0, -(offset // stride)) if offset < 0 else 0
    last = (size - 1 - offset) // stride + 1 if size > offset else 0
    return first, max(first, min(limit, last))


@compiled(nogil=True, error_model="numpy")
def _forward_task(x, weight, out, shape, begin, end):
    channels, height, width, rows, columns, kernel, stride, padding = shape
    total = np.empty(columns * channels, np.float32)
    for sample in range(begin, end):
        for y in range(rows):
            total[:] = 0
            for dy in range(kernel):
                source = y * stride + dy - padding
                if source < 0 or source >= height:
                    continue
                line = (sample * height + source) * width
                for dx in range(kernel):
                    first, last = _span(dx - padding, stride, width, columns)
                    taps = weight[dy, dx]
                    if stride == 1:
                        start = (line + first + dx - padding) * channels
                        count = (last - first) * channels
                        _multiply_add(total, first * channels, x, start, taps, count)
                        continue
                    for column in range(first, last):
                        start = (line + column * stride + dx - padding) * channels
                        _multiply_add(total, column * channels, x, start, taps, channels)
            row = out[(sample * rows + y) * columns * channels :]
            for j in range(columns * channels):
                store(row, j, total[j])


@compiled(nogil=True, error_model="numpy")
def _input_gradient_task(grad, weight, out, shape, begin, end):
    channels, height, width, rows, columns, kernel, stride, padding = shape
    plane = height * width * channels
    total = np.empty(plane, np.float32)
    for sample in range(begin, end):
        total[:] = 0
        for y in range(rows):
            line = (sample * rows + y) * columns
            for dy in range(kernel):
                target = y * stride + dy - padding
                if target < 0 or target >= height:
                    continue
                for dx in range(kernel):
                    first, last = _span(dx - padding, stride, width, columns)
                    taps = weight[dy, dx]
                    if stride == 1:
                        at = (target * width + first + dx - padding) * channels
                        count = (last - first) * channels
                        _multiply_add(total, at, grad, (line + first) * channels, taps, count)
                        continue
                    for column in range(first, last):
                        at = (target * width + column * stride + dx - padding) * channels
                        _multiply_add(total, at, grad, (line + column) * channels, taps, channels)
        row = out[sample * plane : (sample + 1) * plane]
        for j in range(plane):
            store(row, j, total[j])


@compiled(nogil=True, error_model="numpy")
def _weight_gradient_task(x, grad, sums, shape, begin, end):
    channels, height, width, rows, columns, kernel, stride, padding = shape
    for sample in range(begin, end):
        for y in range(rows):
            line = (sample * rows + y) * columns
            for dy in range(kernel):
                source = y * stride + dy - padding
                if source < 0 or source >= height:
                    continue
                x_line = (sample * height + source) * width
                for dx in range(kernel):
                    first, last = _span(dx - padding, stride, width, columns)
                    taps = sums[dy, dx]
                    if stride == 1:
                        start = (x_line + first + dx - padding) * channels
                        count = (last - first) * channels
                        _multiply_add_pair(taps, x, start, grad, (line + first) * channels, count)
                        continue
                    for column in range(first, last):
                        start = (x_line + column * stride + dx - padding) * channels
                        _multiply_add_pair(
                            taps, x, start, grad, (line + column) * channels, channels
                        )


class _Geometry:
    """Sizes of one call and the tasks that it is cut into."""

    def __init__(self, x_shape: torch.Size, kernel: int, stride: int, padding: int) -> None:
        self.samples, channels, height, width = x_shape
        rows, columns = ((size + 2 * padding - kernel) // stride + 1 for size in (height, width))
        self.out_shape = (self.samples, channels, rows, columns)
        self.shape = (channels, height, width, rows, columns, kernel, stride, padding)
        self.tasks = -(-self.samples // SAMPLES)
        self.repeat = columns if stride == 1 else 1  # a row at a time, or a pixel

    def range(self, task: int) -> tuple[int, int]:
        """First sample of a task and the one past its last."""
        return task * SAMPLES, min(self.samples, (task + 1) * SAMPLES)

    def tiled(self, weight: torch.Tensor) -> np.ndarray:
        """A kernel (C, 1, K, K) as (K, K, repeated channels)."""
        taps = weight.detach().float()[:, 0].permute(1, 2, 0).contiguous().numpy()
        return np.tile(taps, (1, 1, self.repeat))


def _empty(shape: tuple[int, ...], like: torch.Tensor) -> torch.Tensor:
    return torch.empty(shape, dtype=like.dtype, memory_format=torch.channels_last)


class _DepthwiseConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        events: torch.Tensor,
        weight: torch.Tensor,
        stride: int,
        padding: int,
        chosen: slice,
    ) -> torch.Tensor:
        events = channels_last(events)
        geometry = _Geometry(events.shape, weight.shape[-1], stride, padding)
        result = _empty(geometry.out_shape, events)
        x, taps, out = flat(events), geometry.tiled(weight), flat(result)
        each(
            geometry.tasks,
            lambda task: _forward_task(x, taps, out, geometry.shape, *geometry.range(task)),
        )
        ctx.save_for_backward(events, weight)
        ctx.settings = stride, padding, chosen
        return result

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):  # type: ignore[override]
        events, weight = ctx.saved_tensors
        stride, padding, chosen = ctx.settings
        part = events[chosen]
        geometry = _Geometry(part.shape, weight.shape[-1], stride, padding)
        incoming, shape = flat(channels_last(grad.to(events.dtype)[chosen])), geometry.shape
        grad_events = grad_weight = None
        if ctx.needs_input_grad[0]:
            grad_events = empty_but_zero_outside(events, chosen)
            taps, out = geometry.tiled(weight), flat(grad_events[chosen])
            each(
                geometry.tasks,
                lambda task: _input_gradient_task(
                    incoming, taps, out, shape, *geometry.range(task)
                ),
            )
        if ctx.needs_input_grad[1]:
            channels, kernel = weight.shape[0], weight.shape[-1]
            width = geometry.repeat * channels
            sums = np.zeros((geometry.tasks, kernel, kernel, width), np.float32)
            x = flat(part)
            each(
                geometry.tasks,
                lambda task: _weight_gradient_task(
                    x, incoming, sums[task], shape, *geometry.range(task)
                ),
            )
            folded = sums.sum(axis=0, dtype=np.float64).reshape(kernel, kernel, -1, channels)
            found = torch.from_numpy(folded.sum(axis=2)).permute(2, 0, 1)[:, None]
            grad_weight = found.to(weight.dtype)
        return grad_events, grad_weight, None, None, None


def depthwise_conv(
    events: torch.Tensor, weight: torch.Tensor, stride: int, padding: int, chosen: slice = ALL
) -> torch.Tensor:
    """Sums (M, C, H, W) of events (M, C, H, W) and a square kernel (C, 1, K, K), on the CPU.

    In the dtype of the events, float32 or bfloat16; products are added in float32. chosen: the
    rows whose sums have a gradient; that of the others is taken for zero.
    """
    result = _DepthwiseConv.apply(events, weight, stride, padding, chosen)
    assert result is not None
    return result
