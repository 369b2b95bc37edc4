"""Leaf and stock processes in Lava itself against the reference: every layer, spikes and state."""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from lava_edge import netx_file, reference
from lava_edge.runtime import SampleResult, run_netx, simulate, stream
from measure.counts import FIELDS, count
from splitcore.errors import DataError, GraphError, SimulationError, UsageError
from splitcore.graph import (
    STATE_LIMIT,
    Conv,
    ConvTranspose,
    Current,
    Dense,
    Graph,
    Identity,
    Input,
    Lif,
    Shape,
    Synapse,
)
from tests.heads import Head, heads


def assert_equal(graph: Graph, frames: np.ndarray, results: Iterator[SampleResult]) -> None:
    """All of "states": spikes, u and v of every layer in every step, and the counts."""
    trace = reference.run(graph, frames, states=True)
    exact = count(graph, frames, trace.spikes)
    seen = 0
    for index, result in enumerate(results):
        assert result.index == index
        for name in trace.spikes:
            np.testing.assert_array_equal(result.spikes[name], trace.spikes[name][index])
            np.testing.assert_array_equal(result.voltage[name], trace.voltage[name][index])
            np.testing.assert_array_equal(result.current[name], trace.current[name][index])
        np.testing.assert_array_equal(result.code_tchw, trace.spikes[graph.output_name][index])
        for name in FIELDS:
            assert (getattr(result.counts, name)[0] == getattr(exact, name)[index]).all(), name
        seen += 1
    assert seen == len(frames)


def _deep() -> Head:
    """A head with shortcuts of different depths and a synaptic filter."""
    return next(
        head
        for head in heads(30, first_seed=200, samples=5, depth=5, filters=True)
        if sum(head.graph.relays(layer, c) > 0 for layer, c in head.graph.currents()) >= 2
    )


@pytest.mark.parametrize("batch", [1, 2, 5])
def test_leaf_residual_head_equals_reference(batch: int) -> None:
    head = _deep()
    results = simulate(head.graph, head.frames_ntchw, batch=batch, record="states")
    assert_equal(head.graph, head.frames_ntchw, results)


@pytest.mark.parametrize("conv", ["lava", "blas"])
def test_stock_residual_head_equals_reference(conv: str) -> None:
    head = _deep()
    results = simulate(head.graph, head.frames_ntchw, model="stock", conv=conv, record="states")
    assert_equal(head.graph, head.frames_ntchw, results)


def _delayed() -> tuple[Graph, np.ndarray]:
    """Dense layers with delays that reach beyond a sample's end, one behind a relay."""
    rng = np.random.default_rng(1)
    first = Dense(2 * rng.integers(-20, 60, (6, 12)), rng.integers(0, 4, (6, 12)))
    second = Dense(2 * rng.integers(-60, 100, (5, 6)), rng.integers(0, 5, (5, 6)))
    layers = (
        Lif("a", (Current("input", first),), rng.integers(-5, 20, 6), 60, 500),
        Lif("b", (Current("a", second),), rng.integers(-5, 40, 5), 80, 500, 2048),
        Lif("c", (Current("b", Identity(90)), Current("a", second)), np.zeros(5, int), 80, 500),
    )
    frames = (rng.random((4, 4, 3, 2, 2)) < 0.4).astype(np.uint8)
    return Graph(Input((3, 2, 2)), layers), frames


@pytest.mark.parametrize("model", ["leaf", "stock"])
def test_delays_back_to_back_samples_do_not_leak(model: str) -> None:
    graph, frames = _delayed()
    assert all(s.any() for s in reference.run(graph, frames).spikes.values())
    assert_equal(graph, frames, simulate(graph, frames, model=model, record="states"))


