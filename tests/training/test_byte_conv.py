"""Byte convolutions are exact, and their gradient is that of an ordinary convolution."""

import pytest
import torch
import torch.nn.functional as F

from training import byte_conv
from training.byte_conv import byte_conv as conv

CASES = [
    # in, out, kernel, stride, groups, size
    (3, 8, 3, 1, 1, 9),
    (5, 7, 5, 2, 1, 11),
    (64, 16, 1, 2, 1, 6),
    (130, 20, 3, 1, 1, 4),
    (8, 8, 3, 2, 8, 7),
]


def _operands(inputs: int, outputs: int, kernel: int, groups: int, size: int, largest: int):
    torch.manual_seed(inputs)
    events = torch.randint(0, largest + 1, (6, inputs, size, size)).float()
    weight = 2.0 * torch.randint(-128, 128, (outputs, inputs // groups, kernel, kernel))
    return events.contiguous(memory_format=torch.channels_last), weight


@pytest.mark.parametrize(("inputs", "outputs", "kernel", "stride", "groups", "size"), CASES)
@pytest.mark.parametrize("largest", [1, 255])
def test_byte_conv_sums_are_exact(
    inputs: int, outputs: int, kernel: int, stride: int, groups: int, size: int, largest: int
) -> None:
    events, weight = _operands(inputs, outputs, kernel, groups, size, largest)
    pair = (stride, stride)
    found = conv(events, weight, pair, (kernel // 2, kernel // 2), groups)
    want = F.conv2d(events.double(), weight.double(), None, pair, kernel // 2, groups=groups)
    assert float(want.abs().max()) < 1 << 24
    assert torch.equal(found, want.float())


def test_byte_conv_gradients_equal_those_of_an_ordinary_conv() -> None:
    events, weight = _operands(12, 10, 3, 1, 8, 1)
    arguments = ((2, 2), (1, 1))
    grads = []
    for operator in (
        lambda x, w: conv(x, w, *arguments, 1),
        lambda x, w: F.conv2d(x, w, None, *arguments),
    ):
        x, w = events.clone().requires_grad_(), weight.clone().requires_grad_()
        sums = operator(x, w)
        (sums * torch.linspace(-1, 1, sums.numel()).reshape(sums.shape)).sum().backward()
        grads.append((x.grad, w.grad))
    for found, want in zip(*grads, strict=True):
        assert want is not None
        torch.testing.assert_close(found, want, rtol=1e-5, atol=1e-5 * float(want.abs().max()))


def test_byte_conv_without_byte_products_falls_back(monkeypatch: pytest.MonkeyPatch) -> None:
    events, weight = _operands(12, 10, 3, 1, 8, 1)
    found = conv(events, weight, (1, 1), (1, 1), 1)
    monkeypatch.setattr(byte_conv, "_trusted", lambda: False)
    assert torch.equal(found, conv(events, weight, (1, 1), (1, 1), 1))
