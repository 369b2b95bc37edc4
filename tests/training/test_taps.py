"""Gradients of taps that no input reaches: zero, whatever the memory held before."""

import pytest
import torch
import torch.nn.functional as F

from training import taps
from training.blocks import NormedConv

SHAPES = [  # kernel, stride, side of the map
    (7, 4, 2),
    (7, 4, 3),
    (7, 4, 4),
    (5, 1, 1),
    (3, 2, 1),
    (3, 2, 2),
    (3, 1, 4),
]


def _soil(values: int) -> None:
    """Leave memory of about this size behind that holds no numbers."""
    for size in (values, 2 * values, 4 * values):
        torch.full((size,), float("nan"))


def _close(found: torch.Tensor, expected: torch.Tensor) -> None:
    assert (found[expected == 0].abs() < 1e-3 * expected.abs().max()).all()
    assert (found - expected).abs().max() <= 0.02 * expected.abs().max()  # bfloat16


@pytest.mark.parametrize(("kernel", "stride", "side"), SHAPES)
@pytest.mark.parametrize("transpose", [False, True])
def test_gradient_of_a_kernel_larger_than_its_map(kernel, stride, side, transpose):
    torch.manual_seed(0)
    inputs, outputs, narrow = 32, 16, (side - 1) // stride + 1
    extra = (side - 1) % stride
    conv = NormedConv(
        inputs, outputs, kernel, stride=stride, output_padding=(extra, extra) if transpose else None
    )
    source = narrow if transpose else side
    events = (torch.rand(256, inputs, source, source) < 0.3).float()
    events = events.contiguous(memory_format=torch.channels_last)
    weight = (2.0 * torch.randint(-100, 100, conv.weight.shape)).requires_grad_()
    _soil(weight.numel())
    sums = conv.convolve(events.bfloat16(), weight, torch.bfloat16, slice(None))
    gradient = torch.randn(sums.shape).bfloat16()
    _soil(weight.numel())
    (found,) = torch.autograd.grad(sums, weight, gradient)
    exact = weight.detach().double().requires_grad_()
    if transpose:
        wanted = F.conv_transpose2d(events.double(), exact, None, stride, kernel // 2, extra)
    else:
        wanted = F.conv2d(events.double(), exact, None, stride, kernel // 2)
    (expected,) = torch.autograd.grad(wanted, exact, gradient.double())
    assert wanted.shape[-1] == (side if transpose else narrow)
    _close(found.double(), expected)


@pytest.mark.parametrize(("kernel", "stride", "side"), SHAPES)
def test_gradient_of_torchs_own_conv(kernel, stride, side):
    torch.manual_seed(0)
    conv = torch.nn.Conv2d(32, 16, kernel, stride, kernel // 2, bias=False)
    images = torch.rand(64, 32, side, side).contiguous(memory_format=torch.channels_last)
    with taps.unreached_are_zero(conv):
        with torch.autocast("cpu", torch.bfloat16):
            _soil(conv.weight.numel())
            sums = conv(images).float()
        _soil(conv.weight.numel())
        sums.sum().backward()
    exact = conv.weight.detach().double().requires_grad_()
    F.conv2d(images.double(), exact, None, stride, kernel // 2).sum().backward()
    assert conv.weight.grad is not None
    assert exact.grad is not None
    _close(conv.weight.grad.double(), exact.grad)
    assert not conv._forward_hooks