@pytest.mark.parametrize("model", ["leaf", "stock"])
def test_inhibitory_dense_layer_keeps_its_lowest_weight(model: str) -> None:
    """Without a positive weight Lava's Dense would take −256 for −255."""
    dense = Dense(np.array([[-256, -2], [-4, -256]]))
    graph = Graph(Input((2, 1, 1)), (Lif("a", (Current("input", dense),), np.full(2, 300), 40, 0),))
    frames = (np.random.default_rng(0).random((2, 4, 2, 1, 1)) < 0.5).astype(np.uint8)
    assert (frames == 1).any()
    assert_equal(graph, frames, simulate(graph, frames, model=model, record="states"))


def _overflowing(kind: str) -> tuple[Graph, np.ndarray]:
    """Graded 16-bit input that drives sums, u and v far beyond the 24 bits where Lava turns."""
    rng = np.random.default_rng(2)

    def even(*shape: int) -> np.ndarray:
        return 2 * rng.integers(-30, 127, shape)

    delays = rng.integers(0, 3, (4, 36)) if kind == "delay" else None
    dense = Current("input", Dense(even(4, 36), delays))
    conv = Current("input", Conv(even(4, 4, 3, 3), padding=(1, 1)))
    currents = (conv, Current("input", Identity(96))) if kind == "conv" else (dense,)
    layer = Lif("a", currents, rng.integers(-4000, 4000, 4), 4000, 700, 900)
    frames = rng.integers(0, 1 << 16, (2, 6, 4, 3, 3)).astype(np.uint16)
    return Graph(Input((4, 3, 3), 16), (layer,)), frames


@pytest.mark.parametrize("model", ["leaf", "stock"])
@pytest.mark.parametrize("kind", ["conv", "dense", "delay"])
def test_what_leaves_24_bits_goes_on_as_in_lava(kind: str, model: str) -> None:
    graph, frames = _overflowing(kind)
    current = reference.run(graph, frames, states=True).current["a"]
    assert np.abs(current.astype(np.int64)).max() > 50 * STATE_LIMIT
    assert_equal(graph, frames, simulate(graph, frames, model=model, record="states"))


@pytest.mark.parametrize("model", ["leaf", "stock"])
def test_one_step_samples_equal_reference(model: str) -> None:
    (head,) = heads(1, first_seed=31, samples=4, depth=3)
    frames = np.ascontiguousarray(head.frames_ntchw[:, :1])
    assert_equal(head.graph, frames, simulate(head.graph, frames, model=model, record="states"))


def test_leaf_repeated_frame_is_sent_once_and_equal() -> None:
    (head,) = heads(1, first_seed=77, samples=4)
    frames = np.broadcast_to(head.frames_ntchw[:, :1], (4, 6, *head.graph.input.shape))
    assert_equal(head.graph, frames, simulate(head.graph, frames, batch=3, record="states"))


def test_leaf_file_and_generator_equal_reference(tmp_path: Path) -> None:
    (head,) = heads(1, first_seed=12, samples=5)
    path = tmp_path / "edge.net"
    netx_file.save(head.graph, path)
    samples = (sample for sample in head.frames_ntchw)
    assert_equal(head.graph, head.frames_ntchw, simulate(path, samples, batch=2, record="states"))


def test_stock_netx_chain_equals_reference() -> None:
    (head,) = heads(1, first_seed=60, samples=4, depth=3, residual=False, dense=False)
    expected = reference.run(head.graph, head.frames_ntchw).spikes[head.graph.output_name]
    codes = list(run_netx(head.graph, head.frames_ntchw))
    np.testing.assert_array_equal(np.stack(codes), expected)


def test_stream_steps_come_in_order_and_no_frame_is_taken_ahead() -> None:
    (head,) = heads(1, first_seed=9, samples=3)
    samples, steps = head.frames_ntchw.shape[:2]
    code = reference.run(head.graph, head.frames_ntchw).spikes[head.graph.output_name]
    taken = 0

    def camera() -> Iterator[np.ndarray]:
        nonlocal taken
        for sample in head.frames_ntchw:
            for frame in sample:
                taken += 1
                yield frame

    given = []
    for result in stream(head.graph, camera(), steps, ahead=2):
        given.append((result.sample, result.step))
        np.testing.assert_array_equal(result.code_chw, code[result.sample, result.step])
        assert taken <= len(given) + 2
        assert result.spiked_ns <= time.monotonic_ns()
    assert given == [(n, t) for n in range(samples) for t in range(steps)]


