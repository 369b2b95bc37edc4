"""Our LIF against lava-dl itself: spikes bit for bit, gradients within float32 rounding."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from splitcore.graph import Conv, Current, Graph, Identity, Input, Lif
from training import lif, slayer_twin
from training.lif import LifParameters, normed_lif
from training.stock import slayer

TAU_GRAD, SCALE_GRAD = 0.005, 10.0
STEPS = 5


@pytest.fixture(params=["compiled", "torch"])
def engine(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    if request.param == "torch":
        monkeypatch.setattr(lif, "kernels", None)
    return request.param


def _residual_graph() -> Graph:
    """Stem, identity block, block with stride and a 1×1 shortcut; every layer fires."""
    draw = np.random.default_rng(3)

    def conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> Conv:
        weight = 2 * draw.integers(-40, 48, (outputs, inputs, kernel, kernel))
        pad = (kernel // 2, kernel // 2)
        return Conv(weight.astype(np.int32), (stride, stride), pad)

    def layer(name: str, *currents: Current, channels: int) -> Lif:
        bias = draw.integers(-150, 150, channels).astype(np.int32)
        return Lif(name, currents, bias, 250, voltage_decay=1024, current_decay=4096)

    return Graph(
        Input((2, 8, 8), 0),
        (
            layer("stem", Current("input", conv(2, 6, 3)), channels=6),
            layer("a1", Current("stem", conv(6, 6, 3)), channels=6),
            layer("a2", Current("a1", conv(6, 6, 3)), Current("stem", Identity(250)), channels=6),
            layer("b1", Current("a2", conv(6, 8, 3, 2)), channels=8),
            layer("b2", Current("b1", conv(8, 8, 3)), Current("a2", conv(6, 8, 1, 2)), channels=8),
        ),
    )


def _ours(graph: Graph, weights: dict, frames_mchw: torch.Tensor) -> dict[str, torch.Tensor]:
    """The graph by normed_lif, with the weights (leaves) given for (layer, place of current)."""
    spikes = {graph.input.name: frames_mchw}
    for layer in graph.layers:
        sums, extra, identity = [], None, 0
        for place, current in enumerate(layer.currents):
            if isinstance(current.synapse, Identity):
                extra, identity = spikes[current.source], current.synapse.weight
            else:
                synapse = current.synapse
                weight = weights[layer.name, place]
                padding = synapse.padding
                sums.append(F.conv2d(spikes[current.source], weight, None, synapse.stride, padding))
        spikes[layer.name], _, _ = normed_lif(
            sums,
            [],
            torch.from_numpy(layer.bias.copy()).float(),
            extra,
            identity=identity,
            steps=STEPS,
            chosen=range(STEPS),
            parameters=LifParameters(
                threshold=layer.threshold,
                voltage_decay=layer.voltage_decay,
                tau=TAU_GRAD * lif.TAU_RHO_MULT,
                scale=SCALE_GRAD * lif.SCALE_RHO_MULT,
                state_scale=64,
            ),
        )
    return spikes


def _frames() -> torch.Tensor:
    torch.manual_seed(0)
    return (torch.rand(3, 2, 8, 8, STEPS) < 0.4).float()


def test_residual_net_equals_stock_slayer_in_every_layer(engine: str) -> None:
    graph, frames = _residual_graph(), _frames()
    stock = slayer_twin.build(graph)(frames)
    weights = {
        (layer.name, place): torch.from_numpy(current.synapse.weight_oihw.copy()).float()
        for layer in graph.layers
        for place, current in enumerate(layer.currents)
        if isinstance(current.synapse, Conv)
    }
    ours = _ours(graph, weights, frames.movedim(-1, 0).flatten(0, 1))
    for name, want in stock.items():
        found = ours[name].unflatten(0, (STEPS, -1)).movedim(0, -1)
        assert 0.02 < float(want.mean()) < 0.9, f"{name} is silent or saturated"
        assert torch.equal(found, want)


def test_gradients_of_a_residual_net_agree_with_stock_slayer(engine: str) -> None:
    """Stock holds weights in units of 64: its gradients are 64 times those by our integers."""
    graph, frames = _residual_graph(), _frames()
    twin = slayer_twin.build(graph)
    for neuron in twin.neurons:
        neuron.tau_rho, neuron.scale_rho = TAU_GRAD * neuron.threshold, SCALE_GRAD
    torch.manual_seed(1)
    weighting = torch.randn(3, 8, 4, 4, STEPS)
    (twin(frames)["b2"] * weighting).sum().backward()

    weights = {
        (layer.name, place): torch.from_numpy(current.synapse.weight_oihw.copy())
        .float()
        .requires_grad_()
        for layer in graph.layers
        for place, current in enumerate(layer.currents)
        if isinstance(current.synapse, Conv)
    }
    ours = _ours(graph, weights, frames.movedim(-1, 0).flatten(0, 1))["b2"]
    (ours * weighting.movedim(-1, 0).flatten(0, 1)).sum().backward()
    for layer, synapses in zip(graph.layers, twin.synapses, strict=True):
        for place, current in enumerate(layer.currents):
            if not isinstance(current.synapse, Conv):
                continue
            want = synapses[place].weight.grad[..., 0] / slayer_twin.SCALE
            found = weights[layer.name, place].grad
            assert found is not None
            largest = float(want.abs().max())
            assert largest > 0
            # Stock compares with θ + 0.01/4096, which moves its exponent by about 1e-5.
            torch.testing.assert_close(found, want, rtol=1e-4, atol=3e-5 * largest)


def test_real_lif_follows_stock_neuron_up_to_its_state_grid(engine: str) -> None:
    """Stock rounds its state to 1/4096; ours does not while training with batch statistics."""
    neuron = slayer.neuron.cuba.Neuron(
        threshold=1,
        current_decay=1,
        voltage_decay=0.25,
        tau_grad=TAU_GRAD,
        scale_grad=SCALE_GRAD,
    )
    torch.manual_seed(0)
    current = (0.8 * torch.randn(4, 3, 6, 6, STEPS)).requires_grad_()
    weighting = torch.randn_like(current)
    stock = neuron(current)
    (stock * weighting).sum().backward()
    want = current.grad
    assert want is not None
    flat = current.detach().movedim(-1, 0).flatten(0, 1).requires_grad_()
    spikes, _, _ = normed_lif(
        [flat],
        [],
        torch.zeros(3),
        None,
        identity=0,
        steps=STEPS,
        chosen=range(STEPS),
        parameters=LifParameters(1.0, 1024, TAU_GRAD * 100, SCALE_GRAD * 0.1),
    )
    (spikes * weighting.movedim(-1, 0).flatten(0, 1)).sum().backward()
    assert flat.grad is not None
    found = flat.grad.unflatten(0, (STEPS, -1)).movedim(0, -1)
    same = (spikes.unflatten(0, (STEPS, -1)).movedim(0, -1) == stock).all(-1)
    assert float(same.float().mean()) > 0.99
    torch.testing.assert_close(found[same], want[same], rtol=5e-3, atol=3e-3)


def test_surrogate_of_a_single_step_is_the_exponential_by_hand(engine: str) -> None:
    current = torch.tensor([0.5, 1.25]).reshape(1, 2, 1, 1).requires_grad_()
    spikes, rate, _ = normed_lif(
        [current],
        [],
        torch.zeros(2),
        None,
        identity=0,
        steps=1,
        chosen=range(1),
        parameters=LifParameters(1.0, 1024, tau=0.5, scale=1.0),
    )
    spikes.sum().backward()
    assert spikes.flatten().tolist() == [0, 1]
    assert float(rate) == 0.5
    # scale / (2 τ) · exp(−|v − 1| / τ) = exp(−1), exp(−0.5)
    assert current.grad is not None
    assert current.grad.flatten().tolist() == pytest.approx([0.36787944, 0.60653066], rel=1e-6)
