"""The compiled depthwise convolution against torch's: sums exactly, gradients within rounding."""

import pytest
import torch
import torch.nn.functional as F

from splitcore.splits import backbone_named
from training import byte_conv, tiling
from training.baselines.ann import ann_blocks
from training.depthwise import depthwise_conv

SHAPES = [  # samples, channels, height, width, stride, kernel
    (1, 1, 1, 1, 1, 3),
    (3, 5, 7, 6, 1, 3),
    (9, 16, 8, 8, 2, 3),
    (2, 8, 9, 4, 2, 5),
    (4, 7, 6, 5, 3, 3),
    (2, 3, 2, 2, 1, 7),
    (5, 4, 4, 4, 1, 1),
    (2, 4, 3, 3, 4, 3),
]


def _case(shape: tuple[int, ...], dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    samples, channels, height, width, _, kernel = shape
    draw = torch.Generator().manual_seed(sum(shape))
    events = torch.rand(samples, channels, height, width, generator=draw) < 0.4
    weight = 2 * torch.randint(-128, 128, (channels, 1, kernel, kernel), generator=draw)
    layout = events.to(dtype).contiguous(memory_format=torch.channels_last)
    return layout.requires_grad_(), weight.float().requires_grad_()


@pytest.mark.parametrize("shape", SHAPES)
def test_float32_sums_are_exact_and_gradients_within_rounding(shape: tuple[int, ...]) -> None:
    events, weight = _case(shape, torch.float32)
    stride, kernel = shape[4:]
    ours = depthwise_conv(events, weight, stride, kernel // 2)
    want = F.conv2d(events, weight, None, stride, kernel // 2, groups=len(weight))
    assert torch.equal(ours, want)
    grad = torch.randn(want.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(
        torch.autograd.grad(ours, (events, weight), grad),
        torch.autograd.grad(want, (events, weight), grad),
        strict=True,
    ):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("shape", SHAPES[1:4])
def test_bfloat16_is_the_float32_result_rounded_once(shape: tuple[int, ...]) -> None:
    events, weight = _case(shape, torch.bfloat16)
    stride, kernel = shape[4:]
    ours = depthwise_conv(events, weight, stride, kernel // 2)
    want = F.conv2d(events.float(), weight, None, stride, kernel // 2, groups=len(weight))
    assert torch.equal(ours, want.bfloat16())


def test_weight_gradient_is_the_same_on_any_number_of_threads() -> None:
    events, weight = _case((33, 6, 9, 9, 1, 3), torch.float32)
    threads, found = torch.get_num_threads(), []
    for count in (1, 2, 3):
        torch.set_num_threads(count)
        result = depthwise_conv(events, weight, 1, 1)
        found.append(torch.autograd.grad(result.square().sum(), weight)[0])
    torch.set_num_threads(threads)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_a_transposed_layout_is_taken_too() -> None:
    events, weight = _case((2, 4, 5, 5, 1, 3), torch.float32)
    plain = events.detach().contiguous().requires_grad_()
    assert torch.equal(depthwise_conv(plain, weight, 1, 1), depthwise_conv(events, weight, 1, 1))
    assert tiling.supports(plain)


def test_an_ann_learns_as_by_torchs_own_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    block = ann_blocks(backbone_named("mobilenet_v1"), width=8, input_shape=(3, 8, 8))[2].train()
    images = torch.rand(4, 16, 8, 8).contiguous(memory_format=torch.channels_last)
    calls = []
    monkeypatch.setattr(
        byte_conv.depthwise,
        "depthwise_conv",
        lambda *arguments: calls.append(1) or depthwise_conv(*arguments),
    )
    found = []
    for compiled in (True, False):
        if not compiled:
            monkeypatch.setattr(byte_conv, "depthwise", None)
        block.zero_grad()
        out = block(images)
        out.square().sum().backward()
        found.append([out, *(weight.grad for weight in block.parameters())])
    assert calls == [1]
    assert float(found[0][1].abs().max()) > 0.1
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