def test_stream_ending_inside_a_sample_gives_the_steps_there_were() -> None:
    (head,) = heads(1, first_seed=9, samples=1)
    steps = head.frames_ntchw.shape[1]
    frames = [*head.frames_ntchw[0], head.frames_ntchw[0, 0]]
    results = list(stream(head.graph, frames, steps))
    assert [(result.sample, result.step) for result in results][-1] == (1, 0)


def _through_ports(folder: Path, graph: Graph, frames_ntchw: np.ndarray) -> str:
    """Leave leaf.npy, batch.npy and stock.npy in the folder; or what the child said of its end."""
    netx_file.save(graph, folder / "edge.net")
    np.save(folder / "frames.npy", frames_ntchw)
    command = [sys.executable, "-m", "tests.lava_edge.port_network", str(folder)]
    pipe, out = subprocess.PIPE, subprocess.STDOUT
    child = subprocess.Popen(command, stdout=pipe, stderr=out, text=True, start_new_session=True)
    try:
        return child.communicate(timeout=120)[0]
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # a run that hangs leaves its actors behind


def test_ports_in_a_lava_graph_of_ones_own_equal_reference(tmp_path: Path) -> None:
    conv = Conv(2 * np.random.default_rng(3).integers(-50, 52, (3, 2, 3, 3)), padding=(1, 1))
    wide = Conv(2 * np.random.default_rng(4).integers(-50, 52, (3, 3, 3, 3)), padding=(1, 1))
    layers = (
        Lif("a", (Current("input", conv),), np.array([5, 0, -5]), 100, 1024),
        Lif("b", (Current("a", wide),), np.array([9, 0, 0]), 120, 1024),
        Lif("c", (Current("b", wide), Current("a", Identity(60))), np.zeros(3, int), 120, 512),
    )
    graph = Graph(Input((2, 4, 5)), layers)
    frames = (np.random.default_rng(0).random((4, 4, 2, 4, 5)) < 0.4).astype(np.uint8)
    _through_ports(tmp_path, graph, frames)
    expected = reference.run(graph, frames).spikes["c"]
    assert 0.05 < expected.mean() < 0.9
    for name in ("leaf", "batch", "stock"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected, err_msg=name)


def test_ports_any_value_but_0_is_a_spike_of_binary_input_as_in_stock(tmp_path: Path) -> None:
    """Straight into a convolution and a dense layer, and past a relay."""
    rng = np.random.default_rng(5)
    conv = Conv(2 * rng.integers(-60, 60, (2, 2, 3, 3)), padding=(1, 1))
    first, second, third = (Dense(2 * rng.integers(-60, 60, (4, 18))) for _ in range(3))
    layers = (
        Lif("a", (Current("input", conv),), np.zeros(2, int), 100, 1024),
        Lif("b", (Current("input", first),), np.zeros(4, int), 90, 1024),
        Lif(
            "c",
            (Current("a", second), Current("b", Identity(60)), Current("input", third)),
            np.zeros(4, int),
            120,
            1024,
        ),
    )
    graph = Graph(Input((2, 3, 3)), layers)
    frames = rng.choice([0, 0, 0, 1, 2, -1, 256, 1 << 16], (4, 4, 2, 3, 3))
    _through_ports(tmp_path, graph, frames)
    expected = reference.run(graph, frames != 0).spikes["c"]
    assert 0.05 < expected.mean() < 0.9
    for name in ("leaf", "batch", "stock"):
        np.testing.assert_array_equal(np.load(tmp_path / f"{name}.npy"), expected, err_msg=name)


