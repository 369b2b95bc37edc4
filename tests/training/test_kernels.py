"""The compiled kernels against plain torch, at awkward sizes and types."""

import multiprocessing
from dataclasses import replace

import numpy as np
import pytest
import torch

from training import floats, kernels, lif, tiling
from training.lif import BatchNorm, LifParameters

REAL = LifParameters(threshold=1.0, voltage_decay=1024, tau=0.5, scale=1.0)
WHOLE = LifParameters(threshold=96, voltage_decay=1024, tau=0.5, scale=1.0, state_scale=64)


def _last(*shape: int) -> torch.Tensor:
    return torch.randn(shape).contiguous(memory_format=torch.channels_last)


def _layer(shape: tuple[int, int, int, int], steps: int, convs: int, extra: bool, whole: bool):
    """Random inputs of normed_lif: sums (whole numbers or reals), norms, bias, extra events."""
    torch.manual_seed(sum(shape) + steps)
    channels = shape[1]
    sums = [_last(*shape) * (40 if whole else 1) for _ in range(convs)]
    sums = [(x.round() if whole else x).requires_grad_() for x in sums]
    norms = [
        BatchNorm(
            (torch.rand(channels) + 0.5).requires_grad_(),
            torch.full((channels,), 1e-5),
            torch.randn(channels),
        )
        for _ in range(0 if whole else convs)
    ]
    bias = torch.randn(channels) * (20 if whole else 0.3)
    bias = (bias.round() if whole else bias).requires_grad_()
    events = (torch.rand(shape) < 0.3).float().contiguous(memory_format=torch.channels_last)
    return sums, norms, bias, events.requires_grad_() if extra else None


def _run(sums, norms, bias, extra, *, steps: int, whole: bool, chosen: range | None = None):
    """Spikes, rate and the gradients of all inputs under a fixed random loss."""
    inputs = [*sums, bias, *(norm.gain for norm in norms), *([] if extra is None else [extra])]
    spikes, rate, moments = lif.normed_lif(
        sums,
        norms,
        bias,
        extra,
        identity=96.0 if whole else 1.0,
        steps=steps,
        parameters=WHOLE if whole else REAL,
        chosen=chosen or range(steps),
    )
    weight = torch.randn(spikes.shape, generator=torch.Generator().manual_seed(1))
    grads = torch.autograd.grad((spikes * weight).sum() + 50 * rate, inputs)
    return spikes.detach(), rate.detach(), moments, grads


SHAPES = [((8, 5, 3, 3), 4), ((3, 1, 1, 1), 3), ((12, 600, 2, 1), 2), ((16, 32, 33, 31), 4)]


