"""A spiking layer's two ways to train, against the same thing written out in torch."""

import copy

import pytest
import torch
import torch.nn.functional as F

from splitcore.errors import ConfigError
from training import lif
from training.blocks import EPS, MOMENTUM, NeuronConfig, Norm, NormedConv, SpikingLayer
from training.lif import LifParameters

STEPS = 4


def _layer(*, shortcut: str = "none", input_max: int = 1) -> SpikingLayer:
    torch.manual_seed(0)
    convs = [NormedConv(6, 6, 3)]
    if shortcut == "conv":
        convs.append(NormedConv(6, 6, 1))
    layer = SpikingLayer(
        convs, NeuronConfig(), identity=shortcut == "identity", input_max=input_max
    )
    layer.set_steps(STEPS)
    layer.precise = True
    with torch.no_grad():
        for conv in convs:
            conv.gain.copy_(torch.rand(6) + 0.5)
            conv.gain[1] *= -1
            conv.shift.copy_(0.3 * torch.randn(6))
    return layer.train()


def _events(input_max: int = 1) -> torch.Tensor:
    torch.manual_seed(1)
    events = torch.rand(STEPS * 5, 6, 7, 7)
    events = (events * (input_max + 1)).floor() if input_max > 1 else (events < 0.3).float()
    return events.contiguous(memory_format=torch.channels_last)


def _by_hand(layer: SpikingLayer, events: torch.Tensor) -> torch.Tensor:
    """Rounded weights, torch's own batch norm, plain LIF; moves the running statistics."""
    with torch.no_grad():
        folded = layer.folded()
    drive = torch.zeros(())
    for conv, integers in zip(layer.convs, folded.weights, strict=True):
        assert isinstance(conv, NormedConv)
        scale = conv.gain * torch.rsqrt(conv.var + EPS) * folded.threshold / layer.input_max
        weight = conv.weight + (integers / scale[:, None, None, None] - conv.weight).detach()
        sums = F.conv2d(events, weight, padding=conv.padding) / layer.input_max
        drive = drive + F.batch_norm(
            sums, conv.mean, conv.var, conv.gain, conv.shift, True, MOMENTUM, EPS
        )
    if layer.identity:
        drive = drive + events
    parameters = LifParameters(1.0, 1024, tau=0.5, scale=1.0)
    return lif.lif(drive.unflatten(0, (STEPS, -1)), parameters, range(STEPS)).flatten(0, 1)


@pytest.mark.parametrize(
    ("shortcut", "input_max"), [("none", 1), ("none", 63), ("conv", 1), ("identity", 1)]
)
def test_float_layer_equals_batch_norm_written_out(shortcut: str, input_max: int) -> None:
    layer, events = _layer(shortcut=shortcut, input_max=input_max), _events(input_max)
    twin = copy.deepcopy(layer)
    inputs = (events, events) if shortcut != "none" else (events,)
    weighting = torch.randn(STEPS * 5, 6, 7, 7)
    spikes = layer(*inputs)
    (spikes * weighting).sum().backward()
    want = _by_hand(twin, events)
    (want * weighting).sum().backward()
    assert 0.05 < float(want.mean()) < 0.95
    assert torch.equal(spikes, want)
    for name, buffer in twin.named_buffers():
        torch.testing.assert_close(dict(layer.named_buffers())[name], buffer, rtol=1e-5, atol=1e-6)
    for (name, found), other in zip(layer.named_parameters(), twin.parameters(), strict=True):
        if not found.requires_grad:
            continue
        assert found.grad is not None, name
        assert other.grad is not None, name
        largest = float(other.grad.abs().max())
        torch.testing.assert_close(found.grad, other.grad, rtol=1e-4, atol=1e-5 * largest)


def test_float_layer_in_low_precision_stays_near_the_precise_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("training.blocks.fast_dtype", lambda _device: torch.bfloat16)
    layer, events = _layer(shortcut="identity"), _events()
    exact = layer(events, events)
    layer.precise = False
    low = layer(events, events)
    assert low.dtype == torch.bfloat16
    assert float((low.float() != exact).float().mean()) < 0.03


def test_rate_is_the_mean_of_the_spikes_and_can_be_penalised() -> None:
    layer, events = _layer(), _events()
    spikes = layer(events)
    assert layer.rate is not None
    assert float(layer.rate.detach()) == pytest.approx(float(spikes.mean()), rel=1e-6)
    layer.rate.backward()
    first = layer.convs[0]
    assert isinstance(first, NormedConv)
    assert first.shift.grad is not None
    assert (first.shift.grad > 0).all()  # more bias, more spikes


def test_evaluation_equals_training_on_folded_integers() -> None:
    layer, events = _layer(shortcut="identity"), _events()
    for _ in range(20):
        layer(events, events)
    layer.norm = Norm.FOLDED
    trained = layer(events, events)
    assert 0.05 < float(trained.mean()) < 0.95
    assert torch.equal(trained, layer.eval()(events, events))
    assert layer.rate is None


def test_dead_channel_trains_without_nan() -> None:
    layer, events = _layer(), _events()
    with torch.no_grad():
        layer.convs[0].gain[2] = 0
    layer(events).sum().backward()
    for parameter in layer.parameters():
        assert parameter.grad is None or torch.isfinite(parameter.grad).all()


@torch.no_grad()
def _after_learning(silent: slice) -> SpikingLayer:
    """A depthwise layer whose running statistics have seen inputs of which some never fire."""
    torch.manual_seed(0)
    layer = SpikingLayer([NormedConv(32, 32, 3, groups=32)], NeuronConfig())
    layer.set_steps(4)
    for _ in range(200):
        events = (torch.rand(16, 32, 4, 4) < 0.2).float()
        events[:, silent] = 0
        layer(events)
    return layer


def test_silent_input_leaves_the_others_their_magnitudes() -> None:
    whole, layer = _after_learning(slice(0, 0)), _after_learning(slice(0, 1))
    others = layer.folded().weights[0][1:].abs()
    assert layer.folded().threshold > whole.folded().threshold / 10
    assert others.unique().numel() > 5
    layer.record("depthwise", ["stem"])


def test_layer_that_hears_nothing_is_refused_before_its_weights_leave_eight_bits() -> None:
    with pytest.raises(ConfigError, match=r"\(32, 1, 3, 3\) fits no 8-bit integers"):
        _after_learning(slice(None))
