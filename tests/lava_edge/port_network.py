"""EdgeNetwork in a Lava graph of the user's own: python -m tests.lava_edge.port_network FOLDER.

Reads edge.net and frames.npy (N, T, C, H, W), runs both models through their ports with Lava's own
ring buffers around them, and writes leaf.npy, stock.npy and batch.npy (N, T, C, H, W).
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from lava.magma.core.run_conditions import RunSteps
from lava.magma.core.run_configs import Loihi2SimCfg
from lava.proc import io

from lava_edge import netx_file
from lava_edge.network.process import EdgeNetwork
from splitcore.graph import Graph


def _run(graph: Graph, frames_ntchw: np.ndarray, stock: bool, batch: int = 1) -> np.ndarray:
    count, steps, *shape = frames_ntchw.shape
    delay = graph.depth[graph.output_name]
    rounds = count // batch
    # (rounds, batch, T, C, H, W) -> batch, W, H, C, time
    data = frames_ntchw.reshape(rounds, batch, steps, *shape).transpose(1, 5, 4, 3, 0, 2)
    data = data.reshape(batch, *shape[::-1], rounds * steps).astype(np.int32)
    data = np.concatenate([data, np.zeros((*data.shape[:-1], delay), np.int32)], axis=-1)
    network = EdgeNetwork(graph=graph, steps=steps, batch=batch)
    source = io.source.RingBuffer(data=data if batch > 1 else data[0])
    sink = io.sink.RingBuffer(shape=network.out.shape, buffer=data.shape[-1])
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    config = Loihi2SimCfg(select_tag="fixed_pt", select_sub_proc_model=stock)
    network.run(condition=RunSteps(num_steps=data.shape[-1]), run_cfg=config)
    out = sink.data.get()[..., delay:]
    network.stop()
    out = out.reshape(batch, *graph.output_shape[::-1], rounds, steps).transpose(4, 0, 5, 3, 2, 1)
    return out.reshape(count, steps, *graph.output_shape).astype(np.uint8)


def main(folder: Path) -> None:
    """Run all three."""
    graph = netx_file.load(folder / "edge.net")
    frames = np.load(folder / "frames.npy")
    np.save(folder / "leaf.npy", _run(graph, frames, stock=False))
    np.save(folder / "batch.npy", _run(graph, frames, stock=False, batch=2))
    np.save(folder / "stock.npy", _run(graph, frames, stock=True))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