def test_ports_graded_input_beyond_its_bits_ends_the_run_and_says_so(tmp_path: Path) -> None:
    """An exception before a step's output is sent would leave Lava's run() waiting for ever."""
    layer = Lif("a", (Current("input", Identity(2)),), np.zeros(1, int), 10, 1024)
    graph = Graph(Input((1, 2, 2), 8), (layer,))
    said = _through_ports(tmp_path, graph, np.full((2, 3, 1, 2, 2), 256))
    assert "expected input in [0, 255], got [256, 256]" in said


BLAS_CHECK = """
import numpy as np
from lava.proc.conv import utils
from lava_edge import blas_conv
rng = np.random.default_rng(0)
for case in range(60):
    groups = int(rng.choice([1, 1, 2, 3]))
    inputs, outputs = groups * int(rng.integers(1, 4)), groups * int(rng.integers(1, 4))
    kernel, stride, dilation = (tuple(rng.integers(1, 4, 2).tolist()) for _ in range(3))
    padding = tuple(rng.integers(0, 3, 2).tolist())
    shape = (*rng.integers(7, 12, 2).tolist(), inputs)
    weight = 2 * rng.integers(-128, 128, (outputs, *kernel, inputs // groups)).astype(np.int32)
    largest = int(rng.choice([2, 64, 1 << 16]))
    events = rng.integers(0, largest, shape)
    events = events.astype(bool) if largest == 2 else events.astype(np.int32)
    given = (events, weight, kernel, stride, padding, dilation, groups)
    ours, theirs = blas_conv.conv(*given), utils.conv(*given)
    assert ours.dtype == theirs.dtype and (ours == theirs).all(), (case, given[2:])
    assert ours.any()
print("equal")
"""


def test_stock_netx_of_no_samples_gives_none() -> None:
    (head,) = heads(1, first_seed=60, samples=1, depth=2, residual=False, dense=False)
    assert list(run_netx(head.graph, head.frames_ntchw[:0])) == []


def test_blas_conv_random_cases_equal_lavas_own() -> None:
    """Bool and graded input, strides, padding, dilation, groups, sums beyond float32."""
    done = subprocess.run([sys.executable, "-c", BLAS_CHECK], capture_output=True, timeout=120)
    assert done.stdout.decode().strip() == "equal", done.stderr.decode()


def test_simulate_no_samples_gives_no_results() -> None:
    (head,) = heads(1, first_seed=12, samples=1)
    assert list(simulate(head.graph, head.frames_ntchw[:0])) == []


@pytest.mark.parametrize(
    "options", [{"model": "loihi"}, {"conv": "fft"}, {"record": "all"}, {"batch": 0}]
)
def test_simulate_unknown_option_raises_at_once(options: dict[str, object]) -> None:
    (head,) = heads(1, first_seed=12, samples=1)
    with pytest.raises(UsageError, match=next(iter(options))):
        simulate(head.graph, head.frames_ntchw, **options)  # type: ignore[arg-type]


def _one_layer(synapse: Synapse, source: Shape) -> Graph:
    return _chain([synapse], source)


def _chain(synapses: Sequence[Synapse], source: Shape) -> Graph:
    """Layers a, b, … one behind another."""
    before, shape, layers = "input", source, []
    for name, synapse in zip("ab", synapses, strict=False):
        shape = synapse.output_shape(shape)
        layers.append(Lif(name, (Current(before, synapse),), np.zeros(shape[0], int), 9, 0))
        before = name
    return Graph(Input(source), tuple(layers))


WIDE = Conv(np.full((1, 1, 1, 200), 2), padding=(0, 100))
GROUPS = Conv(np.full((128, 1, 1, 1), 2), groups=128)
BEYOND_STOCK = [
    (WIDE, (1, 2, 4), "a kernel of at most 127 a side, got 1×200"),
    (Conv(np.full((1, 1, 1, 1), 2), stride=(1, 200)), (1, 2, 4), "a stride .* 127 .* got 1×200"),
    (Dense(np.array([[3, -2]])), (2, 1, 1), "rounds odd dense weights"),
]


