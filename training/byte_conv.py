"""Convolution of whole events 0 … 255 with even 8-bit weights, on the CPU's byte multipliers.

Half of an even weight fits a signed byte, and the sums are 32-bit integers inside oneDNN: exact,
and several times faster than float32. The gradient is that of an ordinary convolution, in the
dtype of the sums.
"""

# torch.ops finds its operators when it is run, so types cannot.
# pyright: reportCallIssue=false

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F

from training import taps, tiling
from training.backward_steps import ALL, empty_but_zero_outside

try:
    from training import depthwise, floats, kernels
except ImportError:  # no numba
    depthwise = floats = kernels = None

Pair = tuple[int, int]


def _byte_sums(
    events: torch.Tensor,
    half_weight: torch.Tensor,
    stride: Pair,
    padding: Pair,
    dtype: torch.dtype,
) -> torch.Tensor:
    onednn = torch.ops.onednn
    channels = len(half_weight)
    scale = torch.full((channels,), 2.0)
    packed = onednn.qconv_prepack(
        half_weight, scale, 1.0, 0, stride, padding, (1, 1), 1, list(events.shape)
    )
    zero = torch.zeros(channels, dtype=torch.int64)
    return onednn.qconv2d_pointwise(
        events, 1.0, 0, packed, scale, zero, None, stride, padding, (1, 1), 1,
        1.0, 0, dtype, "none", [], "",
    )  # fmt: skip


@lru_cache(maxsize=1)
def _trusted() -> bool:
    """Whether this processor and this torch have it, and it is exact at the extremes.

    Without VNNI oneDNN adds pairs of products in 16 bits, which extreme values overflow.
    """
    if floats is None or not floats.native_byte_products():
        return False
    draw = torch.Generator().manual_seed(0)
    events = torch.randint(0, 256, (2, 40, 7, 7), generator=draw, dtype=torch.uint8)
    weight = torch.randint(-128, 128, (24, 40, 3, 3), generator=draw, dtype=torch.int8)
    events[0], weight[:4], weight[4:8] = 255, 127, -128
    try:
        found = _byte_sums(events, weight, (1, 1), (1, 1), torch.float32)
    except (RuntimeError, AttributeError):  # another torch, without or with another operator
        return False
    return torch.equal(found, F.conv2d(events.double(), 2 * weight.double(), padding=1).float())


class _ByteConv(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        events: torch.Tensor,
        weight: torch.Tensor,
        stride: Pair,
        padding: Pair,
        gradient: torch.dtype,
        chosen: slice,
    ) -> torch.Tensor:
        assert kernels is not None
        ctx.save_for_backward(events, weight)
        ctx.geometry, ctx.gradient, ctx.chosen = (stride, padding), gradient, chosen
        levels = kernels.to_bytes(tiling.channels_last(events))
        half = (weight * 0.5).to(torch.int8)
        return _byte_sums(levels, half, stride, padding, events.dtype)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor):  # type: ignore[override]
        events, weight = ctx.saved_tensors
        (stride, padding), low, chosen = ctx.geometry, ctx.gradient, ctx.chosen
        grad_part, grad_weight, _ = torch.ops.aten.convolution_backward(
            grad[chosen].to(low), events[chosen].to(low), weight.to(low), None, stride, padding,
            (1, 1), False, (0, 0), 1, (ctx.needs_input_grad[0], ctx.needs_input_grad[1], False),
        )  # fmt: skip
        grad_events = None
        if grad_part is not None and len(grad_part) == len(events):
            grad_events = grad_part.to(events.dtype)
        elif grad_part is not None:
            grad_events = empty_but_zero_outside(events, chosen)
            grad_events[chosen] = grad_part
        if grad_weight is not None:
            grad_weight = grad_weight.to(weight.dtype)
        return grad_events, grad_weight, None, None, None, None


def _is_depthwise(weight: torch.Tensor, groups: int) -> bool:
    outputs, inputs, height, width = weight.shape
    return groups == outputs and inputs == 1 and height == width


def byte_conv(
    events: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair,
    padding: Pair,
    groups: int,
    gradient: torch.dtype | None = None,
    chosen: slice = ALL,
) -> torch.Tensor:
    """Sums (M, O, H, W) in the dtype of the events.

    events: whole numbers 0 … 255; weight OIHW: even integers −256 … 254. Float32 sums are exact.
    gradient: the dtype that the gradient is convolved in; that of the events where it is None.
    chosen: the rows whose sums have a gradient; that of the others is taken for zero.
    """
    weight = taps.reached(weight, events.shape, stride, padding)
    if kernels is not None and groups == 1 and tiling.supports(events) and _trusted():
        sums = _ByteConv.apply(events, weight, stride, padding, gradient or events.dtype, chosen)
        assert sums is not None
        return sums
    # Grouped convolutions are bound by memory, and no faster in bytes.
    return grouped_conv(events, weight, stride, padding, groups, chosen)


def grouped_conv(
    inputs: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair,
    padding: Pair,
    groups: int,
    chosen: slice = ALL,
) -> torch.Tensor:
    """torch's conv2d in the dtype of the inputs, compiled where it is depthwise and on the CPU."""
    if depthwise is not None and tiling.supports(inputs) and _is_depthwise(weight, groups):
        return depthwise.depthwise_conv(inputs, weight, stride[0], padding[0], chosen)
    return F.conv2d(inputs, weight.to(inputs.dtype), None, stride, padding, groups=groups)
