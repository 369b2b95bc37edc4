"""What stock processes cannot compute, in words: told before a simulator is started for them.

An exception inside Lava comes back as a traceback at best, and sizes that wrap not at all.
"""

from __future__ import annotations

from lava_edge.netx_file import STOCK_CONV_MAX
from splitcore.errors import GraphError
from splitcore.graph import Conv, ConvTranspose, Dense, Graph


def require(graph: Graph) -> None:
    """Raise GraphError naming the first layer that is beyond stock processes."""
    for layer, current in graph.currents():
        reason = _beyond(current.synapse)
        if reason is not None:
            raise GraphError(f"layer {layer.name}: stock Lava {reason}; simulate it in the leaf")


def _beyond(synapse: object) -> str | None:
    match synapse:
        case Conv(weight_oihw=weight):
            sizes = {
                "kernel": weight.shape[2:],
                "stride": synapse.stride,
                "padding": synapse.padding,
                "dilation": synapse.dilation,
            }
            for name, pair in sizes.items():
                if max(pair) > STOCK_CONV_MAX:
                    size = "×".join(map(str, pair))
                    return f"takes a {name} of at most {STOCK_CONV_MAX} a side, got {size}"
        case Dense(weight_oi=weight):
            if weight.min() < 0 and (weight % 2).any():
                return "rounds odd dense weights where any is negative, expected even ones"
        case ConvTranspose():
            return "has no transposed convolution"
    return None