@pytest.mark.parametrize(("synapse", "source", "message"), BEYOND_STOCK)
def test_simulate_what_stock_cannot_compute_is_refused_by_layer(
    synapse: Synapse, source: Shape, message: str
) -> None:
    graph = _one_layer(synapse, source)
    with pytest.raises(GraphError, match=f"^layer a: stock Lava .*{message}.*; simulate it in"):
        simulate(graph, np.ones((1, 2, *source), np.uint8), model="stock")


@pytest.mark.parametrize(
    ("synapses", "message"),
    [
        (
            [Conv(np.full((1, 128, 1, 200), 2), padding=(0, 100))],
            "layer a: stock NetX takes a kernel of at most 127 a side, got 1×200",
        ),
        ([GROUPS], "layer a: stock NetX takes at most 127 groups, got 128"),
        ([Identity(4)], "layer a: stock NetX takes at most 127 groups, got 128"),
        ([Dense(np.full((2, 1024), -4))], "layer a: stock NetX clips dense weights of which none"),
        (
            [Dense(np.full((2, 1024), 4)), Conv(np.full((1, 2, 1, 1), 4))],
            "layer b: stock NetX loses height and width behind a dense layer",
        ),
        ([ConvTranspose(np.full((128, 1, 3, 3), 4))], "layer a: stock NetX has no transposed"),
    ],
)
def test_stock_netx_of_a_chain_that_it_cannot_say_names_the_layer(
    synapses: list[Synapse], message: str
) -> None:
    graph = _chain(synapses, (128, 2, 4))
    with pytest.raises(GraphError, match=f"^{message}.*; `simulate` runs it$"):
        run_netx(graph, np.ones((1, 2, *graph.input.shape), np.uint8))


def test_stock_netx_of_a_chain_in_a_file_that_it_cannot_read_says_so(tmp_path: Path) -> None:
    path = tmp_path / "edge.net"
    netx_file.save(_one_layer(Dense(np.full((2, 3), -4)), (3, 1, 1)), path)
    with h5py.File(path, "r+") as file:
        weight = file["network/layer/0/current/0/weight"]
        assert isinstance(weight, h5py.Dataset)
        weight[...] = 4
    results = run_netx(path, np.ones((1, 2, 3, 1, 1), np.uint8))
    with pytest.raises(SimulationError, match="has no /layer for stock NetX to read") as got:
        next(results)
    assert "\n" not in str(got.value)


def test_stock_netx_of_a_file_whose_input_has_neurons_says_so_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "edge.net"
    netx_file.save(_one_layer(Dense(np.full((2, 3), 4)), (3, 1, 1)), path)
    with h5py.File(path, "r+") as file:
        file.copy("layer/1/neuron", "layer/0/neuron")
        del file["layer/0"].attrs["name"]
    results = run_netx(path, np.ones((1, 2, 3, 1, 1), np.uint8))
    with pytest.raises(SimulationError, match="takes no frames where the input has neurons") as got:
        next(results)
    assert "\n" not in str(got.value)


@pytest.mark.parametrize("shape", [(), (2, 1, 2, 4)])
def test_stock_netx_of_frames_that_are_no_samples_names_the_shape(shape: tuple[int, ...]) -> None:
    with pytest.raises(DataError, match=r"frames: expected \(N, T, 1, 2, 4\), got"):
        run_netx(_one_layer(Conv(np.full((1, 1, 1, 1), 2)), (1, 2, 4)), np.ones(shape, np.uint8))


def test_simulate_values_above_the_message_bits_raises() -> None:
    graph, frames = _delayed()
    with pytest.raises(DataError, match=r"\[0, 1\]"):
        simulate(graph, frames * 3)


@pytest.mark.deep
@pytest.mark.parametrize("model", ["leaf", "stock"])
@pytest.mark.timeout(3600)
def test_random_heads_equal_reference(model: str) -> None:
    for head in heads(100, first_seed=5000, samples=3, filters=True):
        results = simulate(head.graph, head.frames_ntchw, model=model, record="states")
        assert_equal(head.graph, head.frames_ntchw, results)
