"""The LIF with batch norm, residual sum and surrogate gradient, in few passes over memory (CPU).

Element-wise traffic is what a training step costs beside its convolutions. A layer's convs leave
their sums x_k in memory once; from there

    moments          Σ(x − m), Σ(x − m)²: a read
    Layer.forward    drive = Σ a_k·x_k + b + c·extra, LIF over all steps: a read and a write
    Layer.backward   voltage again from x_k, g = ∂L/∂drive and its sums: two reads and a write
    normed_backward  ∂L/∂x_k = a·g + p·x + q: two reads and a write

The last two may be had for some of the time steps alone (`training.backward_steps`).

Tensors are flat memory (`training.tiling`), bfloat16 or float32; sums and state are wider.
"""

from __future__ import annotations

import numpy as np
import torch

from splitcore.compiled import compiled
from training.backward_steps import empty_but_zero_outside, rows
from training.floats import ONE, exponential, load, store
from training.tiling import Tiling, each, flat

MOST_CONVS = 2  # that drive one layer: a main path and a shortcut


@compiled(nogil=True, error_model="numpy")
def _moments_task(x, centre, sums, squares, start, stop):
    for base in range(start, stop, len(centre)):
        size = min(len(centre), stop - base)
        row = x[base : base + size]
        for j in range(size):
            off = load(row[j]) - centre[j]
            sums[j] += off
            squares[j] += off * off


@compiled(nogil=True, error_model="numpy")
def _current(x1, x2, extra, scale1, scale2, bias, identity, base, size, out):
    row = x1[base : base + size]
    for j in range(size):
        out[j] = load(row[j]) * scale1[j] + bias[j]
    if x2 is not None:
        row = x2[base : base + size]
        for j in range(size):
            out[j] += load(row[j]) * scale2[j]
    if extra is not None:
        row = extra[base : base + size]
        for j in range(size):
            out[j] += load(row[j]) * identity


@compiled(nogil=True, error_model="numpy")
def _decayed(state, keep, whole, size):
    if whole:
        for j in range(size):
            state[j] = np.int64(state[j] * keep)  # np.trunc would be a call for each
    else:
        for j in range(size):
            state[j] = state[j] * keep


@compiled(nogil=True, error_model="numpy")
def _forward_task(
    x1, x2, extra, scale1, scale2, bias, identity, lif, state, spikes, counts, start, stop
):
    keep, state_scale, threshold, whole, steps, plane = lif
    current = np.empty(len(bias), np.float32)
    zero = state.dtype.type(0)
    for base in range(start, stop, len(bias)):
        size = min(len(bias), stop - base)
        state[:] = 0
        for step in range(steps):
            at = step * plane + base
            _current(x1, x2, extra, scale1, scale2, bias, identity, at, size, current)
            _decayed(state, keep, whole, size)
            # Short loops over few arrays: past a handful of pointers LLVM does not vectorise.
            for j in range(size):
                state[j] += current[j] * state_scale
            row = spikes[at : at + size]
            for j in range(size):
                store(row, j, np.float32(state[j] > threshold))
            for j in range(size):
                fired = state[j] > threshold
                counts[j] += np.float32(fired)
                state[j] = zero if fired else state[j]


