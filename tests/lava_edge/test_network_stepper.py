import numpy as np
import pytest

from lava_edge import compiled_stepper, kernels, layout, reference, stepper
from measure.counts import FIELDS, count
from splitcore.graph import Conv, Current, Dense, Graph, Identity, Input, Lif
from tests.heads import heads


def assert_equals_reference(
    engine: stepper.Stepper, graph: Graph, frames: np.ndarray, *, states: bool, repeated: bool
) -> None:
    """Every layer's spikes (and state) in every step, and the counts, against the reference."""
    trace = reference.run(graph, frames, states=True)
    engine.reset(len(frames))
    for step in range(frames.shape[1]):
        engine.step(frames[:, step], repeated=repeated and step > 0)
        for name in trace.spikes:
            np.testing.assert_array_equal(engine.spikes(name), trace.spikes[name][:, step])
            if states:
                np.testing.assert_array_equal(engine.current(name), trace.current[name][:, step])
                np.testing.assert_array_equal(engine.voltage(name), trace.voltage[name][:, step])
    exact, counted = count(graph, frames, trace.spikes), engine.counts()
    for name in FIELDS:
        np.testing.assert_array_equal(getattr(counted, name), getattr(exact, name), err_msg=name)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("states", [False, True])
def test_compiled_stepper_random_heads_equal_reference(threads: int, states: bool) -> None:
    for head in heads(8, first_seed=900 + 50 * threads, samples=5, filters=True):
        engine = compiled_stepper.CompiledStepper(head.graph, 6, states=states, threads=threads)
        for frames in (head.frames_ntchw, head.frames_ntchw[:1]):
            assert_equals_reference(engine, head.graph, frames, states=states, repeated=False)
        still = np.broadcast_to(head.frames_ntchw[:, :1], head.frames_ntchw.shape)
        assert_equals_reference(engine, head.graph, still, states=states, repeated=True)


def test_numpy_stepper_random_heads_equal_reference() -> None:
    for head in heads(6, first_seed=50, samples=3, filters=True):
        engine = stepper.NumpyStepper(head.graph)
        assert_equals_reference(engine, head.graph, head.frames_ntchw, states=True, repeated=False)


def _one_layer(synapse: object, source: Input, **others: int) -> Graph:
    current = Current(source.name, synapse)  # type: ignore[arg-type]
    channels = synapse.output_shape(source.shape)[0]  # type: ignore[attr-defined]
    fields = {"threshold": 40, "voltage_decay": 1024, **others}
    return Graph(source, (Lif("a", (current,), np.zeros(channels, int), **fields),))


@pytest.mark.parametrize("channels", [16, 20, 32, 48, 64, 100, 130])
def test_compiled_stepper_any_width_equals_reference(channels: int) -> None:
    """Channel counts that fill one, two and four vectors, and some that fill none."""
    rng = np.random.default_rng(channels)
    source = Input((channels, 4, 5))
    first = Conv(2 * rng.integers(-22, 24, (channels, channels, 3, 3)), padding=(1, 1))
    depthwise = Conv(
        2 * rng.integers(-60, 80, (channels, 1, 3, 3)), groups=channels, dilation=(1, 2)
    )
    layers = (
        Lif("a", (Current("input", first),), np.zeros(channels, int), 150, 1024),
        Lif("b", (Current("a", depthwise),), np.zeros(channels, int), 60, 1024),
        Lif("c", (Current("b", Identity(60)),), np.full(channels, 3), 50, 512),
    )
    graph = Graph(source, layers)
    frames = (rng.random((3, 4, *source.shape)) < 0.3).astype(np.uint8)
    rates = [spikes.mean() for spikes in reference.run(graph, frames).spikes.values()]
    assert all(0.02 < rate < 0.9 for rate in rates), rates
    engine = compiled_stepper.CompiledStepper(graph, 3)
    assert_equals_reference(engine, graph, frames, states=False, repeated=False)


def test_compiled_stepper_silent_input_counts_no_synops_but_updates() -> None:
    graph = _one_layer(Conv(np.full((2, 1, 3, 3), 2)), Input((1, 5, 5)))
    engine = compiled_stepper.CompiledStepper(graph, 1)
    engine.reset(1)
    for _ in range(3):
        engine.step(np.zeros((1, 1, 5, 5), np.uint8))
    counts = engine.counts()
    assert counts.synops.sum() == counts.spikes.sum() == 0
    assert counts.neuron_updates.tolist() == [[3 * 2 * 9]]


