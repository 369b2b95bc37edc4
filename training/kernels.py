"""The LIF with batch norm, residual sum and surrogate gradient, in few passes over memory (CPU).

Element-wise traffic is what a training step costs beside its convolutions. A layer's convs leave
their sums x_k in memory once; from there

    moments          Σ(x − m), Σ(x − m)²: a read
    Layer.forward    drive = Σ a_k·x_k + b + c·extra, LIF over all steps: a read and a write
    Layer.backward   voltage again from x_k, g = ∂L/∂drive and its sums: two reads and a write
    normed_backward  ∂L/∂x_k = a·g + p·x + q: two reads and a write

Tensors are flat: time slowest, then samples and pixels, channels fastest (channels-last). Vectors
of one value a channel come tiled to a block of pixels, so that inner loops are long and plain and
the compiler vectorises them. bfloat16 travels as its bits in uint16; sums and state are wider.
Only the exponential may fuse multiplications with additions; no spike depends on it. Work is cut
into the same tasks for any number of threads, so results do not depend on it. Threads are our own:
numba's pools and torch's would fight over the cores, and die in a forked child.
"""

# numba's decorators change signatures in ways that types cannot follow.
# pyright: reportCallIssue=false, reportRedeclaration=false, reportArgumentType=false

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import Any

import llvmlite.binding
import llvmlite.ir as ir
import numpy as np
import torch
from numba import njit, types
from numba.extending import intrinsic, overload

MOST_CONVS = 2  # that drive one layer: a main path and a shortcut
BLOCK = 512  # values of one inner loop, rounded up to whole pixels
TASK = 1 << 17  # values of one time step in a task, about
ONE = np.float32(1)
HALF = np.float32(0.5)
LOG2_E = np.float32(1.4426950408889634)
# ln 2 in two parts (Cody and Waite): n · LN2_HIGH is exact for every n that occurs.
LN2_HIGH, LN2_LOW = np.float32(0.693359375), np.float32(-2.12194440e-4)
# Minimax polynomial of (exp(r) − 1 − r) / r² on |r| ≤ ln 2 / 2 (Cephes, expf).
E0, E1, E2 = np.float32(1.9875691500e-4), np.float32(1.3981999507e-3), np.float32(8.3334519073e-3)
E3, E4, E5 = np.float32(4.1665795894e-2), np.float32(1.6666665459e-1), np.float32(5.0000001201e-1)
SMALLEST_EXPONENT = np.float32(-87)


@intrinsic
def _from_bfloat16(_context, bits):
    def generate(_context, builder, _signature, arguments):
        wide = builder.shl(builder.zext(arguments[0], ir.IntType(32)), ir.IntType(32)(16))
        return builder.bitcast(wide, ir.FloatType())

    return types.float32(types.uint16), generate


@intrinsic
def _to_bfloat16(_context, value):
    """Round to nearest, ties to even; a NaN stays one."""

    def generate(_context, builder, _signature, arguments):
        word = ir.IntType(32)
        bits = builder.bitcast(arguments[0], word)
        odd = builder.and_(builder.lshr(bits, word(16)), word(1))
        rounded = builder.lshr(builder.add(bits, builder.add(odd, word(0x7FFF))), word(16))
        is_nan = builder.fcmp_unordered("uno", arguments[0], arguments[0])
        return builder.trunc(builder.select(is_nan, word(0x7FC0), rounded), ir.IntType(16))

    return types.uint16(types.float32), generate


@intrinsic
def _power_of_two(_context, exponent):
    """2^n of a whole float32 n in −126 … 127, by its exponent bits."""

    def generate(_context, builder, _signature, arguments):
        word = ir.IntType(32)
        biased = builder.add(builder.fptosi(arguments[0], word), word(127))
        return builder.bitcast(builder.shl(biased, word(23)), ir.FloatType())

    return types.float32(types.float32), generate


def load(value):
    """In compiled code: a float32, or the bits of a bfloat16, as float32."""
    raise NotImplementedError("compiled code only")


def store(out, index, value):
    """In compiled code: put a float32 into an array of float32 or of bfloat16 bits."""
    raise NotImplementedError("compiled code only")


@overload(load, inline="always")
def _overload_of_load(value):
    if value == types.uint16:
        return lambda value: _from_bfloat16(value)
    return lambda value: value


@overload(store, inline="always")
def _overload_of_store(out, index, value):
    if out.dtype == types.uint16:

        def store(out, index, value):
            out[index] = _to_bfloat16(value)
    else:

        def store(out, index, value):
            out[index] = value

    return store


@njit(nogil=True, cache=True, error_model="numpy", fastmath={"contract"})
def exponential(x):
    """e^x of a float32 x ≤ 0, within 2 units in the last place; a loop of it vectorises."""
    x = max(x, SMALLEST_EXPONENT)
    n = np.floor(x * LOG2_E + HALF)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    tail = ((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5
    return (tail * r * r + r + ONE) * _power_of_two(n)


@njit(nogil=True, cache=True, error_model="numpy")
def _moments_task(x, centre, sums, squares, start, stop):
    for base in range(start, stop, len(centre)):
        size = min(len(centre), stop - base)
        row = x[base : base + size]
        for j in range(size):
            off = load(row[j]) - centre[j]
            sums[j] += off
            squares[j] += off * off


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _decayed(state, keep, whole, size):
    if whole:
        for j in range(size):
            state[j] = np.int64(state[j] * keep)  # np.trunc would be a call for each
    else:
        for j in range(size):
            state[j] = state[j] * keep


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _backward_task(
    x1, x2, extra, scale1, scale2, bias, identity, lif, surrogate, centre1, centre2,
    voltages, grad_spikes, grad, reduced, start, stop,
):  # fmt: skip
    keep, state_scale, threshold, whole, steps, plane = lif
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
        for step in range(steps):
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
        for step in range(steps - 1, -1, -1):
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


@njit(nogil=True, cache=True, error_model="numpy")
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


@njit(nogil=True, cache=True, error_model="numpy")
def _to_bytes_task(x, out, start, stop):
    row, bytes_row = x[start:stop], out[start:stop]
    for j in range(stop - start):
        bytes_row[j] = np.uint8(np.int32(load(row[j])))


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


@lru_cache
def _has(*names: str) -> bool:
    features = llvmlite.binding.get_host_cpu_features()
    return any(features.get(name, False) for name in names)


def native_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 itself; emulated it is slower than float32."""
    return _has("avx512bf16", "amx-bf16", "bf16")


def native_byte_products() -> bool:
    """Whether this processor adds products of bytes in 32 bits."""
    return _has("avx512vnni", "avxvnni", "amx-int8")


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
        centres: list[torch.Tensor] | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradient of the drive, and its float64 reductions (3, C).

        The reductions are its sums and, where centres (C,) are given, the sums of its products
        with x_k − centre_k. grad_rate: gradient of every single spike beside grad_spikes.
        """
        tiling = self.tiling
        grad = torch.empty_like(self.like)
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
            voltages = np.empty((self.steps, tiling.width), self.state_type)
            _backward_task(
                *self.arguments,
                surrogate,
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
) -> torch.Tensor:
    """factor·grad + slope·x + offset with one value of each a channel, like x."""
    tiling = Tiling(x_mchw.numel(), x_mchw.shape[1])
    result = torch.empty_like(x_mchw)
    vectors = [tiling.tile(vector) for vector in (factor, slope, offset)]
    arrays = flat(grad), flat(x_mchw), *vectors, flat(result)
    each(
        tiling.tasks,
        lambda task: _normed_backward_task(*arrays, *tiling.range(task)),
    )
    return result