@compiled(nogil=True, error_model="numpy")
def _backward_task(
    x1, x2, extra, scale1, scale2, bias, identity, lif, surrogate, first, last, centre1, centre2,
    voltages, grad_spikes, grad, reduced, start, stop,
):  # fmt: skip
    keep, state_scale, threshold, whole, _steps, plane = lif
    keep_grad, per_threshold, slope, per_tau, grad_rate = surrogate
    width = len(bias)
    current = np.empty(width, np.float32)
    state = np.empty(width, voltages.dtype)
    going = np.empty(width, np.float32)
    zero = voltages.dtype.type(0)
    sums, products1, products2 = reduced[0], reduced[1], reduced[2]
    for base in range(start, stop, width):
        size = min(width, stop - base)
        state[:] = 0
        for step in range(last):
            _current(
                x1, x2, extra, scale1, scale2, bias, identity, step * plane + base, size, current
            )
            _decayed(state, keep, whole, size)
            voltage_row = voltages[step]
            for j in range(size):
                voltage_row[j] = state[j] + current[j] * state_scale
            for j in range(size):
                state[j] = zero if voltage_row[j] > threshold else voltage_row[j]
        going[:] = 0
        for step in range(last - 1, first - 1, -1):
            at = step * plane + base
            voltage_row = voltages[step]
            for j in range(size):
                distance = abs(np.float32(voltage_row[j] * per_threshold) - ONE)
                current[j] = slope * exponential(-distance * per_tau)
            row = grad_spikes[at : at + size]
            for j in range(size):
                current[j] *= load(row[j]) + grad_rate
            for j in range(size):
                going[j] = keep_grad * going[j] + current[j]
            row = grad[at : at + size]
            for j in range(size):
                store(row, j, going[j])
            for j in range(size):
                sums[j] += going[j]
            if centre1 is not None:
                row = x1[at : at + size]
                for j in range(size):
                    current[j] = load(row[j]) - centre1[j]
                for j in range(size):
                    products1[j] += going[j] * current[j]
                if x2 is not None:
                    row = x2[at : at + size]
                    for j in range(size):
                        current[j] = load(row[j]) - centre2[j]
                    for j in range(size):
                        products2[j] += going[j] * current[j]


@compiled(nogil=True, error_model="numpy")
def _normed_backward_task(grad, x, factor, slope, offset, out, start, stop):
    width = len(factor)
    total = np.empty(width, np.float32)
    for base in range(start, stop, width):
        size = min(width, stop - base)
        row = grad[base : base + size]
        for j in range(size):
            total[j] = factor[j] * load(row[j]) + offset[j]
        row = x[base : base + size]
        for j in range(size):
            total[j] += slope[j] * load(row[j])
        row = out[base : base + size]
        for j in range(size):
            store(row, j, total[j])


@compiled(nogil=True, error_model="numpy")
def _to_bytes_task(x, out, start, stop):
    row, bytes_row = x[start:stop], out[start:stop]
    for j in range(stop - start):
        bytes_row[j] = np.uint8(np.int32(load(row[j])))


def to_bytes(x_mchw: torch.Tensor) -> torch.Tensor:
    """Whole numbers 0 … 255 as uint8, of the same memory order."""
    tiling = Tiling(x_mchw.numel(), x_mchw.shape[1])
    result = torch.empty_like(x_mchw, dtype=torch.uint8)
    x, out = flat(x_mchw), flat(result)
    each(tiling.tasks, lambda task: _to_bytes_task(x, out, *tiling.range(task)))
    return result


