"""The edge network as one Lava Process, and the helpers its stock model is wired with.

`EdgeNetwork` has two ProcessModels: the fast leaf (`leaf.py`) and the one of stock Conv, Dense and
LIF processes (`stock.py`). Choose with `Loihi2SimCfg(select_tag="fixed_pt",
select_sub_proc_model=...)`. Shapes at the ports are W, H, C, as everywhere in Lava.
"""

from __future__ import annotations

from lava.magma.core.process.ports.ports import InPort, OutPort, RefPort
from lava.magma.core.process.process import AbstractProcess

from lava_edge.channel import Channel
from splitcore.errors import GraphError
from splitcore.graph import Graph, Shape


def whc(shape: Shape) -> tuple[int, int, int]:
    """A shape (C, H, W) in Lava's order."""
    return shape[2], shape[1], shape[0]


class EdgeNetwork(AbstractProcess):
    """A whole graph, stepped sample after sample.

    graph: the network. steps: T; the state resets hard every T steps.
    batch: samples side by side, as many virtual chips (leaf only; ports get a leading axis).
    channel: where frames come from and results go to. Without one the ports are used: sample n of
    `inp` at time steps n·T+1 … leaves `out` depth[output] steps later; what leaves before is noise.
    record: "none", "spikes" or "states": what of the inner layers goes to the channel.
    live: send the output of each step as it appears.
    """

    def __init__(
        self,
        *,
        graph: Graph,
        steps: int,
        batch: int = 1,
        channel: Channel | None = None,
        record: str = "none",
        live: bool = False,
    ) -> None:
        super().__init__(
            graph=graph, steps=steps, batch=batch, channel=channel, record=record, live=live
        )
        if steps < 1 or batch < 1:
            raise GraphError(f"edge network: expected steps and batch ≥ 1, got {steps}, {batch}")
        # (depth of the source, process) of each synapse with delays, filled in by the stock model
        self.delayed: list[tuple[int, AbstractProcess]] = []
        lead = (batch,) if batch > 1 else ()
        self.inp = InPort(shape=(*lead, *whc(graph.input.shape)))
        self.out = OutPort(shape=(*lead, *whc(graph.output_shape)))


class FrameSource(AbstractProcess):
    """Sends the frames of a channel, step by step, and zeros after their end."""

    def __init__(self, *, graph: Graph, steps: int, channel: Channel) -> None:
        super().__init__(graph=graph, steps=steps, channel=channel)
        self.frames = OutPort(shape=whc(graph.input.shape))


class SpikeTap(AbstractProcess):
    """Collects one layer's spikes, sample by sample, into a channel."""

    def __init__(
        self, *, shape: Shape, steps: int, layer: int, depth: int, channel: Channel
    ) -> None:
        super().__init__(shape_chw=shape, steps=steps, layer=layer, depth=depth, channel=channel)
        self.spikes = InPort(shape=whc(shape))


class StateTap(AbstractProcess):
    """Collects one layer's u and v, after reset, through reference ports."""

    def __init__(
        self, *, shape: Shape, steps: int, layer: int, depth: int, channel: Channel
    ) -> None:
        super().__init__(shape_chw=shape, steps=steps, layer=layer, depth=depth, channel=channel)
        self.current = RefPort(shape=whc(shape))
        self.voltage = RefPort(shape=whc(shape))
