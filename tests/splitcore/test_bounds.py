import tracemalloc

import numpy as np
import pytest

from lava_edge import reference
from splitcore import bounds
from splitcore.errors import OverflowBoundError
from splitcore.graph import Conv, ConvTranspose, Current, Dense, Graph, Identity, Input, Lif
from tests.heads import heads


def one_neuron(weight, *, bias=0, threshold=100, voltage_decay=4096, current_decay=4096, bits=0):
    weight_oi = np.atleast_2d(weight)
    lif = Lif(
        "only",
        (Current("input", Dense(weight_oi)),),
        np.full(len(weight_oi), bias),
        threshold,
        voltage_decay,
        current_decay,
    )
    return Graph(Input((weight_oi.shape[1], 1, 1), bits), (lif,))


def bound_of(synapse, source, threshold=1000, bits=0):
    shape = synapse.output_shape(source)
    lif = Lif("only", (Current("input", synapse),), np.zeros(shape[0], int), threshold, 4096)
    return bounds.bounds(Graph(Input(source, bits), (lif,)), 1)[0]


def test_bound_of_sum_takes_the_larger_sign():
    # 10 + 20 against 4 + 50: the negative side is larger, all of it is 84.
    bound = bounds.bounds(one_neuron([10, 20, -4, -50]), 1)[0]
    assert (bound.activation, bound.summed, bound.current) == (54, 84, 54 * 64)


def test_bound_of_graded_input_multiplies_by_its_largest_value():
    assert bounds.bounds(one_neuron([2, 4], bits=6), 1)[0].activation == 6 * 63


def test_bound_of_later_layer_takes_binary_spikes():
    first = Lif("a", (Current("input", Identity(2)),), np.zeros(1, int), 10, 4096)
    second = Lif("b", (Current("a", Identity(-6)),), np.zeros(1, int), 10, 4096)
    found = bounds.bounds(Graph(Input((1, 1, 1), 8), (first, second)), 1)
    assert [bound.activation for bound in found] == [2 * 255, 6]


def test_bound_of_meeting_currents_is_their_sum():
    currents = (Current("input", Identity(10)), Current("input", Identity(-4)))
    graph = Graph(Input((2, 3, 3)), (Lif("a", currents, np.zeros(2, int), 10, 4096),))
    assert bounds.bounds(graph, 1)[0].activation == 10


def test_bound_of_filter_follows_the_integer_decay():
    # 640; 480 + 640 = 1120; 840 + 640 = 1480
    graph = one_neuron([10], current_decay=1024)
    assert bounds.bounds(graph, steps=3)[0].current == 1480


def test_bound_of_negative_voltage_accumulates_without_reset():
    # -640 - 64 each step, nothing decays: 5 steps
    graph = one_neuron([-10], bias=-1, voltage_decay=0)
    assert bounds.bounds(graph, steps=5)[0].voltage == 5 * 704


def test_bound_of_positive_voltage_stops_at_the_threshold():
    # Reset above 6400: at most 6400 kept, and one step of 640 on top.
    graph = one_neuron([10], voltage_decay=0)
    assert bounds.bounds(graph, steps=1000)[0].voltage == 6400 + 640


@pytest.mark.parametrize(
    ("weight", "bias", "steps", "reached"),
    [
        (10, 3, 5, 5 * (640 + 192)),  # a bias adds to what spikes bring
        (10, -3, 5, 5 * (640 - 192)),
        (10, 3, 50, 6400 + 640 + 192),  # on top of the threshold at most
        (-10, 3, 5, 5 * (640 - 192)),  # and takes from what they inhibit
        (-10, -3, 5, 5 * (640 + 192)),
    ],
)
def test_bound_of_voltage_has_the_bias_in_every_step(weight, bias, steps, reached):
    graph = one_neuron([weight], bias=bias, voltage_decay=0)
    assert bounds.bounds(graph, steps)[0].voltage == reached


def impulses_reach(synapse, source):
    """Largest Σ of positive, of negative and of absolute weights that meet in one neuron, by what
    the reference makes of an event at each place alone.
    """
    count = int(np.prod(source))
    alone = np.eye(count, dtype=np.int64).reshape(count, 1, *source)
    sums = reference.synaptic_sum(synapse, alone, source, 1).reshape(count, -1)
    parts = np.maximum(sums, 0), np.maximum(-sums, 0), np.abs(sums)
    return tuple(int(part.sum(axis=0).max()) for part in parts)


