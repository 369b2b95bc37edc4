"""What stock Lava cannot compute or stock NetX say, in words: told before a simulator is started.

An exception inside Lava comes back as a traceback at best, and sizes that wrap not at all.
"""

from __future__ import annotations

from splitcore.errors import GraphError
from splitcore.graph import Conv, ConvTranspose, Dense, Graph, Identity

CONV_MAX = 127  # int8 in lava/proc/conv/models.py


def require(graph: Graph) -> None:
    """Raise GraphError naming the first layer that is beyond stock processes."""
    for layer, current in graph.currents():
        reason = _beyond(current.synapse)
        if reason is not None:
            raise GraphError(f"layer {layer.name}: stock Lava {reason}; simulate it in the leaf")


def require_netx(graph: Graph) -> None:
    """Raise GraphError where stock NetX cannot run this network."""
    reason = beyond_netx(graph)
    if reason is not None:
        raise GraphError(f"{reason}; `simulate` runs it")


def beyond_netx(graph: Graph) -> str | None:
    """Why stock NetX must refuse the file of this network, or None where it computes it right.

    Stock loses height and width behind a dense layer, and two of its routines are wrong in silence:
    `PyConvModel` holds groups and the like in int8 (128 groups gave 711 wrong spikes), and
    `optimize_weight_bits` lets a dense layer without positive weights be clipped to −255.
    """
    if not graph.is_chain:
        return "stock NetX knows only chains: this network has a residual connection"
    flat = False
    for layer, current in graph.currents():
        dense = isinstance(current.synapse, Dense)
        if flat and not dense:
            return f"layer {layer.name}: stock NetX loses height and width behind a dense layer"
        flat = flat or dense
        reason = _beyond_netx(current.synapse, graph.shapes[current.source][0])
        if reason is not None:
            return f"layer {layer.name}: stock NetX {reason}"
    return None


def _beyond_netx(synapse: object, channels: int) -> str | None:
    match synapse:
        case Dense(weight_oi=weight) if weight.max() <= 0:
            return "clips dense weights of which none is positive"
        case Conv(groups=groups) if groups > CONV_MAX:
            return f"takes at most {CONV_MAX} groups, got {groups}"
        case Identity() if channels > CONV_MAX:
            return f"takes at most {CONV_MAX} groups, got {channels}"
    return _beyond_both(synapse)


def _beyond(synapse: object) -> str | None:
    match synapse:
        case Dense(weight_oi=weight) if weight.min() < 0 and (weight % 2).any():
            return "rounds odd dense weights where any is negative, expected even ones"
    return _beyond_both(synapse)


def _beyond_both(synapse: object) -> str | None:
    match synapse:
        case Conv():
            return _too_large(synapse)
        case ConvTranspose():
            return "has no transposed convolution"
    return None


def _too_large(conv: Conv) -> str | None:
    sizes = {
        "kernel": conv.weight_oihw.shape[2:],
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
    }
    for name, pair in sizes.items():
        if max(pair) > CONV_MAX:
            return f"takes a {name} of at most {CONV_MAX} a side, got {'×'.join(map(str, pair))}"
    return None
