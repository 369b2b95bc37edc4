"""lava-dl's own SLAYER blocks for a chain of integer records, and lava-dl's own export of them."""

from __future__ import annotations

import functools
from pathlib import Path

import h5py
import numpy as np
import torch
from lava.lib.dl import slayer

from splitcore.graph import DECAY_UNITY, Conv, Dense, Graph, Identity, Lif

SCALE = 64


def whole(values: torch.Tensor, descale: bool = False) -> torch.Tensor:
    """A rounding for SLAYER's norm that keeps any integer bias; its own keeps small even ones."""
    rounded = torch.round(values * SCALE)
    return rounded if descale else rounded / SCALE


def neuron_params(layer: Lif) -> dict:
    norm = None
    if layer.bias.any():
        norm = functools.partial(slayer.neuron.norm.MeanOnlyBatchNorm, num_features=len(layer.bias))
    return {
        "threshold": layer.threshold / SCALE,
        "current_decay": layer.current_decay / DECAY_UNITY,
        "voltage_decay": layer.voltage_decay / DECAY_UNITY,
        "norm": norm,
    }


def block(layer: Lif, channels: int) -> torch.nn.Module:
    """One stock block that holds this layer's integers."""
    synapse = layer.currents[0].synapse
    if isinstance(synapse, Identity):
        synapse = synapse.as_conv(channels)
    if isinstance(synapse, Conv):
        weight = synapse.weight_oihw
        made = slayer.block.cuba.Conv(
            neuron_params(layer),
            weight.shape[1] * synapse.groups,
            weight.shape[0],
            weight.shape[2:],
            stride=synapse.stride,
            padding=synapse.padding,
            dilation=synapse.dilation,
            groups=synapse.groups,
            delay_shift=False,
        )
    else:
        assert isinstance(synapse, Dense)
        weight = synapse.weight_oi
        made = slayer.block.cuba.Dense(
            neuron_params(layer),
            weight.shape[1],
            weight.shape[0],
            delay=synapse.delay_oi is not None,
            delay_shift=False,
        )
        if synapse.delay_oi is not None:
            made.delay.delay.data = torch.tensor(synapse.delay_oi[:, 0], dtype=torch.float32)
            made.delay.init = True
    with torch.no_grad():
        values = torch.tensor(weight, dtype=torch.float32) / SCALE
        made.synapse.weight.copy_(values.reshape(made.synapse.weight.shape))
    if made.neuron.norm is not None:
        made.neuron.norm.pre_hook_fx = whole
        made.neuron.norm.running_mean = -torch.tensor(layer.bias, dtype=torch.float32) / SCALE
    return made


class Chain(torch.nn.Module):
    """Input block without neuron, convs, flatten, dense layers."""

    def __init__(self, blocks: list[torch.nn.Module]) -> None:
        super().__init__()
        self.blocks = torch.nn.ModuleList(blocks)

    @classmethod
    def of(cls, graph: Graph) -> Chain:
        blocks: list[torch.nn.Module] = [slayer.block.cuba.Input(delay_shift=False)]
        flat = graph.input.shape[1:] == (1, 1)
        for layer in graph.layers:
            if isinstance(layer.currents[0].synapse, Dense) and not flat:
                blocks.append(slayer.block.cuba.Flatten())
                flat = True
            blocks.append(block(layer, graph.shapes[layer.currents[0].source][0]))
        return cls(blocks).eval()

    def spikes(self, frames_ntchw: np.ndarray) -> np.ndarray:
        """Spikes of the last block (N, T, C, H, W); also fixes all shapes, as export needs it."""
        x = torch.tensor(np.moveaxis(frames_ntchw, 1, -1).astype(np.float32))
        first = next((made for made in self.blocks if hasattr(made, "synapse")), None)
        if isinstance(first, slayer.block.cuba.Dense) and x.shape[2:4] == (1, 1):
            x = x.reshape(len(x), -1, x.shape[-1])
        with torch.no_grad():
            for made in self.blocks:
                x = made(x)
        out = np.moveaxis(x.numpy(), -1, 1).astype(np.uint8)
        return out.reshape(*out.shape, *(1,) * (5 - out.ndim))

    def export(self, path: Path) -> None:
        """As lava-dl's examples do it: one numbered group a block."""
        with h5py.File(path, "w") as file:
            layers = file.create_group("layer")
            for index, made in enumerate(self.blocks):
                made.export_hdf5(layers.create_group(str(index)))


def datasets(path: Path) -> dict[str, tuple[str, tuple[int, ...], object]]:
    """Every dataset of a file by its path: type, shape, values."""
    found = {}

    def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = (str(item.dtype), item.shape, np.asarray(item[()]).tolist())

    with h5py.File(path, "r") as file:
        file.visititems(visit)
    return found
