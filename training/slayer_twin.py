"""A frozen, stock SLAYER network that holds the integers of a graph: lava-dl itself as oracle.

Every synapse is `slayer.synapse.Conv`/`Dense` with weight w/64 under SLAYER's own quantiser, every
neuron `slayer.neuron.cuba.Neuron` with threshold vth/64; nothing of ours computes a spike. SLAYER's
mean-only norm carries the bias; its rounding (even, −256 … 254) is replaced by one to whole
integers, because folded biases are larger (the chip takes 13 bits).
"""

from __future__ import annotations

import functools

import numpy as np
import torch

from splitcore.errors import GraphError
from splitcore.graph import DECAY_UNITY, Conv, ConvTranspose, Current, Dense, Graph, Identity, Lif
from training.stock import slayer

SCALE = 64  # SLAYER's w_scale


def _whole(values: torch.Tensor, descale: bool = False) -> torch.Tensor:
    whole = torch.round(values * SCALE)
    return whole if descale else whole / SCALE


def _neuron(layer: Lif) -> torch.nn.Module:
    neuron = slayer.neuron.cuba.Neuron(
        threshold=layer.threshold / SCALE,
        current_decay=layer.current_decay / DECAY_UNITY,
        voltage_decay=layer.voltage_decay / DECAY_UNITY,
        norm=functools.partial(slayer.neuron.norm.MeanOnlyBatchNorm, num_features=len(layer.bias)),
    )
    neuron.norm.pre_hook_fx = _whole
    neuron.norm.running_mean = -torch.tensor(layer.bias, dtype=torch.float32) / SCALE
    return neuron


def _synapse(
    layer: Lif, current: Current, channels: int, neuron: torch.nn.Module
) -> torch.nn.Module:
    synapse = current.synapse
    if isinstance(synapse, Identity):
        synapse = synapse.as_conv(channels)
    match synapse:
        case Conv(weight_oihw=weight):
            module = slayer.synapse.Conv(
                weight.shape[1] * synapse.groups,
                weight.shape[0],
                weight.shape[2:],
                stride=synapse.stride,
                padding=synapse.padding,
                dilation=synapse.dilation,
                groups=synapse.groups,
            )
        case ConvTranspose(weight_iohw=weight) if synapse.output_padding == (0, 0):
            module = slayer.synapse.ConvTranspose(
                weight.shape[0],
                weight.shape[1],
                weight.shape[2:],
                stride=synapse.stride,
                padding=synapse.padding,
            )
        case Dense(weight_oi=weight, delay_oi=None):
            module = slayer.synapse.Dense(weight.shape[1], weight.shape[0])
        case Dense():
            raise GraphError(
                f"layer {layer.name}: SLAYER's dense synapses have no delay each; hold this "
                "network against the reference or stock Lava instead"
            )
        case ConvTranspose():
            raise GraphError(
                f"layer {layer.name}: SLAYER's transposed convolution has no output padding, got "
                f"{synapse.output_padding}; choose a stride that needs none"
            )
        case _:
            raise GraphError(f"layer {layer.name}: SLAYER has no {type(synapse).__name__}")
    module.pre_hook_fx = neuron.quantize_8bit
    with torch.no_grad():
        values = torch.tensor(np.asarray(weight), dtype=torch.float32) / SCALE
        module.weight.copy_(values.reshape(module.weight.shape))
    return module


class SlayerTwin(torch.nn.Module):
    """Stock SLAYER modules in the topology of a graph; forward takes frames (N, C, H, W, T)."""

    def __init__(self, graph: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.neurons = torch.nn.ModuleList(_neuron(layer) for layer in graph.layers)
        self.synapses = torch.nn.ModuleList(
            torch.nn.ModuleList(
                _synapse(layer, current, graph.shapes[current.source][0], neuron)
                for current in layer.currents
            )
            for layer, neuron in zip(graph.layers, self.neurons, strict=True)
        )
        self.eval()

    def forward(self, frames_nchwt: torch.Tensor) -> dict[str, torch.Tensor]:
        """Spikes (N, C, H, W, T) of every layer by name."""
        outputs = {self.graph.input.name: frames_nchwt}
        for layer, neuron, synapses in zip(
            self.graph.layers, self.neurons, self.synapses, strict=True
        ):
            drive: torch.Tensor | int = 0
            for current, synapse in zip(layer.currents, synapses.children(), strict=True):
                events = outputs[current.source]
                if isinstance(current.synapse, Dense) and events.shape[2:4] != (1, 1):
                    events = events.flatten(1, 3)[:, :, None, None]
                drive = drive + synapse(events)
            outputs[layer.name] = neuron(drive)
        del outputs[self.graph.input.name]
        return outputs


def build(graph: Graph) -> SlayerTwin:
    """The stock SLAYER network of these integers. Raises GraphError for what SLAYER lacks."""
    return SlayerTwin(graph)


def run(graph: Graph, frames_ntchw: np.ndarray, batch: int = 32) -> dict[str, np.ndarray]:
    """Spikes uint8 (N, T, C, H, W) of every layer, by SLAYER's own quantised forward."""
    twin = build(graph)
    parts: dict[str, list[np.ndarray]] = {layer.name: [] for layer in graph.layers}
    with torch.no_grad():
        for start in range(0, len(frames_ntchw), batch):
            chunk = np.moveaxis(frames_ntchw[start : start + batch], 1, -1)
            frames = torch.from_numpy(np.ascontiguousarray(chunk)).float()
            for name, spikes in twin(frames).items():
                parts[name].append(np.moveaxis(spikes.numpy(), -1, 1).astype(np.uint8))
    return {name: np.concatenate(chunks) for name, chunks in parts.items()}