@pytest.mark.parametrize(("shape", "steps"), SHAPES)
@pytest.mark.parametrize(("convs", "extra"), [(1, False), (1, True), (2, False)])
@pytest.mark.parametrize("whole", [False, True])
@pytest.mark.parametrize("chosen", [None, range(1, 2), range(1, 3)])
def test_fused_layer_equals_plain_torch(
    shape,
    steps: int,
    convs: int,
    extra: bool,
    whole: bool,
    chosen: range | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    if chosen is not None and chosen.stop > steps:
        chosen = range(steps - len(chosen), steps)
    layer = _layer(shape, steps, convs, extra, whole)
    settings = {"steps": steps, "whole": whole, "chosen": chosen}
    spikes, rate, moments, grads = _run(*layer, **settings)
    monkeypatch.setattr(lif, "kernels", None)
    want_spikes, want_rate, want_moments, want_grads = _run(*layer, **settings)
    assert torch.equal(spikes, want_spikes)
    assert shape[0] < 8 or 0 < float(rate) < 1
    torch.testing.assert_close(rate, want_rate)
    for found, want in zip(moments, want_moments, strict=True):
        torch.testing.assert_close(found.mean, want.mean, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found.variance, want.variance, rtol=1e-5, atol=1e-6)
    for found, want in zip(grads, want_grads, strict=True):
        largest = float(want.abs().max())
        torch.testing.assert_close(found, want, rtol=2e-5, atol=1e-5 * max(largest, 1e-3))


def test_fused_layer_of_any_memory_order_gives_the_same() -> None:
    layer = _layer((8, 6, 5, 5), 4, 1, True, True)
    first = _run(*layer, steps=4, whole=True)
    plain = [tensor.detach().contiguous().requires_grad_() for tensor in (*layer[0], layer[3])]
    second = _run([plain[0]], [], layer[2], plain[1], steps=4, whole=True)
    assert torch.equal(first[0], second[0])
    for one, other in zip(first[3], second[3], strict=True):
        assert torch.equal(one, other)


def test_fused_layer_gives_the_same_bits_on_any_number_of_threads() -> None:
    layer = _layer((16, 32, 40, 40), 4, 2, False, False)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(_run(*layer, steps=4, whole=False))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(results[0][3], results[1][3], strict=True):
        assert torch.equal(one, other)


def test_whole_state_beyond_float32_stays_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    slow = replace(WHOLE, threshold=4095, voltage_decay=1)  # products need 36 bits
    sums = [torch.randint(-(1 << 17), 1 << 16, (24, 4, 8, 8)).float()]
    arguments = sums, [], torch.zeros(4), None
    options = {"identity": 0.0, "steps": 12, "parameters": slow, "chosen": range(12)}
    spikes = lif.normed_lif(*arguments, **options)[0]
    monkeypatch.setattr(lif, "kernels", None)
    assert 0 < float(spikes.mean()) < 1
    assert torch.equal(spikes, lif.normed_lif(*arguments, **options)[0])


def test_exponential_is_within_two_units_in_the_last_place() -> None:
    x = np.linspace(-86.9, 0, 5001, dtype=np.float32)
    found = np.array([floats.exponential(value) for value in x])
    want = np.exp(x.astype(np.float64))
    assert np.abs(found - want).max() <= 2 * np.spacing(np.float32(1))
    assert (np.abs(found - want) <= 2 * np.spacing(want.astype(np.float32))).all()


def test_bfloat16_rounds_as_torch_does_and_keeps_nan() -> None:
    x = _last(2, 8, 4, 4) * torch.logspace(-30, 30, 8)[:, None, None]
    x[0, 0, 0, 0], x[0, 1, 0, 0] = float("nan"), float("inf")
    one, zero = torch.ones(8), torch.zeros(8)
    low = x.bfloat16()
    found = kernels.normed_backward(x, low, one, zero, zero, slice(0, None))
    keep = torch.isfinite(low)  # 0 · inf is no number
    assert torch.equal(found[keep], low[keep])
    assert found[0, 0, 0, 0].isnan()


def test_bfloat16_layer_follows_the_float32_one() -> None:
    sums, norms, bias, extra = _layer((32, 16, 12, 12), 4, 1, True, False)
    exact = _run(sums, norms, bias, extra, steps=4, whole=False)
    low = [sums[0].detach().bfloat16().requires_grad_()]
    assert extra is not None
    events = extra.detach().bfloat16().requires_grad_()
    rough = _run(low, norms, bias, events, steps=4, whole=False)
    assert rough[0].dtype == torch.bfloat16
    assert float((rough[0] != exact[0]).float().mean()) < 0.01
    for one, other in zip(rough[3], exact[3], strict=True):
        cosine = torch.nn.functional.cosine_similarity(one.float().flatten(), other.flatten(), 0)
        assert cosine > 0.98


def test_kernels_work_in_a_forked_child() -> None:
    before = torch.get_num_threads()
    context = multiprocessing.get_context("fork")
    queue = context.Queue()
    try:
        torch.set_num_threads(2)
        tiling.each(2, lambda _task: None)  # the pool's threads exist in the parent alone
        child = context.Process(target=_child, args=(queue,), daemon=True)
        child.start()
        assert queue.get(timeout=60) == 6
        child.join(60)
    finally:
        torch.set_num_threads(before)


def _child(queue) -> None:
    done = []
    tiling.each(3, lambda task: done.append(task + 1))
    queue.put(sum(done))
