from dataclasses import replace

import numpy as np
import pytest

from splitcore.errors import GraphError
from splitcore.graph import Conv, ConvTranspose, Current, Dense, Graph, Identity, Input, Lif

WIDEST = (1 << 20, 1 << 20)


def lif(name, *currents, channels=2, **options):
    values = {"bias": np.zeros(channels, int), "threshold": 10, "voltage_decay": 1024} | options
    return Lif(name, tuple(currents), **values)


def weights(*shape):
    return np.full(shape, 2)


def test_conv_shape_follows_stride_padding_dilation_by_axis():
    # height: (10 + 2·1 − 2·(3−1) − 1) // 2 + 1 = 4; width: (9 + 0 − 1·(2−1) − 1) // 1 + 1 = 8
    conv = Conv(weights(4, 3, 3, 2), stride=(2, 1), padding=(1, 0), dilation=(2, 1))
    assert conv.output_shape((3, 10, 9)) == (4, 4, 8)


def test_conv_of_groups_counts_the_input_channels_of_all():
    assert Conv(weights(4, 2, 1, 1), groups=2).output_shape((4, 5, 5)) == (4, 5, 5)


def test_transposed_conv_shape_inverts_the_strided_conv():
    assert ConvTranspose(weights(2, 3, 4, 2), stride=(2, 2), padding=(1, 0)).output_shape(
        (2, 5, 5)
    ) == (3, 10, 10)


def test_dense_shape_counts_the_flattened_source():
    assert Dense(weights(7, 24)).output_shape((2, 3, 4)) == (7, 1, 1)


def test_dense_of_zero_delays_has_none():
    assert Dense(weights(2, 3), np.zeros((2, 3), int)).delay_oi is None


def test_identity_as_conv_is_depthwise_with_its_weight():
    conv = Identity(-6).as_conv(3)
    assert (conv.groups, conv.weight_oihw.tolist()) == (3, [[[[-6]]]] * 3)


