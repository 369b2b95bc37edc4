"""NeuroBench as a second counter: effective ACs and MACs of a folded copy on the same images.

Where its definitions differ from ours:
- it leaves out weights that are zero, ours counts every synapse that the chip stores and reads;
- it takes any input of 0 and 1 alone for spikes, ours asks the graph whether the input is graded.
"""

import warnings

import numpy as np
import pytest
from sklearn.datasets import load_digits

from lava_edge import reference
from measure.counts import count
from splitcore import spikes
from splitcore.graph import Conv, Current, Dense, Graph, Identity, Input, Lif

torch = pytest.importorskip("torch")
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    neurobench = pytest.importorskip(
        "neurobench", reason="install the extra 'bench' for the NeuroBench cross-check"
    )
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel

from tests.measure.folded import Folded  # noqa: E402

STEPS, SAMPLES = 4, 16


def weights(rng, *shape):
    return (rng.choice([-1, 1], shape, p=[0.35, 0.65]) * rng.integers(1, 60, shape) * 2).astype(
        np.int32
    )


def lif(name, channels, threshold, *currents):
    return Lif(name, currents, np.zeros(channels, np.int32), threshold, 1024)


def chain(rng):
    return (
        lif("a", 6, 2500, Current("input", Conv(weights(rng, 6, 1, 3, 3), padding=(1, 1)))),
        lif("b", 8, 150, Current("a", Conv(weights(rng, 8, 6, 3, 3), (2, 2), (1, 1)))),
        lif("c", 10, 150, Current("b", Dense(weights(rng, 10, 8 * 4 * 4)))),
    )


def residual(rng):
    return (
        lif("a", 6, 2500, Current("input", Conv(weights(rng, 6, 1, 3, 3), padding=(1, 1)))),
        lif("b", 6, 150, Current("a", Conv(weights(rng, 6, 6, 3, 3), padding=(1, 1)))),
        lif(
            "c",
            6,
            150,
            Current("b", Conv(weights(rng, 6, 6, 3, 3), padding=(1, 1))),
            Current("a", Identity(64)),
        ),
        lif(
            "d",
            8,
            150,
            Current("c", Conv(weights(rng, 8, 6, 3, 3), (2, 2), (1, 1))),
            Current("a", Conv(weights(rng, 8, 6, 1, 1), (2, 2))),
        ),
    )


def depthwise(rng):
    return (
        lif("a", 6, 2500, Current("input", Conv(weights(rng, 6, 1, 3, 3), padding=(1, 1)))),
        lif("b", 6, 60, Current("a", Conv(weights(rng, 6, 1, 3, 3), (2, 2), (1, 1), groups=6))),
        lif("c", 4, 60, Current("b", Conv(weights(rng, 4, 6, 1, 1)))),
    )


def digits_frames():
    images = np.round(load_digits().images[:SAMPLES] * 255 / 16).astype(np.uint8)
    return spikes.direct_code(images[:, None], 6, STEPS)


def neurobench_counts(graph, frames):
    """Effective ACs and MACs a sample, as NeuroBench 2.3.0 counts them."""
    model = TorchModel(Folded(graph))
    model.register_hooks()
    metric = SynapticOperations()
    with torch.no_grad():
        batch = torch.from_numpy(np.ascontiguousarray(frames)).double()
        outputs = model(batch)
        metric(model, outputs, (batch, None))
    model.cleanup_hooks()
    return outputs, metric.compute()


@pytest.mark.parametrize("build", [chain, residual, depthwise])
def test_neurobench_on_folded_head_counts_exactly_our_operations(build):
    graph = Graph(Input((1, 8, 8), message_bits=6), build(np.random.default_rng(11)))
    frames = digits_frames()
    trace = reference.run(graph, frames)
    ours = count(graph, frames, trace.spikes)
    outputs, theirs = neurobench_counts(graph, frames)
    for name, ran in trace.spikes.items():
        assert ran.any(), name
        assert (outputs[name].numpy() == ran).all(), name
    assert ours.synops.sum() == theirs["Effective_ACs"] * SAMPLES
    assert ours.macs.sum() == theirs["Effective_MACs"] * SAMPLES
    assert ours.synops.sum() > 0
    assert ours.macs.sum() > 0


def test_neurobench_leaves_out_zero_weights_and_ours_does_not():
    rng = np.random.default_rng(12)
    first = weights(rng, 4, 1, 3, 3)
    first[0, 0] = 0  # nine of the synapses of channel 0 store nothing
    graph = Graph(
        Input((1, 8, 8), message_bits=6),
        (lif("a", 4, 2500, Current("input", Conv(first, padding=(1, 1)))),),
    )
    frames = digits_frames()
    ours = count(graph, frames, reference.run(graph, frames).spikes)
    _, theirs = neurobench_counts(graph, frames)
    # one output channel of four is all zeros, so NeuroBench sees three quarters of our MACs
    assert 4 * theirs["Effective_MACs"] * SAMPLES == 3 * ours.macs.sum()


def test_neurobench_takes_black_and_white_pixels_for_spikes_and_ours_does_not():
    rng = np.random.default_rng(13)
    graph = Graph(
        Input((1, 8, 8), message_bits=6),
        (lif("a", 4, 60, Current("input", Conv(weights(rng, 4, 1, 3, 3), padding=(1, 1)))),),
    )
    frames = (digits_frames() > 20).astype(np.uint8)
    ours = count(graph, frames, reference.run(graph, frames).spikes)
    _, theirs = neurobench_counts(graph, frames)
    assert theirs["Effective_MACs"] == 0
    assert theirs["Effective_ACs"] * SAMPLES == ours.macs.sum()
