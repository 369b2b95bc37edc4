"""Files of ours in stock lava-dl, files of stock lava-dl in ours: same datasets, same spikes."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from lava.lib.dl import slayer

from lava_edge import netx_file, reference
from lava_edge.runtime import simulate
from splitcore.difference import difference
from splitcore.errors import NetxError
from splitcore.graph import Conv, Current, Dense, Graph, Identity, Input, Lif
from tests.heads import heads
from tests.lava_edge.slayer_chain import Chain, datasets

ROOT = Path(__file__).resolve().parents[2]
CHAINS = heads(6, first_seed=1000, residual=False, filters=True)


def lif(name, current, channels, threshold, bias=0):
    return Lif(name, (current,), np.full(channels, bias), threshold, 1024)


def with_identity() -> Graph:
    first = lif("a", Current("input", Identity(100)), 2, 150, bias=3)
    conv = Conv(np.full((2, 2, 1, 2), 40))
    return Graph(Input((2, 3, 4)), (first, lif("b", Current("a", conv), 2, 90)))


def with_delays(bias: int) -> Graph:
    rng = np.random.default_rng(3)
    delay = np.broadcast_to(rng.integers(0, 5, (6, 1)), (6, 9))
    return Graph(
        Input((9, 1, 1)),
        (
            lif(
                "a", Current("input", Dense(2 * rng.integers(-20, 50, (6, 9)), delay)), 6, 150, bias
            ),
            lif("b", Current("a", Dense(2 * rng.integers(-20, 50, (4, 6)))), 4, 60),
        ),
    )


def with_synaptic_delays() -> Graph:
    rng = np.random.default_rng(4)
    dense = Dense(2 * rng.integers(-20, 50, (6, 9)), rng.integers(0, 6, (6, 9)))
    return Graph(Input((9, 1, 1)), (lif("a", Current("input", dense), 6, 150),))


def without_filter_decay() -> Graph:
    """u never decays (current decay 0): stock is given du = −1."""
    dense = Dense(np.array([[4, -2, 6], [-4, 8, 2]]))
    layer = Lif("a", (Current("input", dense),), np.zeros(2, int), 60, 512, current_decay=0)
    return Graph(Input((3, 1, 1)), (layer,))


def residual() -> Graph:
    a = lif("a", Current("input", Identity(100)), 2, 90)
    b = lif("b", Current("a", Identity(64)), 2, 50)
    meeting = (Current("b", Identity(64)), Current("a", Identity(32)))
    return Graph(Input((2, 3, 4)), (a, b, Lif("c", meeting, np.zeros(2, int), 60, 1024)))


def conv_after_dense() -> Graph:
    dense = lif("a", Current("input", Dense(np.full((3, 24), 8))), 3, 40)
    conv = Conv(np.full((2, 3, 1, 1), 40))
    return Graph(Input((2, 3, 4)), (dense, lif("b", Current("a", conv), 2, 40)))


def binary(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return (np.random.default_rng(seed).random(shape) < 0.4).astype(np.uint8)


NEURON = {"threshold": 0.9, "current_decay": 0.25, "voltage_decay": 0.1}
NORMED = NEURON | {"norm": slayer.neuron.norm.MeanOnlyBatchNorm}


def trained() -> Chain:
    """What people train: float weights, weight norm, mean-only batch norm, filters, defaults."""
    torch.manual_seed(5)
    cuba = slayer.block.cuba
    options = {"weight_norm": True, "delay_shift": False, "weight_scale": 3}
    with pytest.warns(UserWarning, match="weight_norm is deprecated"):
        chain = Chain(
            [
                cuba.Input(delay_shift=False),
                cuba.Conv(NORMED, 2, 4, (3, 2), stride=(1, 2), padding=(1, 0), **options),
                cuba.Conv(NEURON, 4, 4, 3, padding=1, dilation=(1, 2), groups=2, **options),
                cuba.Flatten(),
                cuba.Dense(NORMED, 4 * 6 * 1, 10, **options),
                cuba.Dense(NEURON, 10, 5, **options),
            ]
        )
    chain.train()
    chain.spikes(binary((4, 8, 2, 6, 6), seed=9))  # gives the norms a mean, hence a bias
    return chain.eval()


@dataclass(frozen=True)
class Case:
    graph: Graph
    frames: np.ndarray
    slayer_file: bool = False


@pytest.fixture(scope="module")
def cases(tmp_path_factory) -> tuple[Path, dict[str, Case]]:
    """Every case written to one folder and run there by one stock child."""
    folder = tmp_path_factory.mktemp("stock")
    found = {
        f"chain{index}": Case(head.graph, head.frames_ntchw) for index, head in enumerate(CHAINS)
    }
    found["identity"] = Case(with_identity(), binary((2, 5, 2, 3, 4)))
    # One sample: stock delay synapses are not reset, what is on its way leaks into the next.
    found["delays"] = Case(with_delays(0), binary((1, 14, 9, 1, 1)))
    found["delays-bias"] = Case(with_delays(6), binary((1, 14, 9, 1, 1)))
    found["synaptic-delays"] = Case(with_synaptic_delays(), binary((1, 14, 9, 1, 1)))
    found["no-filter-decay"] = Case(without_filter_decay(), binary((2, 8, 3, 1, 1)))
    found["residual"] = Case(residual(), binary((2, 5, 2, 3, 4)))
    found["conv-after-dense"] = Case(conv_after_dense(), binary((2, 5, 2, 3, 4)))
    for name, case in found.items():
        netx_file.save(case.graph, folder / f"{name}.net")
    frames = binary((3, 8, 2, 6, 6))
    chain = trained()
    np.save(folder / "trained.slayer.npy", chain.spikes(frames))
    chain.export(folder / "trained.net")
    found["trained"] = Case(netx_file.load(folder / "trained.net"), frames, slayer_file=True)
    for name, case in found.items():
        bits = case.graph.input.message_bits
        np.savez(folder / f"{name}.npz", frames=case.frames, message_bits=bits)
    subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "tests.lava_edge.stock_run", str(folder)],
        cwd=ROOT,
        timeout=250,
        check=True,
        capture_output=True,
    )
    return folder, found


REFUSED = ("residual", "conv-after-dense")
RUN = (
    *(f"chain{index}" for index in range(len(CHAINS))),
    *("identity", "delays", "delays-bias", "synaptic-delays", "no-filter-decay", "trained"),
)


@pytest.mark.parametrize("name", RUN)
def test_file_in_stock_netx_gives_the_reference_spikes(cases, name):
    folder, found = cases
    case = found[name]
    assert not (folder / f"{name}.error").exists()
    trace = reference.run(case.graph, case.frames)
    for layer, spikes in trace.spikes.items():
        assert 0.01 < spikes.mean() < 0.99, f"{layer} is silent or saturated"
    stock = np.load(folder / f"{name}.out.npy")
    assert np.count_nonzero(stock != trace.spikes[case.graph.output_name]) == 0


@pytest.mark.parametrize("name", REFUSED)
def test_file_of_extension_in_stock_netx_is_refused_on_opening(cases, name):
    folder, _ = cases
    assert not (folder / f"{name}.out.npy").exists()
    assert "object 'layer' doesn't exist" in (folder / f"{name}.error").read_text()


def test_file_of_extension_in_slayer_auto_is_refused_on_opening(cases):
    with pytest.raises(KeyError, match="layer"):
        slayer.auto.SequentialNetwork(str(cases[0] / "residual.net"))


def test_file_of_stock_slayer_gives_the_trained_spikes(cases):
    folder, found = cases
    case = found["trained"]
    ours = reference.run(case.graph, case.frames).spikes[case.graph.output_name]
    assert np.count_nonzero(ours != np.load(folder / "trained.slayer.npy")) == 0
    assert any(layer.bias.any() for layer in case.graph.layers)


@pytest.mark.parametrize("index", range(len(CHAINS)))
def test_file_of_chain_equals_what_slayer_exports(tmp_path, index):
    head = CHAINS[index]
    netx_file.save(head.graph, tmp_path / "ours")
    chain = Chain.of(head.graph)
    chain.spikes(head.frames_ntchw)
    chain.export(tmp_path / "slayers")
    assert datasets(tmp_path / "ours") == datasets(tmp_path / "slayers")


@pytest.mark.parametrize("graph", [with_identity(), with_delays(0), with_delays(6)])
def test_file_of_special_chain_equals_what_slayer_exports(tmp_path, graph):
    netx_file.save(graph, tmp_path / "ours")
    chain = Chain.of(graph)
    chain.spikes(binary((1, 4, *graph.input.shape)))
    chain.export(tmp_path / "slayers")
    assert datasets(tmp_path / "ours") == datasets(tmp_path / "slayers")


def test_chains_here_cover_bias_filters_groups_dense_and_graded_input():
    layers = [layer for head in CHAINS for layer in head.graph.layers]
    synapses = [layer.currents[0].synapse for layer in layers]
    convs = [synapse for synapse in synapses if isinstance(synapse, Conv)]
    assert any(layer.bias.any() for layer in layers)
    assert any(not layer.bias.any() for layer in layers)
    assert any(layer.current_decay < 4096 for layer in layers)
    assert any(isinstance(synapse, Dense) for synapse in synapses)
    assert any(conv.groups > 1 for conv in convs)
    assert any(conv.dilation[0] != conv.dilation[1] for conv in convs)
    assert any(conv.weight_oihw.shape[2] != conv.weight_oihw.shape[3] for conv in convs)
    assert {bool(head.graph.input.message_bits) for head in CHAINS} == {False, True}


def test_delays_of_slayer_delay_the_output_as_ours_delay_the_synapse(cases):
    case = cases[1]["delays"]
    ours = reference.run(case.graph, case.frames).spikes[case.graph.output_name]
    assert np.count_nonzero(ours != Chain.of(case.graph).spikes(case.frames)) == 0


def input_with_neuron(current_decay: float, **transform: float) -> Chain:
    torch.manual_seed(6)
    cuba = slayer.block.cuba
    neuron = {"threshold": 1.5, "current_decay": current_decay, "voltage_decay": 0.1}
    return Chain(
        [
            cuba.Input(neuron, delay_shift=False, **transform),
            cuba.Conv(NEURON, 2, 3, 3, delay_shift=False, weight_scale=3),
        ]
    ).eval()


@pytest.mark.parametrize(
    ("current_decay", "transform"),
    [(1, {}), (0.25, {}), (1, {"weight": 0.7, "bias": 0.3}), (0.25, {"weight": 0.7})],
)
def test_file_of_input_with_neuron_gives_the_trained_spikes(tmp_path, current_decay, transform):
    chain = input_with_neuron(current_decay, **transform)
    frames = binary((2, 9, 2, 5, 6)) * np.uint8(3)
    spikes = chain.spikes(frames)
    chain.export(tmp_path / "edge.net")
    graph = netx_file.load(tmp_path / "edge.net", input_message_bits=2)
    ours = reference.run(graph, frames).spikes
    assert 0.02 < ours["layer0"].mean() < 0.98
    assert 0.02 < ours["layer1"].mean() < 0.98
    assert np.count_nonzero(ours["layer1"] != spikes) == 0
    netx_file.save(graph, tmp_path / "again.net")
    assert difference(netx_file.load(tmp_path / "again.net"), graph) is None


def test_file_of_stock_input_with_neuron_in_the_simulator_gives_the_trained_spikes(tmp_path):
    """Stock NetX itself cannot be fed through such a block."""
    chain = input_with_neuron(0.25, weight=0.7)
    frames = binary((2, 9, 2, 5, 6)) * np.uint8(3)
    spikes = chain.spikes(frames)
    chain.export(tmp_path / "edge.net")
    results = simulate(tmp_path / "edge.net", frames, model="stock", input_message_bits=2)
    assert np.count_nonzero(np.stack([found.code_tchw for found in results]) != spikes) == 0


@pytest.mark.parametrize("name", ["trained", "synaptic-delays"])
def test_file_in_the_fast_leaf_gives_the_reference_spikes(cases, name):
    folder, found = cases
    case = found[name]
    expected = reference.run(case.graph, case.frames).spikes[case.graph.output_name]
    results = simulate(folder / f"{name}.net", case.frames, model="leaf")
    assert np.count_nonzero(np.stack([each.code_tchw for each in results]) != expected) == 0


def test_file_of_input_with_bias_before_a_filter_is_refused(tmp_path):
    chain = input_with_neuron(0.25, bias=0.3)
    chain.spikes(binary((1, 3, 2, 5, 6)))
    chain.export(tmp_path / "edge.net")
    with pytest.raises(NetxError, match="/layer/0/bias: a bias in front of a synaptic filter"):
        netx_file.load(tmp_path / "edge.net")


def test_file_of_graded_input_with_neuron_past_slayers_clamp_is_refused(tmp_path):
    chain = input_with_neuron(1)
    chain.spikes(binary((1, 3, 2, 5, 6)))
    chain.export(tmp_path / "edge.net")
    with pytest.raises(NetxError, match="at most 2 message bits, got 6"):
        netx_file.load(tmp_path / "edge.net", input_message_bits=6)


def unsupported(kind: str) -> torch.nn.Module:
    """A stock block that we do not run, made by lava-dl."""
    cuba = slayer.block.cuba
    adaptive = {"threshold_step": 0.1, "threshold_decay": 0.1, "refractory_decay": 0.1}
    match kind:
        case "pool":
            return cuba.Pool(NEURON, 2)
        case "convT":
            return cuba.ConvT(NEURON, 2, 3, 2)
        case "unpool":
            return cuba.Unpool(NEURON, 2)
        case "conv delay":
            return cuba.Conv(NEURON, 2, 3, 3, delay=True)
        case "graded":
            return cuba.Conv(NEURON | {"graded_spike": True}, 2, 3, 3)
        case "SDNN":
            neuron = {"threshold": 0.1, "activation": torch.nn.functional.relu}
            return slayer.block.sigma_delta.Conv(neuron, 2, 3, 3)
        case "ALIF":
            return slayer.block.alif.Conv(NEURON | adaptive, 2, 3, 3)
        case "dense_rec":
            return cuba.Recurrent(dict(NEURON), 8, 6)
        case "affine":
            return cuba.Affine(NEURON, 8, 6)
        case "decays":
            return cuba.Dense(NEURON | {"shared_param": False}, 8, 6)
        case "RF":
            neuron = {"threshold": 0.1, "period": 10, "decay": 0.03}
            return slayer.block.rf.Dense(neuron, 8, 6)
    raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "where", "message"),
    [
        ("pool", "/layer/1/type", "layer 1 is of kind 'pool'"),
        ("convT", "/layer/1/type", "layer 1 is of kind 'convT'"),
        ("unpool", "/layer/1/type", "layer 1 is of kind 'unpool'"),
        ("conv delay", "/layer/1/delay", "delays on a conv"),
        ("graded", "/layer/1/neuron/gradedSpike", "layer 1: only 0 is supported"),
        ("SDNN", "/layer/1/neuron/type", "layer 1: neurons of kind 'SDNN'"),
        ("ALIF", "/layer/1/neuron/type", "layer 1: neurons of kind 'ALIF'"),
        ("dense_rec", "/layer/1/type", "layer 1 is of kind 'dense_rec'"),
        ("affine", "/layer/1", "expected a threshold in"),
        ("decays", "/layer/1/neuron/vDecay", "one value for the whole layer"),
        ("RF", "/layer/1/weight", "expected a dataset"),
    ],
)
def test_file_of_stock_block_that_we_do_not_run_is_refused(tmp_path, kind, where, message):
    torch.manual_seed(7)
    chain = Chain([slayer.block.cuba.Input(delay_shift=False), unsupported(kind)])
    flat = kind in ("dense_rec", "affine", "decays", "RF")
    x = torch.rand(2, 8, 5) if flat else torch.rand(2, 2, 6, 6, 5)
    for made in chain.blocks:
        x = made(x)
    if kind == "conv delay":
        chain.blocks[1].delay.delay.data += 2
    chain.export(tmp_path / "edge.net")
    with pytest.raises(NetxError, match=message) as info:
        netx_file.load(tmp_path / "edge.net")
    assert f"edge.net: {where}" in str(info.value)


def test_file_of_dense_net_without_input_block_gives_the_trained_spikes(tmp_path):
    torch.manual_seed(9)
    cuba = slayer.block.cuba
    options = {"delay_shift": False, "weight_scale": 4}
    chain = Chain([cuba.Dense(NEURON, 8, 6, **options), cuba.Dense(NEURON, 6, 3, **options)]).eval()
    frames = binary((2, 9, 8, 1, 1))
    spikes = chain.spikes(frames)
    assert 0.02 < spikes.mean() < 0.98
    chain.export(tmp_path / "edge.net")
    graph = netx_file.load(tmp_path / "edge.net")
    assert graph.input.shape == (8, 1, 1)
    assert np.count_nonzero(reference.run(graph, frames).spikes["layer1"] != spikes) == 0
