import numpy as np
import pytest

from lava_edge import reference
from lava_edge.network.stock import MAX_GROUPS, with_few_groups
from lava_edge.runtime import simulate
from splitcore.graph import Conv, Current, Graph, Identity, Input, Lif


@pytest.mark.parametrize(("groups", "expected"), [(127, 127), (128, 64), (131, 1), (384, 96)])
def test_conv_of_many_groups_is_the_same_conv_in_fewer(groups, expected):
    rng = np.random.default_rng(groups)
    conv = Conv(2 * rng.integers(-100, 100, (2 * groups, 3, 2, 1)), padding=(1, 0), groups=groups)
    few = with_few_groups(conv)
    assert few.groups == expected <= MAX_GROUPS
    shape = (3 * groups, 3, 2)
    events = rng.integers(0, 2, (2, 1, *shape)).astype(np.uint8)
    sums = [reference.synaptic_sum(each, events, shape, 1) for each in (conv, few)]
    assert sums[0].any()
    assert np.array_equal(*sums)


def test_stock_processes_of_a_wide_shortcut_give_the_reference_spikes():
    """128 channels through a depthwise conv, an identity and its relay."""
    rng = np.random.default_rng(0)
    none = np.zeros(128, int)
    depthwise = Conv(2 * rng.integers(10, 100, (128, 1, 1, 1)), groups=128)
    first = Lif("a", (Current("input", depthwise),), none, 120, 1024)
    second = Lif("b", (Current("a", depthwise),), none, 120, 1024)
    meeting = (Current("b", Identity(60)), Current("a", Identity(40)))
    graph = Graph(Input((128, 1, 2)), (first, second, Lif("c", meeting, none, 80, 1024)))
    frames = (rng.random((2, 4, 128, 1, 2)) < 0.6).astype(np.uint8)
    expected = reference.run(graph, frames).spikes["c"]
    assert 0.02 < expected.mean() < 0.9
    results = list(simulate(graph, frames, model="stock"))
    found = np.stack([result.code_tchw for result in results])
    assert np.count_nonzero(found != expected) == 0
