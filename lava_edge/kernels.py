"""Compiled integer kernels of the leaf: event-driven sums, LIF, lists of spikes.

Arrays are flat over pixels and channels, channels innermost and padded to whole vectors; the first
axis counts samples, of which a call works on lo … hi. A spike is its flat index, so the spikes that
one row of a kernel meets are one stretch of a sorted list, and index − base is their weight row:

    drive[out, 0:16] += Σ over events e of that stretch: weight[e − base, 0:16]

The three innermost loops are written as vector instructions through numba's extension interface,
because its loop vectoriser keeps no accumulator in registers: 21 µs instead of 115 for a 3×3 layer
of 16 → 16 channels, 32×32, at 10 % firing. All arithmetic is int32, as in Lava; sums wrap nowhere:
`compiled_stepper` admits only networks where they stay within 24 bits.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.core.caching import NullCache
from numba.extending import intrinsic

from splitcore.compiled import compiled
from splitcore.graph import LANES

WORD = 8  # spikes that are looked at together
LIMIT = np.int32(1 << 23)
WRAP = np.int32(1 << 24)

_compiled = compiled(nogil=True, boundscheck=False)

# For each byte of spike bits: the places of its ones, and how many they are.
_PLACES = np.zeros((256, WORD), dtype=np.int32)
_ONES = np.zeros(256, dtype=np.int64)
for _byte in range(256):
    _set = [bit for bit in range(WORD) if _byte >> bit & 1]
    _PLACES[_byte, : len(_set)] = _set
    _ONES[_byte] = len(_set)
_PLACES_FLAT = _PLACES.reshape(-1)


def _pointer(context: Any, builder: Any, signature: Any, args: Any, place: int) -> Any:
    array = cgutils.create_struct_proxy(signature.args[place])(context, builder, value=args[place])
    return array.data


def _vector(builder: Any, pointer: Any, index: Any, bits: int, lanes: int) -> Any:
    kind = ir.VectorType(ir.IntType(bits), lanes)
    return builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())


def _load(builder: Any, pointer: Any, align: int) -> Any:
    value = builder.load(pointer)
    value.align = align
    return value


def _accumulate(builder: Any, count_from: Any, count_to: Any, target: Any, term: Any) -> None:
    """target += Σ term(i) for i in [count_from, count_to), the sum held in registers."""
    blocks = [builder.append_basic_block(f"sum.{name}") for name in ("pre", "loop", "store", "end")]
    pre, loop, store, end = blocks
    builder.cbranch(builder.icmp_signed("<", count_from, count_to), pre, end)
    builder.position_at_end(pre)
    before = _load(builder, target, 4)
    builder.branch(loop)
    builder.position_at_end(loop)
    index, total = builder.phi(count_from.type), builder.phi(before.type)
    index.add_incoming(count_from, pre)
    total.add_incoming(before, pre)
    summed = builder.add(total, term(index))
    following = builder.add(index, index.type(1))
    index.add_incoming(following, loop)
    total.add_incoming(summed, loop)
    builder.cbranch(builder.icmp_signed("<", following, count_to), loop, store)
    builder.position_at_end(store)
    builder.store(summed, target).align = 4
    builder.branch(end)
    builder.position_at_end(end)


def _row_summer(lanes: int, graded: bool) -> Any:
    """Builds add(drive, out, events, values, first, last, base, weight, width, column)."""

    @intrinsic
    def add_rows(
        _: Any,
        drive: Any,
        out: Any,
        events: Any,
        values: Any,
        first: Any,
        last: Any,
        base: Any,
        weight: Any,
        width: Any,
        column: Any,
    ) -> Any:
        index = types.intp
        signature = types.void(
            drive, index, events, values, index, index, index, weight, index, index
        )

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _, out, _, _, first, last, base, _, width, column = args
            drives, event, value, weights = (
                _pointer(context, builder, sig, args, place) for place in (0, 2, 3, 7)
            )
            wide = ir.VectorType(ir.IntType(32), lanes)

            def term(i: Any) -> Any:
                row = builder.sext(builder.load(builder.gep(event, [i])), first.type)
                start = builder.add(builder.mul(builder.sub(row, base), width), column)
                weight_row = _load(builder, _vector(builder, weights, start, 16, lanes), 2)
                weight_row = builder.sext(weight_row, wide)
                if not graded:
                    return weight_row
                one = builder.load(builder.gep(value, [i]))
                lane = builder.insert_element(ir.Constant(wide, ir.Undefined), one, _I32(0))
                zeros = ir.Constant(wide, [0] * lanes)
                return builder.mul(weight_row, builder.shuffle_vector(lane, lane, zeros))

            _accumulate(builder, first, last, _vector(builder, drives, out, 32, lanes), term)
            return context.get_dummy_value()

        return signature, codegen

    return add_rows


def _block_adder(lanes: int) -> Any:
    """Builds add(drive, at, weight, row): drive[at:][:lanes] += weight[row:][:lanes]."""

    @intrinsic
    def add_block(_: Any, drive: Any, at: Any, weight: Any, row: Any) -> Any:
        signature = types.void(drive, types.intp, weight, types.intp)

        def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
            _, at, _, row = args
            drives, weights = (_pointer(context, builder, sig, args, place) for place in (0, 2))
            target = _vector(builder, drives, at, 32, lanes)
            term = _load(builder, _vector(builder, weights, row, 16, lanes), 2)
            term = builder.sext(term, ir.VectorType(ir.IntType(32), lanes))
            builder.store(builder.add(_load(builder, target, 4), term), target).align = 4
            return context.get_dummy_value()

        return signature, codegen

    return add_block


_I32 = ir.IntType(32)
_add_block48, _add_block16 = _block_adder(48), _block_adder(16)
_add64, _add32, _add16 = (_row_summer(lanes, graded=False) for lanes in (64, 32, 16))
_add_graded = _row_summer(16, graded=True)


@intrinsic
def _add_taps(
    _: Any,
    drive: Any,
    out: Any,
    spikes: Any,
    pixel: Any,
    stride: Any,
    weight: Any,
    tap: Any,
    width: Any,
    count: Any,
) -> Any:
    """drive[out:][:16] += Σ_i weight[tap + i·width:][:16] · spikes[pixel + i·stride:][:16]."""
    index = types.intp
    signature = types.void(drive, index, spikes, index, index, weight, index, index, index)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, out, _, pixel, stride, _, tap, width, count = args
        drives, spike, weights = (
            _pointer(context, builder, sig, args, place) for place in (0, 2, 5)
        )
        wide = ir.VectorType(_I32, LANES)

        def term(i: Any) -> Any:
            at = builder.add(tap, builder.mul(i, width))
            row = builder.sext(_load(builder, _vector(builder, weights, at, 16, LANES), 2), wide)
            at = builder.add(pixel, builder.mul(i, stride))
            fired = builder.zext(_load(builder, _vector(builder, spike, at, 8, LANES), 1), wide)
            return builder.mul(row, fired)

        target = _vector(builder, drives, out, 32, LANES)
        _accumulate(builder, count.type(0), count, target, term)
        return context.get_dummy_value()

    return signature, codegen


@intrinsic
def _put_places(_: Any, events: Any, at: Any, places: Any, row: Any, base: Any) -> Any:
    """events[at:][:8] = base + places[row:][:8]."""
    signature = types.void(events, types.intp, places, types.intp, types.int32)

    def codegen(context: Any, builder: Any, sig: Any, args: Any) -> Any:
        _, at, _, row, base = args
        event, place = (_pointer(context, builder, sig, args, k) for k in (0, 2))
        kind = ir.VectorType(_I32, WORD)
        values = _load(builder, _vector(builder, place, row, 32, WORD), 4)
        lane = builder.insert_element(ir.Constant(kind, ir.Undefined), base, _I32(0))
        base = builder.shuffle_vector(lane, lane, ir.Constant(kind, [0] * WORD))
        target = _vector(builder, event, at, 32, WORD)
        builder.store(builder.add(values, base), target).align = 4
        return context.get_dummy_value()

    return signature, codegen


# `geometry` below: H W C, kH kW, strides, paddings, dilations (y, x), then H W C of the target, the
# values from one of its rows to the next and where its first pixel lies: around the target there
# may be a margin, so that what a kernel sends beyond the border needs no check and is never read.
@_compiled
def _passed(starts: Any, fan: Any) -> Any:
    """Synapses that the events of one sample pass: Σ events of a pixel × its fan-out."""
    total = 0
    for pixel in range(len(fan)):
        total += np.int64(starts[pixel + 1] - starts[pixel]) * fan[pixel]
    return total


@_compiled
def _gather(event: Any, start: Any, geometry: Any, weight: Any, out: Any) -> None:
    """Each target pixel collects what the events in its field send; weight (kH·kW·C, C)."""
    height, width, channels, kernel_y, kernel_x = geometry[0:5]
    stride_y, stride_x, pad_y, pad_x, step_y, step_x = geometry[5:11]
    out_height, out_width, out_channels, pitch, origin = geometry[11:16]
    runs, span = (1, kernel_x) if step_x == 1 else (kernel_x, 1)
    for out_y in range(out_height):
        for out_x in range(out_width):
            place = origin + out_y * pitch + out_x * out_channels
            for ky in range(kernel_y):
                y = out_y * stride_y - pad_y + ky * step_y
                if y < 0 or y >= height:
                    continue
                for run in range(runs):
                    x = out_x * stride_x - pad_x + run * step_x
                    first_x, last_x = max(x, 0), min(x + span, width)
                    if first_x >= last_x:
                        continue
                    first = np.int64(start[y * width + first_x])
                    last = np.int64(start[y * width + last_x])
                    base = (y * width + x - ky * kernel_x - run) * channels
                    c = 0
                    while c + 64 <= out_channels:
                        _add64(
                            out, place + c, event, event, first, last, base, weight,
                            out_channels, c,
                        )  # fmt: skip
                        c += 64
                    if c + 32 <= out_channels:
                        _add32(
                            out, place + c, event, event, first, last, base, weight,
                            out_channels, c,
                        )  # fmt: skip
                        c += 32
                    if c < out_channels:
                        _add16(
                            out, place + c, event, event, first, last, base, weight,
                            out_channels, c,
                        )  # fmt: skip


@_compiled
def _scatter(
    event: Any, start: Any, geometry: Any, weight: Any, places: Any, rows: Any, out: Any
) -> None:
    """Each event adds its kernel to the targets around it; weight (C, kH, kW, C), kernel flipped.

    places, rows: for each index within a row of the source, where its kernel's columns begin in
    the target's row, and where its weights do.
    """
    height, width, channels, kernel_y, kernel_x = geometry[0:5]
    pad_y, pad_x = geometry[7:9]
    out_channels, pitch, origin = geometry[13:16]
    span = kernel_x * out_channels
    first = origin + (pad_y - kernel_y + 1) * pitch + (pad_x - kernel_x + 1) * out_channels
    for y in range(height):
        for i in range(np.int64(start[y * width]), np.int64(start[(y + 1) * width])):
            along = event[i] - y * width * channels
            at = first + y * pitch + places[along]
            row = np.int64(rows[along])
            if kernel_y == 3 and span == 48:  # the common narrow layer, unrolled
                _add_block48(out, at, weight, row)
                _add_block48(out, at + pitch, weight, row + 48)
                _add_block48(out, at + 2 * pitch, weight, row + 96)
                continue
            for _ in range(kernel_y):
                if span % 48 == 0:
                    for block in range(0, span, 48):
                        _add_block48(out, at + block, weight, row + block)
                else:
                    for block in range(0, span, LANES):
                        _add_block16(out, at + block, weight, row + block)
                at += pitch
                row += span


@_compiled
def gather(
    events: Any,
    starts: Any,
    lo: int,
    hi: int,
    geometry: Any,
    weight: Any,
    flipped: Any,
    places: Any,
    rows: Any,
    few: int,
    fan: Any,
    drive: Any,
    touched: Any,
    passed: Any,
) -> None:
    """Add what binary events send through a convolution, the cheaper way for each sample.

    With fewer than `few` events they scatter, else the targets gather.
    """
    last = geometry[0] * geometry[1]
    for n in range(lo, hi):
        event, start, out = events[n], starts[n], drive[n - lo]
        if start[last] == 0:
            continue
        touched[n] = 1
        passed[n] += _passed(start, fan)
        if start[last] < few:
            _scatter(event, start, geometry, flipped, places, rows, out)
        else:
            _gather(event, start, geometry, weight, out)


@_compiled
def gather_graded(
    events: Any,
    values: Any,
    starts: Any,
    lo: int,
    hi: int,
    geometry: Any,
    weight: Any,
    fan: Any,
    drive: Any,
    touched: Any,
    passed: Any,
) -> None:
    """The same for events that carry values."""
    height, width, channels, kernel_y, kernel_x = geometry[0:5]
    stride_y, stride_x, pad_y, pad_x, step_y, step_x = geometry[5:11]
    out_height, out_width, out_channels, pitch, origin = geometry[11:16]
    runs, span = (1, kernel_x) if step_x == 1 else (kernel_x, 1)
    for n in range(lo, hi):
        event, value, start, out = events[n], values[n], starts[n], drive[n - lo]
        if start[height * width] == 0:
            continue
        touched[n] = 1
        passed[n] += _passed(start, fan)
        for out_y in range(out_height):
            for out_x in range(out_width):
                place = origin + out_y * pitch + out_x * out_channels
                for ky in range(kernel_y):
                    y = out_y * stride_y - pad_y + ky * step_y
                    if y < 0 or y >= height:
                        continue
                    for run in range(runs):
                        x = out_x * stride_x - pad_x + run * step_x
                        first_x, last_x = max(x, 0), min(x + span, width)
                        if first_x >= last_x:
                            continue
                        first = np.int64(start[y * width + first_x])
                        last = np.int64(start[y * width + last_x])
                        base = (y * width + x - ky * kernel_x - run) * channels
                        for c in range(0, out_channels, LANES):
                            _add_graded(
                                out, place + c, event, value, first, last, base, weight,
                                out_channels, c,
                            )  # fmt: skip


@_compiled
def depthwise(
    spikes: Any,
    starts: Any,
    lo: int,
    hi: int,
    geometry: Any,
    weight: Any,
    fan: Any,
    drive: Any,
    touched: Any,
    passed: Any,
) -> None:
    """Add what binary spikes send through one kernel a channel; weight (kH·kW, C)."""
    height, width, channels, kernel_y, kernel_x = geometry[0:5]
    stride_y, stride_x, pad_y, pad_x, step_y, step_x = geometry[5:11]
    out_height, out_width, _, pitch, origin = geometry[11:16]
    for n in range(lo, hi):
        spike, start, out = spikes[n], starts[n], drive[n - lo]
        if start[height * width] == 0:
            continue
        touched[n] = 1
        passed[n] += _passed(start, fan)
        for out_y in range(out_height):
            for out_x in range(out_width):
                left = out_x * stride_x - pad_x
                first = 0 if left >= 0 else (step_x - 1 - left) // step_x
                last = min(kernel_x, (width - 1 - left) // step_x + 1)
                place = origin + out_y * pitch + out_x * channels
                for ky in range(kernel_y):
                    y = out_y * stride_y - pad_y + ky * step_y
                    if y < 0 or y >= height:
                        continue
                    pixel = (y * width + left + first * step_x) * channels
                    tap = (ky * kernel_x + first) * channels
                    for c in range(0, channels, LANES):
                        _add_taps(  # pyright: ignore[reportCallIssue]
                            out, place + c, spike, pixel + c, step_x * channels, weight, tap + c,
                            channels, last - first,
                        )  # fmt: skip


@_compiled
def _list(words: Any, events: Any, starts: Any, words_a_pixel: int) -> None:
    """Sorted flat indices of one sample's spikes, and where each pixel's begin."""
    # Eight bytes of 0 and 1 times this constant have their bits, in order, in the highest byte.
    gatherer, shift = np.uint64(0x0102040810204080), np.uint64(56)
    found = 0
    place = 0
    for pixel in range(len(starts) - 1):
        starts[pixel] = found
        for _ in range(words_a_pixel):
            byte = np.int64((words[place] * gatherer) >> shift)
            _put_places(  # pyright: ignore[reportCallIssue]
                events, found, _PLACES_FLAT, byte * WORD, np.int32(place * WORD)
            )
            found += _ONES[byte]
            place += 1
    starts[len(starts) - 1] = found


@_compiled
def list_values(frames: Any, events: Any, values: Any, starts: Any, lo: int, hi: int) -> None:
    """Nonzero values of frames (N, C, H, W) as events in channels-last order."""
    _, channels, height, width = frames.shape
    for n in range(lo, hi):
        found = 0
        for y in range(height):
            for x in range(width):
                starts[n, y * width + x] = found
                for c in range(channels):
                    value = frames[n, c, y, x]
                    if value != 0:
                        events[n, found] = (y * width + x) * channels + c
                        values[n, found] = value
                        found += 1
        starts[n, height * width] = found


@_compiled
def pack(
    events: Any, starts: Any, channels: int, packed: Any, samples: int, first_bit: int
) -> None:
    """Set the bits of spikes in (C, H, W) order, the first in a byte's highest bit."""
    pixels = starts.shape[1] - 1
    for n in range(samples):
        row, event, out = starts[n], events[n], packed[n]
        for pixel in range(pixels):
            for i in range(np.int64(row[pixel]), np.int64(row[pixel + 1])):
                channel = np.int64(event[i]) - pixel * channels
                bit = first_bit + channel * pixels + pixel
                out[bit >> 3] |= np.uint8(128 >> (bit & 7))