def test_compiled_stepper_spike_then_rest_clears_its_spikes() -> None:
    """A layer that spikes and then rests at zero is skipped: its old spikes must not linger."""
    graph = _one_layer(Identity(100), Input((1, 2, 2)), voltage_decay=4096)
    frames = np.zeros((1, 3, 1, 2, 2), np.uint8)
    frames[0, 0] = 1
    engine = compiled_stepper.CompiledStepper(graph, 1)
    assert_equals_reference(engine, graph, frames, states=False, repeated=False)


def test_build_sums_beyond_24_bits_wraps_like_reference() -> None:
    """A graded input that leaves 24 bits: Lava wraps, so the engine that can wrap is chosen."""
    rng = np.random.default_rng(0)
    source = Input((8, 6, 6), 16)
    graph = _one_layer(Conv(2 * rng.integers(80, 127, (2, 8, 3, 3))), source)
    frames = rng.integers(40000, 1 << 16, (2, 3, *source.shape)).astype(np.uint16)
    engine = stepper.build(graph, 2)
    assert isinstance(engine, stepper.NumpyStepper)
    assert_equals_reference(engine, graph, frames, states=True, repeated=False)


def test_build_delays_run_on_numpy_and_equal_reference() -> None:
    rng = np.random.default_rng(0)
    delays = rng.integers(0, 4, (5, 12))
    graph = _one_layer(Dense(2 * rng.integers(-20, 60, (5, 12)), delays), Input((3, 2, 2)))
    frames = (rng.random((3, 6, 3, 2, 2)) < 0.4).astype(np.uint8)
    engine = stepper.build(graph, 3)
    assert isinstance(engine, stepper.NumpyStepper)
    assert_equals_reference(engine, graph, frames, states=True, repeated=False)


def test_build_without_numba_falls_back_and_is_exact(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepper, "compiled_stepper", None)
    (head,) = heads(1, first_seed=5, samples=2)
    engine = stepper.build(head.graph, 2)
    assert isinstance(engine, stepper.NumpyStepper)
    assert_equals_reference(engine, head.graph, head.frames_ntchw, states=True, repeated=False)


COMPILED = ("list_values", "gather", "gather_graded", "depthwise", "add", "lif", "pack")


def test_warm_up_compiles_all_that_is_used_later() -> None:
    """Layers of unlike sizes and of one, graded input and spikes: no kernel meets a new type."""
    stepper.warm_up()
    before = {name: len(getattr(kernels, name).signatures) for name in COMPILED}
    assert min(before.values()) > 0
    for head in heads(6, first_seed=400, samples=3, filters=True):
        engine = compiled_stepper.CompiledStepper(head.graph, 3)
        assert_equals_reference(engine, head.graph, head.frames_ntchw, states=False, repeated=False)
    assert {name: len(getattr(kernels, name).signatures) for name in COMPILED} == before


def test_bytes_a_sample_are_those_that_the_engine_takes() -> None:
    for head in heads(6, first_seed=70, samples=1, filters=True):
        engine = compiled_stepper.CompiledStepper(head.graph, 64)
        held = [
            *(array for part in engine._layers for array in vars(part).values()),
            *(array for array in vars(engine._input).values()),
            *(drive for drive, _ in engine._kept.values()),
        ]
        taken = sum(array.nbytes for array in held if isinstance(array, np.ndarray)) / 64
        assert 0.6 * taken < layout.bytes_a_sample(head.graph) < 1.6 * taken


def test_wide_depthwise_layer_needs_no_memory_for_what_it_does_not_connect() -> None:
    """6,000 channels one by one: 36 million weights, were they written out."""
    rng = np.random.default_rng(0)
    channels = 6000
    none = np.zeros(channels, int)
    one_by_one = Conv(2 * rng.integers(-60, 80, (channels, 1, 1, 1)), groups=channels)
    first = Lif("a", (Current("input", one_by_one),), none, 40, 1024)
    second = Lif("b", (Current("a", one_by_one), Current("a", Identity(50))), none, 40, 1024)
    source = Input((channels, 1, 1))
    assert compiled_stepper.unfit(Graph(source, (first,))) is None
    wide = Input((1 << 15, 1, 1))
    assert "too much memory" in (compiled_stepper.unfit(_one_layer(Identity(2), wide)) or "")
    graph = Graph(source, (first, second))
    engine = compiled_stepper.CompiledStepper(graph, 2)
    sums = [each for row in engine._sums[1:] for each in row]
    assert len(sums) == 2
    assert max(each.weight.nbytes for each in sums) < 1 << 20
    frames = (rng.random((2, 3, *source.shape)) < 0.4).astype(np.uint8)
    assert_equals_reference(engine, graph, frames, states=False, repeated=False)
