from dataclasses import replace

import numpy as np

from splitcore.difference import difference
from splitcore.graph import Conv, Current, Dense, Graph, Identity, Input, Lif


def graph(weight=2, bias=0, name="a"):
    lif = Lif(name, (Current("input", Identity(weight)),), np.full(2, bias), 10, 1024)
    return Graph(Input((2, 3, 3)), (lif,))


def test_difference_of_equal_graphs_is_none():
    assert difference(graph(), graph()) is None


def test_difference_names_the_path_of_a_value():
    assert difference(graph(2), graph(4)) == "layers.0.currents.0.synapse.weight: 2 against 4"


def test_difference_counts_the_values_of_arrays():
    assert difference(graph(), graph(bias=1)) == "layers.0.bias: 2 of 2 values differ"


def test_difference_of_array_shapes_names_both():
    one, two = Dense(np.full((2, 3), 2)), Dense(np.full((3, 2), 2))
    assert difference(one, two) == "weight_oi: shape (2, 3) against (3, 2)"


def test_difference_of_kinds_names_both():
    assert difference(Identity(2), Identity(2).as_conv(1)) == ": Identity against Conv"


def test_difference_of_missing_delay_is_found():
    weight = np.full((2, 3), 2)
    assert difference(Dense(weight), Dense(weight, np.ones((2, 3), int))) is not None


def test_difference_of_more_layers_is_found():
    more = Lif("b", (Current("a", Identity(2)),), np.zeros(2, int), 10, 1024)
    assert difference(graph(), replace(graph(), layers=(*graph().layers, more))) is not None


def test_difference_ignores_the_integer_type():
    assert difference(np.zeros(3, np.int8), np.zeros(3, np.int64)) is None


def test_difference_sees_every_plain_field_of_a_conv():
    weight = np.full((2, 2, 1, 1), 2)
    for change in ({"stride": (1, 2)}, {"padding": (1, 0)}, {"dilation": (2, 1)}):
        assert difference(Conv(weight), Conv(weight, **change)) is not None
