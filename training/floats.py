"""float32 and bfloat16 in compiled code, an exponential of which a loop vectorises, and what of
such numbers this processor multiplies itself.

bfloat16 travels as its bits in uint16. Only the exponential may fuse multiplications with
additions; no spike depends on it.
"""

# numba's decorators change signatures in ways that types cannot follow.
# pyright: reportCallIssue=false, reportRedeclaration=false

from __future__ import annotations

from functools import lru_cache

import llvmlite.binding
import llvmlite.ir as ir
import numpy as np
from numba import types
from numba.extending import intrinsic, overload

from splitcore.compiled import compiled

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


@compiled(nogil=True, error_model="numpy", fastmath={"contract"})
def exponential(x):
    """e^x of a float32 x ≤ 0, within 2 units in the last place; a loop of it vectorises."""
    x = max(x, SMALLEST_EXPONENT)
    n = np.floor(x * LOG2_E + HALF)
    r = (x - n * LN2_HIGH) - n * LN2_LOW
    tail = ((((E0 * r + E1) * r + E2) * r + E3) * r + E4) * r + E5
    return (tail * r * r + r + ONE) * _power_of_two(n)


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
