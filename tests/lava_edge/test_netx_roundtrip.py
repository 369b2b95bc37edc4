from pathlib import Path

import h5py
import numpy as np
import pytest

from lava_edge import netx_file
from splitcore.difference import difference
from splitcore.errors import GraphError, NetxError
from splitcore.graph import (
    Conv,
    ConvTranspose,
    Current,
    Dense,
    Graph,
    Identity,
    Input,
    Lif,
)
from tests.heads import heads


def lif(name, *currents, channels, bias=0, **options):
    values = {"threshold": 100, "voltage_decay": 1024} | options
    return Lif(name, tuple(currents), np.full(channels, bias), **values)


def residual() -> Graph:
    """Input → a → b, b and an identity of a meet in c, a dense layer reads c."""
    rng = np.random.default_rng(0)
    conv = Conv(2 * rng.integers(-100, 100, (3, 2, 3, 3)), padding=(1, 1))
    inner = Conv(2 * rng.integers(-100, 100, (3, 3, 3, 3)), padding=(1, 1))
    return Graph(
        Input((2, 4, 5), 6, "pixels"),
        (
            lif("a", Current("pixels", conv), channels=3, bias=-7),
            lif("b", Current("a", inner), channels=3),
            lif("c", Current("b", inner), Current("a", Identity(64)), channels=3),
            lif("d", Current("c", Dense(2 * rng.integers(-9, 9, (4, 60)))), channels=4),
        ),
    )


def saved(graph: Graph, tmp_path: Path) -> Path:
    path = tmp_path / "edge.net"
    netx_file.save(graph, path)
    return path


def chain(*synapses, shape=(2, 4, 5), **options) -> Graph:
    layers, source, now = [], "input", shape
    for index, synapse in enumerate(synapses):
        now = synapse.output_shape(now)
        layers.append(lif(f"l{index}", Current(source, synapse), channels=now[0], **options))
        source = f"l{index}"
    return Graph(Input(shape), tuple(layers))


@pytest.mark.parametrize("first_seed", [0, 5000])
def test_file_of_random_heads_round_trips(tmp_path, first_seed):
    for head in heads(20, first_seed, filters=True):
        loaded = netx_file.load(saved(head.graph, tmp_path))
        assert difference(head.graph, loaded) is None


def test_file_of_residual_graph_round_trips(tmp_path):
    graph = residual()
    assert difference(graph, netx_file.load(saved(graph, tmp_path))) is None


def test_file_of_chain_with_identity_round_trips_as_identity(tmp_path):
    graph = chain(Identity(34), Conv(np.full((1, 2, 1, 1), 4)))
    path = saved(graph, tmp_path)
    assert difference(graph, netx_file.load(path)) is None
    with h5py.File(path) as file:
        assert file["layer/1/weight"].shape == (2, 1, 1, 1)


def test_file_of_conv_after_dense_round_trips_as_extension(tmp_path):
    graph = chain(Dense(np.full((3, 40), 2)), Conv(np.full((2, 3, 1, 1), 4)))
    path = saved(graph, tmp_path)
    assert difference(graph, netx_file.load(path)) is None
    with h5py.File(path) as file:
        assert "layer" not in file


def test_file_of_dense_delays_round_trips(tmp_path):
    rng = np.random.default_rng(1)
    for delay in (rng.integers(0, 63, (4, 40)), np.arange(4)[:, None] * np.ones((1, 40), int)):
        graph = chain(Dense(np.full((4, 40), 2), delay))
        assert difference(graph, netx_file.load(saved(graph, tmp_path))) is None


def test_file_of_square_dense_delays_of_inputs_round_trips(tmp_path):
    delay = np.broadcast_to(np.arange(4), (4, 4))  # one an input, as many as outputs
    graph = chain(Dense(np.full((4, 4), 2), delay), shape=(4, 1, 1))
    assert difference(graph, netx_file.load(saved(graph, tmp_path))) is None


def test_file_of_odd_weights_and_largest_bias_round_trips(tmp_path):
    graph = chain(Conv(np.array([-256, 253, 1, 0]).reshape(2, 2, 1, 1)), bias=-4096, threshold=4095)
    assert difference(graph, netx_file.load(saved(graph, tmp_path))) is None


def test_file_without_bias_has_no_bias_dataset(tmp_path):
    with h5py.File(saved(chain(Identity(2)), tmp_path)) as file:
        assert "bias" not in file["layer/1"]


@pytest.mark.parametrize("name", ["x" * 257, "two\nlines"])
def test_save_of_a_name_that_cannot_be_read_again_raises(tmp_path, name):
    layer = Lif(name, (Current("input", Identity(64)),), np.zeros(1, int), 10, 1024)
    with pytest.raises(GraphError, match="expected a printable name"):
        netx_file.save(Graph(Input((1, 1, 1)), (layer,)), tmp_path / "edge.net")
    assert list(tmp_path.iterdir()) == []


def test_save_where_no_file_can_be_raises(tmp_path):
    layer = Lif("a", (Current("input", Identity(64)),), np.zeros(1, int), 10, 1024)
    with pytest.raises(NetxError, match=r"none/edge\.net: cannot be written"):
        netx_file.save(Graph(Input((1, 1, 1)), (layer,)), tmp_path / "none" / "edge.net")


def test_save_twice_gives_the_same_bytes(tmp_path):
    first = saved(residual(), tmp_path).read_bytes()
    assert saved(residual(), tmp_path).read_bytes() == first


def test_save_over_an_open_file_leaves_the_reader_alone(tmp_path):
    path = saved(chain(Identity(2)), tmp_path)
    with h5py.File(path) as reader:
        saved(chain(Identity(4)), tmp_path)
        assert reader["layer/1/weight"][0, 0, 0, 0] == 2
    assert netx_file.load(path).layers[0].currents[0].synapse.weight == 4


def test_save_of_transposed_conv_raises_and_leaves_nothing(tmp_path):
    graph = chain(ConvTranspose(np.full((2, 1, 2, 2), 2)))
    with pytest.raises(GraphError, match="no ConvTranspose"):
        saved(graph, tmp_path)
    assert not list(tmp_path.iterdir())


def test_load_of_known_message_bits_refuses_others(tmp_path):
    path = saved(residual(), tmp_path)
    assert netx_file.load(path, input_message_bits=6).input.message_bits == 6
    with pytest.raises(NetxError, match="6 message bits, not 8"):
        netx_file.load(path, input_message_bits=8)


@pytest.mark.parametrize(
    "graph",
    [
        chain(Identity(34), shape=(128, 1, 1)),
        chain(Conv(np.full((128, 1, 1, 1), 2), groups=128), shape=(128, 2, 2)),
        chain(Conv(np.full((1, 2, 1, 1), 2), stride=(128, 1)), shape=(2, 200, 1)),
        chain(Dense(np.array([[-256, 0], [-2, -4]])), shape=(2, 1, 1), bias=90),
    ],
)
def test_file_of_chain_that_stock_computes_wrongly_is_kept_from_stock(tmp_path, graph):
    path = saved(graph, tmp_path)
    assert difference(graph, netx_file.load(path)) is None
    with h5py.File(path) as file:
        assert "layer" not in file


def test_file_of_127_groups_is_a_stock_chain(tmp_path):
    graph = chain(Conv(np.full((127, 1, 1, 1), 2), groups=127), shape=(127, 2, 2))
    with h5py.File(saved(graph, tmp_path)) as file:
        assert "layer" in file
