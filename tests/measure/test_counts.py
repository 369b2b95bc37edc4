import numpy as np
import pytest

from lava_edge import reference
from measure.counts import FIELDS, Counts, concatenate, count, fan_out
from splitcore.errors import DataError
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


def _ones(*shape: int) -> np.ndarray:
    return np.ones(shape, dtype=np.int32)


SYNAPSES = {
    "conv": (Conv(_ones(3, 2, 3, 3)), (2, 5, 6)),
    "padded": (Conv(_ones(3, 2, 3, 3), padding=(1, 1)), (2, 5, 6)),
    "wide padding": (Conv(_ones(2, 1, 3, 2), padding=(3, 2)), (1, 4, 3)),
    "strided": (Conv(_ones(2, 2, 3, 3), stride=(2, 3), padding=(1, 0)), (2, 7, 6)),
    "stride skips": (Conv(_ones(2, 2, 1, 1), stride=(2, 2)), (2, 5, 5)),
    "dilated": (Conv(_ones(2, 2, 3, 2), dilation=(2, 3), padding=(1, 2)), (2, 7, 6)),
    "grouped": (Conv(_ones(6, 2, 3, 3), groups=2, padding=(1, 1)), (4, 4, 5)),
    "depthwise": (Conv(_ones(4, 1, 5, 3), groups=4, padding=(2, 1)), (4, 4, 5)),
    "transposed": (
        ConvTranspose(_ones(2, 3, 3, 2), stride=(2, 3), padding=(1, 1), output_padding=(1, 0)),
        (2, 4, 3),
    ),
    "dense": (Dense(_ones(5, 24)), (2, 3, 4)),
    "identity": (Identity(8), (2, 3, 4)),
}


@pytest.mark.parametrize("kind", SYNAPSES)
def test_fan_out_every_synapse_equals_its_dense_weight_tensor(kind: str) -> None:
    """With all weights one, a lone spike's currents say how many synapses it passed."""
    synapse, shape = SYNAPSES[kind]
    if isinstance(synapse, Identity):
        synapse = Identity(1)
    neurons = int(np.prod(shape))
    lone = np.eye(neurons, dtype=np.uint8).reshape(neurons, 1, *shape)
    dense_io = reference.synaptic_sum(synapse, lone, shape, 1).reshape(neurons, -1)
    assert set(np.unique(dense_io)) <= {0, 1}
    exact = np.broadcast_to(fan_out(synapse, shape), shape)
    np.testing.assert_array_equal(dense_io.sum(axis=1).reshape(shape), exact)


def test_fan_out_zero_weights_are_synapses() -> None:
    zeros = Conv(np.zeros((3, 1, 3, 3), dtype=np.int32), padding=(1, 1))
    assert fan_out(zeros, (1, 3, 3))[0].tolist() == [[12, 18, 12], [18, 27, 18], [12, 18, 12]]


def _residual(bits: int) -> Graph:
    conv = Conv(_ones(1, 1, 3, 3) * 2, padding=(1, 1))
    layers = (
        Lif("a", (Current("input", conv),), np.zeros(1, int), 1, 0),
        Lif("b", (Current("a", conv),), np.zeros(1, int), 1, 0),
        Lif("c", (Current("b", conv), Current("input", Identity(2))), np.zeros(1, int), 1, 0),
    )
    return Graph(Input((1, 3, 3), bits), layers)


def test_count_hand_worked_residual_books_each_kind() -> None:
    """One event in a corner in the first of two steps; every layer fires where it was reached."""
    graph = _residual(bits=4)
    frames = np.zeros((1, 2, 1, 3, 3), dtype=np.uint8)
    frames[0, 0, 0, 0, 0] = 7
    spikes = {name: np.zeros((1, 2, 1, 3, 3), np.uint8) for name in "abc"}
    spikes["a"][0, 0, 0, :2, :2] = 1  # fan-out 4 + 6 + 6 + 9
    spikes["b"][0, 0, 0, 1, 1] = 1  # the middle: 9
    counts = count(graph, frames, spikes)
    assert counts.spikes.tolist() == [[4, 1, 0]]
    assert counts.macs.tolist() == [[4, 0, 1]]  # corner of a 3×3 conv; the shortcut is graded too
    assert counts.synops.tolist() == [[0, 25, 9]]
    assert counts.neuron_updates.tolist() == [[18, 18, 18]]
    assert counts.relay_events.tolist() == [[0, 0, 2]]  # the shortcut waits for two convs