@_compiled
def add(stored: Any, lo: int, hi: int, drive: Any, touched: Any) -> None:
    """Add a drive that was summed before."""
    for n in range(lo, hi):
        touched[n] = 1
        for i in range(stored.shape[1]):
            drive[n - lo, i] += stored[n, i]


@_compiled
def lif(
    drive: Any,
    current: Any,
    voltage: Any,
    spikes: Any,
    words: Any,
    events: Any,
    starts: Any,
    emitted: Any,
    touched: Any,
    busy: Any,
    bias_row: Any,
    constants: Any,
    fresh: bool,
    lo: int,
    hi: int,
) -> None:
    """One step of a layer's neurons (equations in splitcore.graph); clears the drive it used.

    fresh: a new sample begins, so all state is zero whatever the arrays hold.

    constants: voltage decay, current decay, threshold, whether a synaptic filter is held, whether
    a neuron can move without input (a bias), words a pixel, the drive's pitch and origin. A sample
    whose layer rests at zero and that nothing reaches is skipped.
    """
    keep_v, keep_u = np.int32(4096 - constants[0]), np.int32(4096 - constants[1])
    threshold = np.int32(constants[2])
    filtered, restless, words_a_pixel = constants[3], constants[4], constants[5]
    pitch, origin = constants[6], constants[7]
    row = len(bias_row)
    last = starts.shape[1] - 1
    for n in range(lo, hi):
        if fresh:
            voltage[n, :] = 0
            current[n, :] = 0
            busy[n] = 0
            emitted[n] = 0
        if not (restless or touched[n] or busy[n]):
            if starts[n, last] > 0:
                spikes[n, :] = 0
                starts[n, :] = 0
            continue
        touched[n] = 0
        moving = np.int32(0)
        for y in range(spikes.shape[1] // row):
            begin, place = y * row, origin + y * pitch
            d, v, s = (
                drive[n - lo, place : place + row],
                voltage[n, begin : begin + row],
                spikes[n, begin : begin + row],
            )
            if filtered:
                held = current[n, begin : begin + row]
                for i in range(row):
                    u = _decayed(held[i], keep_u)
                    u = _wrapped(np.int32(u + np.int32(d[i] << 6)))
                    held[i] = u
                    moving |= u
                    d[i] = u
            else:
                for i in range(row):
                    d[i] = _wrapped(np.int32(d[i] << 6))
            for i in range(row):
                x = np.int32(_decayed(v[i], keep_v) + np.int32(d[i] + bias_row[i]))
                x = min(max(x, np.int32(1 - LIMIT)), np.int32(LIMIT - 1))
                fired = x > threshold
                x = np.int32(0) if fired else x
                v[i] = x
                moving |= x
                s[i] = fired
                d[i] = 0
            # The margin has collected what went beyond the border; others use this memory too.
            drive[n - lo, place + row : place + pitch] = 0
        drive[n - lo, :origin] = 0
        drive[n - lo, origin + spikes.shape[1] // row * pitch :] = 0
        busy[n] = moving != 0
        _list(words[n], events[n], starts[n], words_a_pixel)
        emitted[n] += starts[n, last]


@njit(inline="always")
def _decayed(state: Any, keep: Any) -> Any:
    """sign(x) · (|x| · keep >> 12) without leaving 32 bits: |x| in its upper and lower 12 bits."""
    size = np.int32(abs(state))
    upper = np.int32(np.int32(size >> 12) * keep)
    lower = np.int32(np.int32(np.int32(size & 4095) * keep) >> 12)
    kept = np.int32(upper + lower)
    return np.int32(-kept) if state < 0 else kept


@njit(inline="always")
def _wrapped(u: Any) -> Any:
    u = np.int32(u - WRAP) if u > LIMIT else u
    return np.int32(u + WRAP) if u <= -LIMIT else u


def forget_cache() -> None:
    """Compile anew in this process, and keep nothing on disk."""
    for kernel in (
        _passed, _gather, _scatter, _list,
        gather, gather_graded, depthwise, list_values, pack, add, lif,
    ):  # fmt: skip
        kernel._cache = NullCache()
