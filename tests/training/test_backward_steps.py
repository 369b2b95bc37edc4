"""Gradients through some of the time steps: parts of a whole, and even parts for a still image."""

import copy
from pathlib import Path

import pytest
import torch

from splitcore.splits import backbone_named
from tests.training.small_digits import small_digits
from training import backward_steps, byte_conv, config, lif, loop
from training.blocks import NeuronConfig, Norm
from training.model import BottleneckConfig, SplitModel

STEPS = 4
WINDOWS = {1: [range(t, t + 1) for t in range(STEPS)], 2: [range(2), range(2, 4)]}


@pytest.fixture(params=["compiled", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        for module in (lif, byte_conv):
            monkeypatch.setattr(module, "kernels", None)
        monkeypatch.setattr(byte_conv, "depthwise", None)
    return request.param


def _model(backbone: str, norm: Norm, voltage_decay: float = 1.0) -> SplitModel:
    """Without another decay neurons forget everything, so that no gradient crosses time."""
    torch.manual_seed(0)
    model = SplitModel(
        backbone_named(backbone),
        split={"resnet8": "stage2.block1", "mobilenet_v1": "block2"}[backbone],
        bottleneck=BottleneckConfig(8, stride=2),
        width=8,
        input_shape=(3, 16, 16),
        input_bits=6,
        classes=5,
        steps=STEPS,
        neuron=NeuronConfig(voltage_decay=voltage_decay, tau_grad=0.02),
    )
    for layer in model.spiking_layers():
        layer.precise = True
    model.train()
    if norm is Norm.FOLDED:  # statistics under which every layer fires
        with torch.no_grad():
            for _ in range(80):
                model(_images(still=False))
        model.set_norm(norm)
    return model


def _images(still: bool) -> torch.Tensor:
    draw = torch.Generator().manual_seed(1)
    if still:
        return torch.randint(0, 64, (6, 3, 16, 16), generator=draw)
    return torch.randint(0, 64, (6, STEPS, 3, 16, 16), generator=draw)


def _gradients(model: SplitModel, chosen: range, still: bool) -> dict[str, torch.Tensor]:
    """Of everything before the readout, of a loss that weighs every score, and the rate."""
    model = copy.deepcopy(model)  # its statistics move
    model.set_backward_steps(chosen)
    scores = model(_images(still))
    weight = torch.randn(scores.shape, generator=torch.Generator().manual_seed(2))
    if still:
        weight = weight[:1]
    layers = model.spiking_layers()
    rates = [layer.rate for layer in layers if layer.rate is not None]
    assert len(rates) == len(layers)
    assert all(0.01 < float(rate.detach()) < 0.9 for rate in rates), rates
    ((scores * weight).sum() + 10 * torch.stack(rates).sum()).backward()
    return {
        name: parameter.grad.clone()
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "readout" not in name
    }


def _assert_close(found: dict[str, torch.Tensor], want: dict[str, torch.Tensor]) -> None:
    assert found.keys() == want.keys()
    for name, value in want.items():
        largest = float(value.abs().max())
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-4 * max(largest, 1e-3))


@pytest.mark.parametrize("backbone", ["resnet8", "mobilenet_v1"])
@pytest.mark.parametrize("count", [1, 2])
def test_gradients_of_all_turns_add_up_to_the_whole(backbone: str, count: int, engine: str) -> None:
    model = _model(backbone, Norm.FOLDED)
    whole = _gradients(model, range(STEPS), still=False)
    turns = [_gradients(model, chosen, still=False) for chosen in WINDOWS[count]]
    _assert_close({name: sum(turn[name] for turn in turns) for name in whole}, whole)
    assert any(not torch.allclose(turns[0][name], turns[1][name]) for name in whole)


@pytest.mark.parametrize("backbone", ["resnet8", "mobilenet_v1"])
@pytest.mark.parametrize("count", [1, 2])
def test_each_turn_of_a_still_image_is_its_share_of_the_whole(
    backbone: str, count: int, engine: str
) -> None:
    model = _model(backbone, Norm.FLOAT)
    whole = _gradients(model, range(STEPS), still=True)
    for chosen in WINDOWS[count]:
        found = _gradients(model, chosen, still=True)
        _assert_close({name: grad * (STEPS / count) for name, grad in found.items()}, whole)


@pytest.mark.parametrize("backbone", ["resnet8", "mobilenet_v1"])
def test_gradient_of_the_first_steps_is_that_of_a_model_of_so_many_where_neurons_remember(
    backbone: str, engine: str
) -> None:
    """A quarter of the voltage goes a step: gradients cross time within the steps, not beyond."""
    count = 2
    model = _model(backbone, Norm.FOLDED, voltage_decay=0.25)
    short = copy.deepcopy(model)
    short.set_steps(count)
    found = _summed(model, _images(still=False), range(count))
    want = _summed(short, _images(still=False)[:, :count], range(count))
    _assert_close(found, want)


def _summed(model: SplitModel, images: torch.Tensor, chosen: range) -> dict[str, torch.Tensor]:
    """Gradients before the readout of a loss that is a sum over steps, of scores and of spikes."""
    model.set_backward_steps(chosen)
    weight = torch.randn((STEPS, len(images), 5), generator=torch.Generator().manual_seed(2))
    scores = model(images)
    rates = [layer.rate * model.steps for layer in model.spiking_layers() if layer.rate is not None]
    assert all(0.01 * model.steps < float(rate.detach()) < 0.9 * model.steps for rate in rates)
    ((scores * weight[: model.steps]).sum() + 10 * torch.stack(rates).sum()).backward()
    return {
        name: parameter.grad
        for name, parameter in model.named_parameters()
        if parameter.grad is not None and "readout" not in name
    }


def test_turns_go_round_and_cover_every_step() -> None:
    assert [backward_steps.turn(batch, 4, 2) for batch in range(3)] == [
        range(2),
        range(2, 4),
        range(2),
    ]
    assert backward_steps.turn(5, 1, 2) == range(1)  # an epoch of one step


def test_training_takes_turns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[range] = []
    real = SplitModel.set_backward_steps

    def noted(self: SplitModel, chosen: range) -> None:
        seen.append(chosen)
        real(self, chosen)

    monkeypatch.setattr(SplitModel, "set_backward_steps", noted)
    loop.fit(_config(2), small_digits(128), tmp_path)
    assert seen[-4:] == [range(2), range(2, 4)] * 2


def test_without_turns_every_step_is_learned_from(tmp_path: Path) -> None:
    layers = loop.fit(_config(0), small_digits(128), tmp_path).model.spiking_layers()
    assert [layer.backward_steps for layer in layers] == [range(STEPS)] * len(layers)


def test_steps_that_do_not_divide_are_refused() -> None:
    with pytest.raises(config.ConfigError, match="backward_steps: 3 do not divide"):
        _config(3)


def _config(count: int) -> config.Config:
    return config.parse(
        {
            "name": "turns",
            "model": {"backbone": "resnet8", "width": 8, "steps": STEPS},
            "recipe": {"epochs": 1, "batch_size": 32, "backward_steps": count},
        },
        "test",
    )