def test_count_binary_input_is_synops() -> None:
    frames = np.zeros((1, 1, 1, 3, 3), dtype=np.uint8)
    frames[..., 1, 1] = 1
    silent = {name: np.zeros_like(frames) for name in "abc"}
    counts = count(_residual(bits=0), frames, silent)
    assert counts.macs.sum() == 0
    assert counts.synops.tolist() == [[9, 0, 1]]


def test_count_random_heads_equals_brute_force() -> None:
    for head in heads(6, first_seed=400, samples=2):
        graph, frames = head.graph, head.frames_ntchw
        spikes = reference.run(graph, frames).spikes
        counts = count(graph, frames, spikes)
        events = {**spikes, graph.input.name: (frames > 0).astype(np.uint8)}
        for index, layer in enumerate(graph.layers):
            expected = np.zeros(len(frames), dtype=np.int64)
            for current in layer.currents:
                shape = graph.shapes[current.source]
                structure = _structural(current.synapse)
                passed = reference.synaptic_sum(structure, events[current.source], shape, 1)
                expected += passed.sum(axis=(1, 2, 3, 4))
            np.testing.assert_array_equal(counts.synops[:, index] + counts.macs[:, index], expected)
            assert (counts.spikes[:, index] == spikes[layer.name].sum(axis=(1, 2, 3, 4))).all()


def _structural(synapse: object) -> Conv | Dense | Identity:
    match synapse:
        case Conv(weight_oihw=weight, stride=s, padding=p, dilation=d, groups=g):
            return Conv(np.ones_like(weight), s, p, d, g)
        case Dense(weight_oi=weight):
            return Dense(np.ones_like(weight))
    return Identity(1)


def test_count_wrong_spike_shape_raises_naming_the_layer() -> None:
    frames = np.zeros((1, 2, 1, 3, 3), dtype=np.uint8)
    spikes = {name: np.zeros((1, 2, 1, 3, 3), np.uint8) for name in "ab"}
    with pytest.raises(DataError, match="layer c"):
        count(_residual(0), frames, spikes)


def test_counts_wrong_shape_raises() -> None:
    with pytest.raises(DataError, match="synops"):
        Counts(("a",), _ones(2, 1), _ones(1, 1), *(_ones(2, 1) for _ in range(3)))


def test_concatenate_joins_samples_and_totals_add() -> None:
    one = Counts(("a", "b"), *(np.full((2, 2), k) for k in range(len(FIELDS))))
    both = concatenate([one, one])
    assert len(both) == 4
    assert both.total()["relay_events"] == 2 * one.total()["relay_events"] == 32


def test_counts_followed_by_others_are_of_both_graphs_layers() -> None:
    first = Counts(("a", "b"), *(np.arange(6).reshape(3, 2) + k for k in range(len(FIELDS))))
    both = first.take(np.array([2, 0])).followed_by(Counts(("c",), *(_ones(2, 1) for _ in FIELDS)))
    assert both.layers == ("a", "b", "c")
    assert both.spikes.tolist() == [[4, 5, 1], [0, 1, 1]]
    assert both.relay_events.tolist() == [[8, 9, 1], [4, 5, 1]]


def test_concatenate_other_layers_raises() -> None:
    one, other = (Counts((name,), *(_ones(1, 1) for _ in FIELDS)) for name in "ab")
    with pytest.raises(DataError, match="same layers"):
        concatenate([one, other])
