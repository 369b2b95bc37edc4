"""A chain in stock `lava.lib.dl.netx.hdf5.Network`, nothing of ours between its layers.

Importing NetX pulls in all of SLAYER, torch and matplotlib; only who asks for it pays.
"""

from __future__ import annotations

import contextlib
import io
from pathlib import Path
from typing import Any

from lava_edge.channel import Channel
from lava_edge.network.process import FrameSource, SpikeTap
from splitcore.errors import NetxError
from splitcore.graph import Graph


def network(path: Path, graph: Graph, steps: int, channel: Channel) -> Any:
    """The network of this very file between a source and a tap on a channel."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        from lava.lib.dl import netx
        from lava.lib.dl.netx.blocks.process import Input
    try:
        loaded = netx.hdf5.Network(
            net_config=str(path),
            input_shape=graph.input.shape[::-1],
            input_message_bits=graph.input.message_bits,
            reset_interval=steps,
            reset_offset=1,
        )
    except KeyError:
        raise NetxError(
            f"{path.name}: has no /layer for stock NetX to read; load and save it anew"
        ) from None
    if isinstance(loaded.in_layer, Input):
        raise NetxError(
            "stock NetX takes no frames where the input has neurons; `simulate` runs it"
        )
    source = FrameSource(graph=graph, steps=steps, channel=channel)
    source.frames.reshape(loaded.inp.shape).connect(loaded.inp)
    tap = SpikeTap(
        shape=graph.output_shape,
        steps=steps,
        layer=len(graph.layers) - 1,
        depth=graph.depth[graph.output_name],
        channel=channel,
    )
    loaded.out.reshape(tap.spikes.shape).connect(tap.spikes)
    return loaded