def moments(x_mchw: torch.Tensor, centre: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and biased variance of each channel, float32; centre: a first guess of the mean."""
    tiling = Tiling(x_mchw.numel(), x_mchw.shape[1])
    x, middle = flat(x_mchw), tiling.tile(centre)
    sums = tiling.zeros(2)

    def work(task: int) -> None:
        _moments_task(x, middle, sums[task, 0], sums[task, 1], *tiling.range(task))

    each(tiling.tasks, work)
    first, second = tiling.fold(sums) / (x_mchw.numel() // x_mchw.shape[1])
    return (centre + first).float(), (second - first * first).clamp_min_(0).float()


class Layer:
    """The sums that drive one LIF layer, and the numbers of its neurons.

    sums: one or two channels-last tensors (T·N, C, H, W) of one dtype; scales: a vector (C,) for
    each; extra: events added with the weight identity. whole: the state is held state_scale times
    finer than the current, in float64, and its decayed value is cut to an integer; exact while
    sums stay below 2^24.
    """

    def __init__(
        self,
        sums: list[torch.Tensor],
        scales: list[torch.Tensor],
        bias: torch.Tensor,
        extra: torch.Tensor | None,
        *,
        identity: float,
        steps: int,
        keep: float,
        threshold: float,
        state_scale: int,
    ) -> None:
        first = sums[0]
        self.like, self.steps, self.keep = first, steps, keep
        self.count = first.numel() // first.shape[1]
        self.tiling = Tiling(first.numel() // steps, first.shape[1])
        self.whole = state_scale > 0
        self.state_type = np.float64 if self.whole else np.float32
        self.threshold = threshold * (state_scale or 1)
        tile, real = self.tiling.tile, self.state_type
        self.sums = (flat(first), flat(sums[1]) if len(sums) > 1 else None)
        self.arguments = (
            *self.sums,
            flat(extra),
            tile(scales[0]),
            tile(scales[1]) if len(sums) > 1 else None,
            tile(bias),
            np.float32(identity),
            (
                real(keep),
                real(state_scale or 1),
                real(self.threshold),
                self.whole,
                steps,
                self.tiling.values,
            ),
        )

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Spikes like the sums, and their mean."""
        tiling = self.tiling
        spikes = torch.empty_like(self.like)
        out, counts = flat(spikes), tiling.zeros()

        def work(task: int) -> None:
            state = np.empty(tiling.width, self.state_type)
            _forward_task(*self.arguments, state, out, counts[task], *tiling.range(task))

        each(tiling.tasks, work)
        return spikes, (tiling.fold(counts).sum() / spikes.numel()).float()

    def backward(
        self,
        grad_spikes: torch.Tensor,
        grad_rate: float,
        *,
        tau: float,
        scale: float,
        threshold: float,
        chosen: range,
        centres: list[torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of the drive, and its float64 reductions (3, C).

        The reductions are its sums and, where centres (C,) are given, the sums of its products
        with x_k − centre_k. grad_rate: gradient of every single spike beside grad_spikes. Time
        steps that are not chosen have no gradient.
        """
        tiling = self.tiling
        grad = empty_but_zero_outside(self.like, rows(chosen, self.steps, self.like))
        reduced = tiling.zeros(3)
        middles = [tiling.tile(centre) for centre in centres or []]
        incoming, out = flat(grad_spikes), flat(grad)
        surrogate = (
            np.float32(self.keep),
            self.state_type(1 / self.threshold),
            # τ is given in thresholds, so the derivative by the voltage carries 1 / θ.
            np.float32(scale / (2 * tau * threshold)),
            np.float32(1 / tau),
            np.float32(grad_rate),
        )

        def work(task: int) -> None:
            voltages = np.empty((chosen.stop, tiling.width), self.state_type)
            _backward_task(
                *self.arguments,
                surrogate,
                chosen.start,
                chosen.stop,
                middles[0] if middles else None,
                middles[1] if len(middles) > 1 else None,
                voltages,
                incoming,
                out,
                reduced[task],
                *tiling.range(task),
            )

        each(tiling.tasks, work)
        return grad, tiling.fold(reduced)


def normed_backward(
    grad: torch.Tensor,
    x_mchw: torch.Tensor,
    factor: torch.Tensor,
    slope: torch.Tensor,
    offset: torch.Tensor,
    chosen: slice,
) -> torch.Tensor:
    """factor·grad + slope·x + offset with one value of each a channel, like x.

    Rows that are not chosen are zero.
    """
    result = empty_but_zero_outside(x_mchw, chosen)
    grad, x_mchw, part = grad[chosen], x_mchw[chosen], result[chosen]
    tiling = Tiling(x_mchw.numel(), x_mchw.shape[1])
    vectors = [tiling.tile(vector) for vector in (factor, slope, offset)]
    arrays = flat(grad), flat(x_mchw), *vectors, flat(part)
    each(
        tiling.tasks,
        lambda task: _normed_backward_task(*arrays, *tiling.range(task)),
    )
    return result
