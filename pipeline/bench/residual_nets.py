"""One residual network in other people's spiking layers: what `bench train` compares with.

Topology, widths, time steps and voltage decay are those of our backbone; each library brings its
own convolution, LIF and surrogate gradient, used the way its documentation shows. Libraries that
need their own package are imported where they are asked for.
"""

from __future__ import annotations

import importlib.metadata
from collections.abc import Callable
from typing import Any

import torch

from splitcore.splits import Backbone
from training import backbones
from training.stock import slayer

VOLTAGE_DECAY = 0.25


class StockSlayer(torch.nn.Module):
    """lava-dl: Conv3d synapses with 8-bit weights, mean-only norm, CUBA neurons; NCHWT."""

    def __init__(self, shapes: list[tuple[int, int, int, int]]) -> None:
        super().__init__()
        self.neuron = slayer.neuron.cuba.Neuron(
            threshold=1,
            current_decay=1,
            voltage_decay=VOLTAGE_DECAY,
            norm=slayer.neuron.norm.MeanOnlyBatchNorm,
        )
        self.synapses = torch.nn.ModuleList()
        for inputs, outputs, kernel, stride in shapes:
            synapse = slayer.synapse.Conv(
                inputs,
                outputs,
                kernel,
                stride=stride,
                padding=kernel // 2,
                pre_hook_fx=self.neuron.quantize_8bit,
            )
            # Without a variance norm the weights themselves have to make neurons fire.
            torch.nn.init.normal_(synapse.weight, std=3 * (inputs * kernel * kernel) ** -0.5)
            self.synapses.append(synapse)

    @staticmethod
    def chunks(frames_nchw: torch.Tensor, steps: int) -> list[torch.Tensor]:
        """Inputs of the passes that make one forward."""
        return [frames_nchw[..., None].expand(*frames_nchw.shape, steps).contiguous()]

    @staticmethod
    def rate(spikes: torch.Tensor) -> torch.Tensor:
        """Mean spikes (N, C) over space and time."""
        return spikes.mean((2, 3, 4))

    def forward(self, *events: torch.Tensor) -> torch.Tensor:
        """Spikes; an event tensor for each synapse, one more for an identity shortcut."""
        drive = sum(synapse(x) for synapse, x in zip(self.synapses, events, strict=False))
        if len(events) > len(self.synapses):
            drive = drive + events[-1]
        return self.neuron(drive)


class SnnTorch(torch.nn.Module):
    """snnTorch: Conv2d, BatchNorm2d and Leaky, one time step after the other."""

    def __init__(self, shapes: list[tuple[int, int, int, int]]) -> None:
        super().__init__()
        import snntorch

        self.synapses = torch.nn.ModuleList(
            torch.nn.Sequential(
                torch.nn.Conv2d(i, o, k, stride=stride, padding=k // 2, bias=False),
                torch.nn.BatchNorm2d(o),
            )
            for i, o, k, stride in shapes
        )
        self.neuron = snntorch.Leaky(beta=1 - VOLTAGE_DECAY, reset_mechanism="zero")
        self.membrane: torch.Tensor | None = None

    @staticmethod
    def chunks(frames_nchw: torch.Tensor, steps: int) -> list[torch.Tensor]:
        """Inputs of the passes that make one forward."""
        return [frames_nchw] * steps

    @staticmethod
    def rate(spikes: torch.Tensor) -> torch.Tensor:
        """Mean spikes (N, C) over space."""
        return spikes.mean((2, 3))

    def reset(self) -> None:
        """Start a new sample."""
        self.membrane = self.neuron.init_leaky()

    def forward(self, *events: torch.Tensor) -> torch.Tensor:
        """Spikes of one step."""
        drive = sum(synapse(x) for synapse, x in zip(self.synapses, events, strict=False))
        if len(events) > len(self.synapses):
            drive = drive + events[-1]
        spikes, self.membrane = self.neuron(drive, self.membrane)
        return spikes


class SpikingJelly(torch.nn.Module):
    """SpikingJelly in multi-step mode: time folded into the batch for Conv2d and BatchNorm2d."""

    def __init__(self, shapes: list[tuple[int, int, int, int]]) -> None:
        super().__init__()
        from spikingjelly.activation_based import layer, neuron

        self.synapses = torch.nn.ModuleList(
            torch.nn.Sequential(
                layer.Conv2d(i, o, k, stride=stride, padding=k // 2, bias=False, step_mode="m"),
                layer.BatchNorm2d(o, step_mode="m"),
            )
            for i, o, k, stride in shapes
        )
        self.neuron = neuron.LIFNode(
            tau=1 / VOLTAGE_DECAY,
            decay_input=False,
            v_reset=0.0,
            detach_reset=True,
            step_mode="m",
            backend="torch",
        )

    @staticmethod
    def chunks(frames_nchw: torch.Tensor, steps: int) -> list[torch.Tensor]:
        """Inputs of the passes that make one forward."""
        return [frames_nchw.expand(steps, *frames_nchw.shape).contiguous()]

    @staticmethod
    def rate(spikes: torch.Tensor) -> torch.Tensor:
        """Mean spikes (N, C) over space and time."""
        return spikes.mean((0, 3, 4))

    def reset(self) -> None:
        """Start a new sample."""
        self.neuron.reset()

    def forward(self, *events: torch.Tensor) -> torch.Tensor:
        """Spikes (T, N, C, H, W)."""
        drive = sum(synapse(x) for synapse, x in zip(self.synapses, events, strict=False))
        if len(events) > len(self.synapses):
            drive = drive + events[-1]
        return self.neuron(drive)


PEERS: dict[str, tuple[str, type[torch.nn.Module]]] = {
    "snntorch": ("snntorch", SnnTorch),
    "spikingjelly": ("spikingjelly", SpikingJelly),
}
"""Distribution and layer of the libraries that are not ours to depend on."""


def version(distribution: str) -> str | None:
    """The installed version, or None."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


class ResidualNet(torch.nn.Module):
    """A backbone of basic blocks made of `layer`; forward takes pixels 0 … 1 (N, C, H, W)."""

    def __init__(
        self,
        layer: Callable[[list[tuple[int, int, int, int]]], Any],
        backbone: Backbone,
        *,
        width: int,
        channels: int,
        classes: int,
        steps: int,
    ) -> None:
        super().__init__()
        self.steps = steps
        self.layers = torch.nn.ModuleList()
        for block in backbone.blocks:
            out = backbones.scaled(block.channels, backbone, width)
            if block.kind == "stem":
                self.layers.append(layer([(channels, out, 3, 1)]))
            elif block.kind == "basic":
                self.layers.append(layer([(channels, out, 3, block.stride)]))
                joined = [(out, out, 3, 1)]
                if block.stride > 1 or channels != out:
                    joined.append((channels, out, 1, block.stride))
                self.layers.append(layer(joined))
            else:
                raise AssertionError(f"no basic block: {block.kind}")
            channels = out
        self.readout = torch.nn.Linear(channels, classes)

    def forward(self, frames_nchw: torch.Tensor) -> torch.Tensor:
        """Scores (N, classes)."""
        stem, *rest = self.layers
        for layer in self.layers:
            if hasattr(layer, "reset"):
                layer.reset()
        rates = []
        for events in stem.chunks(frames_nchw, self.steps):
            hidden = stem(events)
            for first, second in zip(rest[::2], rest[1::2], strict=True):
                hidden = second(first(hidden), hidden)
            rates.append(stem.rate(hidden))
        return self.readout(torch.stack(rates).mean(0))