def test_records_copy_their_arrays_and_refuse_writing():
    mine = weights(2, 3)
    dense = Dense(mine)
    mine[0, 0] = 99
    assert dense.weight_oi[0, 0] == 2
    with pytest.raises(ValueError, match="read-only"):
        dense.weight_oi[0, 0] = 4


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Conv(weights(2, 2, 3)), "4 non-empty dimensions"),
        (lambda: Conv(np.zeros((2, 0, 3, 3), int)), "non-empty"),
        (lambda: Conv(weights(2, 2, 1, 1) * 200), r"values in \[-256, 254\]"),
        (lambda: Conv(weights(2, 2, 1, 1) * 1.0), "expected integers"),
        (lambda: Conv(weights(2, 2, 1, 1), stride=(0, 1)), "conv stride"),
        (lambda: Conv(weights(2, 2, 1, 1), padding=(0, -1)), "conv padding"),
        (lambda: Conv(weights(2, 2, 1, 1), stride=(1.5, 1)), "conv stride: .* got 1.5"),  # type: ignore[arg-type]
        (lambda: Conv(weights(2, 2, 1, 1), stride=(1, 1, 1)), "conv stride: expected two"),  # type: ignore[arg-type]
        (lambda: Conv(weights(2, 2, 1, 1), stride=(1, 1 << 21)), "conv stride: .* 1048576"),
        (lambda: Conv(weights(2, 2, 1, 1), groups=1.0), "conv groups: .* got 1.0"),  # type: ignore[arg-type]
        (lambda: Conv(weights(3, 1, 1, 1), groups=2), "does not divide"),
        (lambda: ConvTranspose(weights(2, 2, 1, 1), output_padding=(0, 1)), "less than the stride"),
        (lambda: Conv(weights(2, 2, 3, 3)).output_shape((2, 2, 2)), "does not fit"),
        (lambda: Conv(weights(2, 2, 1, 1)).output_shape((3, 2, 2)), "expected 2 input channels"),
        (lambda: ConvTranspose(weights(2, 2, 1, 1)).output_shape((3, 2, 2)), "expected 2 channels"),
        (
            lambda: Conv(weights(2, 2, 1, 1), WIDEST, padding=WIDEST).output_shape((2, 3, 3)),
            r"padded source: \(2, 2097155, 2097155\) is more than 67,108,864",
        ),
        (
            lambda: ConvTranspose(weights(2, 1, 1, 1), WIDEST, WIDEST).output_shape((2, 4, 4)),
            "before padding is cut: .* is more than 67,108,864",
        ),
        (lambda: Dense(weights(2, 3)).output_shape((2, 1, 1)), "expected 3 inputs"),
        (lambda: Dense(weights(2, 3), np.full((2, 3), 63)), "dense delay"),
        (lambda: Dense(weights(2, 3), np.full((3, 2), 1)), "expected shape"),
        (lambda: Identity(255), "identity weight"),
        (lambda: Conv(weights(2, 2, 1, 1), stride=2), "conv stride: expected integers, got 2"),  # type: ignore[arg-type]
        (lambda: Input(5), "input shape: expected integers, got 5"),  # type: ignore[arg-type]
        (lambda: Input((2, 1, 1), 2.5), "message_bits: expected an integer"),  # type: ignore[arg-type]
        (lambda: Input((2, 0, 3)), "input shape"),
        (lambda: Input((2, 1 << 20, 1 << 20)), "input shape: .* is more than 67,108,864"),
        (lambda: Input((2, 3, 3), 17), "message_bits"),
        (lambda: lif("", Current("input", Identity(2))), "a name"),
        (lambda: lif("a"), "at least one current"),
        (lambda: lif("a", Current("input", Identity(2)), threshold=0), "threshold"),
        (lambda: lif("a", Current("input", Identity(2)), threshold=4096), "threshold"),
        (lambda: lif("a", Current("input", Identity(2)), voltage_decay=4097), "voltage_decay"),
        (lambda: lif("a", Current("input", Identity(2)), current_decay=-1), "current_decay"),
        (lambda: lif("a", Current("input", Identity(2)), bias=np.full(2, 4096)), "bias"),
    ],
)
def test_record_that_cannot_be_names_what_is_wrong(make, message):
    with pytest.raises(GraphError, match=message):
        make()


def graph(*layers):
    return Graph(Input((2, 3, 3)), layers)


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([lif("input", Current("input", Identity(2)))], "the name is taken"),
        ([lif("a", Current("b", Identity(2)))], "source 'b' is not before it"),
        ([lif("a", Current("a", Identity(2)))], "source 'a' is not before it"),
        ([lif("a", Current("input", Dense(weights(2, 5))))], "layer a: dense: expected 5 inputs"),
        ([lif("a", Current("input", Identity(2)), channels=3)], "expected 2 biases"),
        (
            [
                lif("a", Current("input", ConvTranspose(weights(2, 2, 1, 1), (1024, 1024)))),
                lif("b", Current("a", Conv(weights(17, 2, 1, 1))), channels=17),
            ],
            r"layer b: its neurons: \(17, 2049, 2049\) is more than 67,108,864",
        ),
        (
            [
                lif(
                    "a",
                    Current("input", Identity(2)),
                    Current("input", Conv(weights(2, 2, 3, 3))),
                )
            ],
            "currents of shapes",
        ),
    ],
)
def test_graph_that_cannot_be_names_the_layer(layers, message):
    with pytest.raises(GraphError, match=message):
        graph(*layers)


