"""Runs NetX files in stock lava-dl: python -m tests.lava_edge.stock_run FOLDER, one child for all.

For each NAME.npz in the folder (frames (N, T, C, H, W), message_bits) runs NAME.net and writes
NAME.out.npy, (N, T, C, H, W); or NAME.error with the name of what stock raised on opening it.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np


def run(path: Path, frames_ntchw: np.ndarray, message_bits: int) -> np.ndarray:
    """Spikes of stock netx.hdf5.Network under Loihi2SimCfg(select_tag='fixed_pt')."""
    from lava.lib.dl import netx
    from lava.magma.core.run_conditions import RunSteps
    from lava.magma.core.run_configs import Loihi2SimCfg
    from lava.proc import io

    count, steps, *shape = frames_ntchw.shape
    network = netx.hdf5.Network(
        net_config=str(path),
        input_shape=tuple(shape[::-1]),
        input_message_bits=message_bits,
        reset_interval=steps,
        reset_offset=1,
    )
    depth = len(network)
    frames = frames_ntchw.reshape(count * steps, *shape)
    frames = np.concatenate([frames, np.zeros((depth, *shape), frames.dtype)])
    data = np.moveaxis(frames, 0, -1).astype(np.int32)  # C, H, W, time
    if len(network.inp.shape) == 3:
        data = data.transpose(2, 1, 0, 3)
    else:
        data = data.reshape(-1, data.shape[-1])
    source = io.source.RingBuffer(data=data)
    sink = io.sink.RingBuffer(shape=network.out.shape, buffer=data.shape[-1])
    source.s_out.connect(network.inp)
    network.out.connect(sink.a_in)
    network.run(
        condition=RunSteps(num_steps=data.shape[-1]), run_cfg=Loihi2SimCfg(select_tag="fixed_pt")
    )
    out = sink.data.get()
    network.stop()
    out = out[..., depth : depth + count * steps]
    if out.ndim == 2:
        out = out[None, None]
    return out.transpose(3, 2, 1, 0).reshape(count, steps, *out.shape[2::-1]).astype(np.uint8)


def main(folder: Path) -> None:
    """Run every case of the folder."""
    for case in sorted(folder.glob("*.npz")):
        data = np.load(case)
        try:
            spikes = run(case.with_suffix(".net"), data["frames"], int(data["message_bits"]))
        except Exception as error:
            case.with_suffix(".error").write_text(f"{type(error).__name__}: {error}")
        else:
            np.save(case.with_suffix(".out.npy"), spikes)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
