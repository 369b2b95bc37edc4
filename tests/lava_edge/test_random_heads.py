"""Random heads in Lava's simulator: leaf and stock processes against the reference.

Spikes of every layer, u and v, several samples back to back; among the heads are chains and
residual ones, with shortcuts that wait in relays, with graded and binary input.
"""

import pytest

from lava_edge import reference
from lava_edge.runtime import simulate
from tests.heads import Head, heads, random_head

IN_THE_SUITE, DEEP = 20, 200
FIRST_SEED = 40_000


def _mismatches(head: Head, model: str) -> int:
    truth = reference.run(head.graph, head.frames_ntchw, states=True)
    found = 0
    results = list(simulate(head.graph, head.frames_ntchw, model=model, record="states"))
    assert len(results) == len(head.frames_ntchw)
    for index, result in enumerate(results):
        for kind in ("spikes", "current", "voltage"):
            ours, theirs = getattr(result, kind), getattr(truth, kind)
            assert ours.keys() == theirs.keys()
            found += sum(int((ours[name] != theirs[name][index]).sum()) for name in ours)
    return found


def test_heads_of_the_suite_are_of_every_kind() -> None:
    drawn = heads(IN_THE_SUITE, FIRST_SEED, samples=3)
    assert {head.graph.is_chain for head in drawn} == {True, False}
    assert {bool(head.graph.input.message_bits) for head in drawn} == {True, False}
    relays = [head.graph.relays(*pair) for head in drawn for pair in head.graph.currents()]
    assert max(relays) >= 2


@pytest.mark.parametrize("index", range(IN_THE_SUITE))
def test_random_head_equals_reference_in_stock_processes(index: int) -> None:
    head = heads(index + 1, FIRST_SEED, samples=3)[index]
    assert _mismatches(head, "stock") == 0


def test_twenty_layer_residual_head_equals_reference_in_leaf_and_stock() -> None:
    seeds = iter(range(60_000, 70_000))
    head = next(
        head
        for seed in seeds
        if (head := random_head(seed, depth=20, samples=2)) and not head.graph.is_chain
    )
    assert len(head.graph.layers) == 20
    spikes = reference.run(head.graph, head.frames_ntchw).spikes
    assert all(0 < layer.mean() < 1 for layer in spikes.values())
    assert _mismatches(head, "leaf") == 0
    assert _mismatches(head, "stock") == 0


@pytest.mark.deep
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("model", ["leaf", "stock"])
def test_two_hundred_random_heads_equal_reference(model: str) -> None:
    for head in heads(DEEP, 200_000, samples=3, filters=True):
        assert _mismatches(head, model) == 0