@pytest.mark.parametrize(
    ("make", "shape", "source"),
    [
        (lambda w: Conv(w, (2, 1), (1, 2)), (3, 2, 3, 3), (2, 5, 4)),
        (lambda w: Conv(w, (1, 1), (1, 1), groups=2), (4, 2, 3, 3), (4, 4, 4)),
        (lambda w: ConvTranspose(w, (2, 2), (1, 1), (1, 1)), (2, 3, 3, 3), (2, 4, 5)),
        (lambda w: ConvTranspose(w, (2, 2)), (3, 2, 3, 3), (3, 4, 4)),
        (lambda w: ConvTranspose(w, (4, 4), (3, 3)), (1, 4, 7, 7), (1, 3, 3)),
        (Dense, (3, 8), (2, 2, 2)),
        (lambda w: Identity(int(w.flat[0])), (1,), (3, 2, 2)),
    ],
)
def test_bound_of_sums_is_what_single_events_add_up_to(make, shape, source):
    # Weights of channels differ in size, so that a channel taken for another is seen.
    draw = np.random.default_rng(7).integers(-60, 61, shape) * 2
    scale = np.arange(1, np.prod(shape[:2]) + 1).reshape((*shape[:2], *[1] * (len(shape) - 2)))
    synapse = make((draw * scale).clip(-256, 254).astype(np.int32) // 2 * 2)
    positive, negative, absolute = impulses_reach(synapse, source)
    bound = bound_of(synapse, source)
    assert (bound.activation, bound.summed) == (max(positive, negative), absolute)


def test_bound_of_conv_at_full_kernel_sums_all_taps():
    weight = np.full((1, 2, 3, 3), 2)
    assert bound_of(Conv(weight, padding=(1, 1)), (2, 5, 5)).activation == 36


def test_bound_of_conv_on_small_image_leaves_out_taps_on_padding():
    # On a 2x2 image each output sees 4 of the 9 taps.
    weight = np.full((1, 2, 3, 3), 2)
    assert bound_of(Conv(weight, padding=(1, 1)), (2, 2, 2)).activation == 16


def test_bound_of_conv_takes_the_worst_place_of_a_mixed_kernel():
    # On a 1x1 image with padding 1 only one tap is met, at each of its 9 places but padded evenly:
    # a single output, the middle tap.
    weight = np.zeros((1, 1, 3, 3), int)
    weight[0, 0] = [[8, 8, 8], [8, -2, 8], [8, 8, 8]]
    assert bound_of(Conv(weight, padding=(1, 1)), (1, 1, 1)).activation == 2


def test_bound_of_long_kernel_on_a_wide_image_takes_little_memory():
    # every pixel with every tap would be 16 million
    conv = Conv(np.full((1, 1, 1, 4001), 2), padding=(0, 2000))
    tracemalloc.start()
    try:
        assert bound_of(conv, (1, 1, 4001)).activation == 2 * 4001
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 2 << 20


def test_bound_of_transposed_conv_sums_the_taps_of_one_phase():
    # Stride 2, kernel 3: at most two taps a side (0 and 2) meet in one output, 4 of 9.
    assert (
        bound_of(ConvTranspose(np.full((1, 1, 3, 3), 2), stride=(2, 2)), (1, 4, 4)).activation == 8
    )


def test_bound_of_transposed_conv_of_a_giant_stride_counts_its_taps_alone():
    giant = ConvTranspose(np.full((1, 1, 2, 1), 2), (1 << 20, 1 << 20))
    assert bound_of(giant, (1, 1, 1)).activation == 2


def test_bounds_hold_on_random_heads():
    for head in heads(15, filters=True):
        trace = reference.run(head.graph, head.frames_ntchw, states=True)
        for bound in bounds.bounds(head.graph, head.frames_ntchw.shape[1]):
            assert np.abs(trace.current[bound.name]).max() <= bound.current
            assert np.abs(trace.voltage[bound.name]).max() <= bound.voltage


def test_bounds_of_worst_input_are_reached():
    weight = np.array([[30, -20, 6, -254]])
    graph = one_neuron(weight, bias=-3, voltage_decay=1024, current_decay=2048, bits=4)
    worst = np.where(weight < 0, 15, 0).reshape(1, 1, 4, 1, 1).repeat(9, axis=1)
    trace = reference.run(graph, worst, states=True)
    bound = bounds.bounds(graph, steps=9)[0]
    assert -trace.current["only"].min() == bound.current
    assert -trace.voltage["only"].min() == bound.voltage


def test_check_of_current_at_the_limit_passes():
    # 64 · 131071 = 2^23 − 64 is the last multiple of 64 inside
    weight = np.array([[254] * 516 + [7]])
    assert weight.sum() == 131071
    assert bounds.check(one_neuron(weight), 1)[0].current == (1 << 23) - 64


def test_check_of_current_past_the_limit_names_layer_bound_limit_and_remedy():
    weight = np.array([[254] * 516 + [8]])
    with pytest.raises(OverflowBoundError, match=r"layer only: \|u\| can reach 8,388,608") as info:
        bounds.check(one_neuron(weight), 1)
    assert "8,388,607" in str(info.value)
    assert "scale its weights" in str(info.value)


def test_check_of_graded_input_offers_fewer_bits():
    with pytest.raises(OverflowBoundError, match="fewer input message bits"):
        bounds.check(one_neuron([[254] * 100], bits=8), 1)


def test_check_of_float32_sum_is_named_first():
    with pytest.raises(OverflowBoundError, match="exact float32 sums"):
        bounds.check(one_neuron([[254] * 300], bits=8), 1)


def test_check_of_voltage_depends_on_the_steps():
    graph = one_neuron([[-254] * 100], voltage_decay=0)
    assert bounds.check(graph, steps=5)
    with pytest.raises(OverflowBoundError, match=r"\|v\| can reach"):
        bounds.check(graph, steps=6)


def test_check_passes_a_wide_layer_on_a_tiny_image():
    # 512 channels of 3x3 taps of 60 on 2x2: 4 taps are met, 122,880 < 131,072; 9 would be refused.
    conv = Conv(np.full((1, 512, 3, 3), 60), padding=(1, 1))
    lif = Lif("wide", (Current("input", conv),), np.zeros(1, int), 100, 4096)
    assert bounds.check(Graph(Input((512, 2, 2)), (lif,)), 1)
    with pytest.raises(OverflowBoundError):
        bounds.check(Graph(Input((512, 3, 3)), (lif,)), 1)
