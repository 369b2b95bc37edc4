"""How the compiled leaf lays a layer's state out: channels innermost, padded to whole vectors.

Apart from `compiled_stepper`, so that memory can be reckoned without loading its kernels.
"""

from __future__ import annotations

import math

from splitcore.graph import Conv, Graph, Lif, Synapse, whole_vectors

_NEURON_BYTES = 13  # v, u and an event in 4 each, a spike in 1
_INPUT_BYTES = 8  # an event and its value


def scatters(synapse: Synapse) -> bool:
    """Whether events may add their whole kernel at once: its columns lie side by side."""
    return (
        isinstance(synapse, Conv)
        and synapse.groups == 1
        and synapse.stride == (1, 1)
        and synapse.dilation == (1, 1)
    )


def margin(layer: Lif) -> tuple[int, int]:
    """Rows and columns around a layer's drive that scattered kernels may reach."""
    reach = [(0, 0)]
    for current in layer.currents:
        if scatters(current.synapse) and isinstance(current.synapse, Conv):
            kernel, pad = current.synapse.weight_oihw.shape[2:], current.synapse.padding
            reach.append((kernel[0] - 1 - pad[0], kernel[1] - 1 - pad[1]))
    return max(y for y, _ in reach), max(x for _, x in reach)


def drive_shape(graph: Graph, layer: Lif) -> tuple[int, int, int]:
    """Rows, columns and channels of a layer's drive, margins and padding included."""
    channels, height, width = graph.shapes[layer.name]
    margin_y, margin_x = margin(layer)
    return height + 2 * margin_y, width + 2 * margin_x, whole_vectors(channels)


def bytes_a_sample(graph: Graph) -> int:
    """Memory that the state of one sample takes in all layers."""
    total = _INPUT_BYTES * math.prod(graph.input.shape)
    for layer in graph.layers:
        channels, height, width = graph.shapes[layer.name]
        total += _NEURON_BYTES * height * width * whole_vectors(channels)
        from_input = sum(current.source == graph.input.name for current in layer.currents)
        total += 4 * from_input * math.prod(drive_shape(graph, layer))  # kept while a frame repeats
    return total