def wide(side, *, layers=1, channels=1):
    """So many layers of side × side neurons behind one input."""
    first = Conv(weights(channels, 1, 1, 1), padding=(side // 2, side // 2))
    chain = [lif("l0", Current("input", first), channels=channels)]
    for place in range(1, layers):
        source = Current(f"l{place - 1}", Identity(2))
        chain.append(lif(f"l{place}", source, channels=channels))
    return Graph(Input((1, 1, 1)), tuple(chain))


def test_network_of_too_many_values_in_all_layers_is_refused():
    # 1,023 × 1,023 × 16 lanes are 16.7 million, of which 67.1 million have place for four
    assert wide(1023, layers=3).held["l0"] == 1023 * 1023 * 16
    with pytest.raises(GraphError, match=r"network: 83,\d+,\d+ values in each of 1 steps"):
        wide(1023, layers=5)


def test_network_of_one_channel_counts_whole_vectors():
    assert wide(501, channels=16).held == wide(501).held == {"input": 16, "l0": 501 * 501 * 16}


def test_network_holds_what_its_synapses_do():
    conv = Conv(weights(1, 1, 1, 1), stride=(4, 4), padding=(10, 20))
    up = ConvTranspose(weights(1, 1, 1, 1), stride=(8, 8), padding=(3, 3))
    first, second = lif("a", Current("input", conv)), lif("b", Current("a", up), channels=1)
    held = Graph(Input((1, 4, 4)), (replace(first, bias=first.bias[:1]), second)).held
    # 24 × 44 padded; strided to 6 × 11; from there 41 × 81 before padding is cut
    assert held == {"input": 16 * 16, "a": 24 * 44 * 16, "b": 41 * 81 * 16}


@pytest.mark.parametrize(
    ("network", "steps"),
    [
        (lambda: wide(511), 16),  # 511 × 511 × 16 in 17 steps are more than 2^26
        (lambda: wide(127, layers=63), 16),  # 63 layers of 127 × 127 × 16 more than 2^28
    ],
)
def test_samples_of_too_many_steps_are_refused(network, steps):
    network().require_room(steps)
    with pytest.raises(GraphError, match=f"values in each of {steps + 1} steps"):
        network().require_room(steps + 1)


def residual():
    a = lif("a", Current("input", Identity(2)))
    b = lif("b", Current("a", Identity(2)))
    c = lif("c", Current("b", Identity(2)), Current("input", Identity(4)))
    return graph(a, b, c)


def test_graph_depth_is_the_longest_way():
    assert residual().depth == {"input": 0, "a": 1, "b": 2, "c": 3}


def test_graph_relays_make_the_shortcut_as_long_as_the_main_path():
    made = residual()
    assert [made.relays(made.layers[2], current) for current in made.layers[2].currents] == [0, 2]


def test_graph_with_a_shortcut_is_no_chain():
    assert not residual().is_chain
    assert graph(*residual().layers[:2]).is_chain


def test_graph_source_max_is_one_but_for_a_graded_input():
    made = Graph(Input((2, 3, 3), 6), residual().layers)
    assert (made.source_max("input"), made.source_max("a")) == (63, 1)


def test_graph_output_is_its_last_layer():
    assert (residual().output_name, residual().output_shape) == ("c", (2, 3, 3))


def test_graph_without_layers_passes_its_input_on():
    graph = Graph(Input((2, 3, 3)), ())
    assert (graph.output_name, graph.output_shape) == ("input", (2, 3, 3))


def test_graph_followed_by_another_feeds_it_its_output():
    behind = Graph(Input((2, 3, 3)), (lif("d", Current("input", Identity(2))),))
    both = residual().followed_by(behind)
    assert both.output_name == "d"
    assert [current.source for current in both.layers[-1].currents] == ["c"]
    assert both.depth["d"] == 4
    assert residual().followed_by(Graph(Input((2, 3, 3)), ())).output_name == "c"


@pytest.mark.parametrize("entry", [Input((2, 3, 4)), Input((2, 3, 3), 6)])
def test_graph_followed_by_one_of_another_input_is_refused(entry):
    with pytest.raises(GraphError, match="c: its spikes are not the next graph's input"):
        residual().followed_by(Graph(entry, ()))


def test_a_record_keeps_its_integers_whatever_becomes_of_the_callers():
    weight, bias = np.full((1, 2, 3), 2, np.int32), np.zeros((1, 2), np.int32)
    dense = Dense(weight[0])
    layer = Lif("a", (Current("input", Identity(2)),), bias[0], 10, 0)
    weight[0, 0, 0], bias[0, 0] = 300, 99_999
    assert dense.weight_oi.tolist() == [[2, 2, 2], [2, 2, 2]]
    assert layer.bias.tolist() == [0, 0]
