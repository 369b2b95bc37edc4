"""The PyTorch tail against the numpy reference, integer for integer."""

import numpy as np
import pytest

from cloud_server.tail import TailEngine
from lava_edge import reference
from splitcore.errors import DataError, OverflowBoundError
from splitcore.graph import Conv, Current, Graph, Input, Lif
from splitcore.tail import Tail
from tests.tiny_bundle import STEPS, expected_scores, random_code, random_tail


@pytest.mark.parametrize("seed", range(8))
def test_spikes_of_random_tail_equal_the_reference(seed):
    tail = random_tail(seed)
    code = random_code(20, seed, rate=0.1 + 0.08 * seed)
    expected = reference.run(tail.graph, code).spikes
    for name, spikes in expected.items():
        assert 0 < spikes.mean() < 1, name  # a silent or saturated layer would prove nothing
    found = TailEngine(tail, STEPS).spikes(code)
    assert (found == expected[tail.graph.output_name]).all()


@pytest.mark.parametrize("current_decay", [1, 777, 4095, 4096])
@pytest.mark.parametrize("voltage_decay", [1, 128, 999, 4096])
def test_states_with_any_decay_truncate_as_the_reference_does(current_decay, voltage_decay):
    rng = np.random.default_rng(current_decay + voltage_decay)
    weight = rng.integers(-20, 21, (4, 3, 3, 3)).astype(np.int32) * 2
    conv = Conv(weight, padding=(1, 1), dilation=(1, 1))
    bias = rng.integers(-30, 31, 4).astype(np.int32)
    layer = Lif("out", (Current("code", conv),), bias, 120, voltage_decay, current_decay)
    graph = Graph(Input((3, 6, 5), name="code"), (layer,))
    tail = Tail(graph, np.ones((2, 4), np.float32), np.zeros(2, np.float32))
    code = (rng.random((6, 20, 3, 6, 5)) < 0.3).astype(np.uint8)
    expected = reference.run(graph, code).spikes["out"]
    assert 0 < expected.mean() < 1
    assert (TailEngine(tail, 20).spikes(code) == expected).all()


def test_scores_equal_the_reference_whatever_the_batch():
    tail, code = random_tail(), random_code(40)
    engine = TailEngine(tail, STEPS)
    expected = expected_scores(tail, code)
    assert (engine(code) == expected).all()
    for size in (1, 3, 17):
        parts = [engine(code[start : start + size]) for start in range(0, 40, size)]
        assert (np.concatenate(parts) == expected).all()


def test_scores_in_chunks_equal_scores_at_once(monkeypatch):
    tail, code = random_tail(), random_code(10)
    whole = TailEngine(tail, STEPS)(code)
    monkeypatch.setattr("cloud_server.tail.CHUNK_BYTES", 1)
    assert (TailEngine(tail, STEPS)(code) == whole).all()


def test_no_samples_give_no_scores():
    assert TailEngine(random_tail(), STEPS)(random_code(0)).shape == (0, 5)


def test_read_only_code_is_taken():
    code = random_code(2)
    code.setflags(write=False)
    assert TailEngine(random_tail(), STEPS)(code).shape == (2, 5)


@pytest.mark.parametrize(
    "code",
    [
        np.zeros((2, STEPS, 3, 4, 5), np.uint8),
        np.zeros((2, STEPS + 1, 3, 4, 4), np.uint8),
        np.zeros((2, 3, 4, 4), np.uint8),
        np.full((1, STEPS, 3, 4, 4), 2, np.uint8),
    ],
)
def test_code_that_does_not_fit_raises_data_error(code):
    with pytest.raises(DataError):
        TailEngine(random_tail(), STEPS)(code)


def test_tail_whose_state_could_overflow_is_refused():
    weight = np.full((1, 3, 1, 1), 254, np.int32)
    layer = Lif("out", (Current("code", Conv(weight)),), np.array([4000]), 4000, 0, 0)
    tail = Tail(Graph(Input((3, 2, 2), name="code"), (layer,)), np.ones((2, 1)), np.zeros(2))
    with pytest.raises(OverflowBoundError):
        TailEngine(tail, 1024)
