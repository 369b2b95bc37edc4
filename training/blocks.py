"""SLAYER synapses and neurons with batch norm folded into 8-bit integers while they train.

    source ── SLAYER conv ── norm ──┐
                                    ├─ (currents add) ── LIF ── spikes
    source ── SLAYER conv ── norm ──┘        (shortcut: a conv of its own, or the identity)

A LIF does not change when all its currents, its bias and its threshold are multiplied by one
number. That number q is free for each LIF; with W' = W·γ/σ and b' = β − μ·γ/σ folded,

    w = even integer nearest q·W',   bias = round(q·b'),   threshold = round(q·θ)

and q as large as lets the biggest weight reach 254 while bias, threshold and, for graded pixels,
the 24-bit state stay in their ranges. So nothing is ever clipped. `Norm.FLOAT` trains with batch
statistics and rounded weights; `Norm.FOLDED` (and every evaluation) runs the integers themselves.

Tensors are (T·N, C, H, W), time slowest: time is folded into the batch.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from splitcore.bundle import possible
from splitcore.errors import ConfigError
from splitcore.graph import (
    BIAS_MAX,
    DECAY_UNITY,
    STATE_LIMIT,
    STATE_SHIFT,
    THRESHOLD_MAX,
    WEIGHT_MAX,
    Conv,
    ConvTranspose,
    Current,
    Identity,
    Lif,
    Shape,
    Synapse,
)
from training import backward_steps, taps
from training.byte_conv import byte_conv
from training.lif import (
    SCALE_RHO_MULT,
    TAU_RHO_MULT,
    BatchNorm,
    LifParameters,
    fast_dtype,
    normed_lif,
)
from training.stock import slayer

EPS = 1e-5
VARIANCE_FLOOR = 0.01  # of the median channel's
MOMENTUM = 0.1


class Norm(enum.Enum):
    """How a layer normalises while it trains."""

    FLOAT = "float"  # batch statistics, shared over time steps
    FOLDED = "folded"  # frozen statistics, folded into the integers


@dataclass(frozen=True)
class NeuronConfig:
    """CUBA neuron without synaptic filter, in SLAYER's own parameters; the threshold is 1."""

    voltage_decay: float = 0.25
    tau_grad: float = 0.005
    scale_grad: float = 10.0


def round_even(values: torch.Tensor) -> torch.Tensor:
    """Nearest even integer, with the gradient of the identity."""
    return values + (2 * torch.round(values.detach() / 2) - values.detach())


def round_integer(values: torch.Tensor) -> torch.Tensor:
    """Nearest integer, with the gradient of the identity."""
    return values + (torch.round(values.detach()) - values.detach())


@dataclass(frozen=True)
class Folded:
    """The integers of one layer as tensors: what FOLDED runs and what lowering copies."""

    weights: tuple[torch.Tensor, ...]
    bias: torch.Tensor
    threshold: int
    identity: int


class NormedConv(torch.nn.Module):
    """A SLAYER conv synapse (or its transpose) and the batch norm that is folded into it."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        groups: int = 1,
        output_padding: tuple[int, int] | None = None,
    ) -> None:
        super().__init__()
        self.transpose = output_padding is not None
        self.output_padding = output_padding or (0, 0)
        self.kernel, self.stride, self.padding, self.groups = kernel, stride, kernel // 2, groups
        kind = slayer.synapse.ConvTranspose if self.transpose else slayer.synapse.Conv
        self.synapse = kind(
            in_channels, out_channels, kernel, stride=stride, padding=kernel // 2, groups=groups
        )
        fan_in = in_channels // groups * kernel * kernel
        torch.nn.init.normal_(self.synapse.weight, std=fan_in**-0.5)
        self.gain = torch.nn.Parameter(torch.ones(out_channels))
        self.shift = torch.nn.Parameter(torch.zeros(out_channels))
        self.mean: torch.Tensor
        self.var: torch.Tensor
        self.register_buffer("mean", torch.zeros(out_channels))
        self.register_buffer("var", torch.ones(out_channels))

    @property
    def weight(self) -> torch.Tensor:
        """The kernel without SLAYER's time axis: OIHW, or IOHW when transposed."""
        return self.synapse.weight.squeeze(-1)

    def per_output(self, values: torch.Tensor) -> torch.Tensor:
        """A per-channel vector shaped to multiply the kernel."""
        return values[None, :, None, None] if self.transpose else values[:, None, None, None]

    def epsilon(self) -> torch.Tensor:
        """What is added to each channel's variance (O,): batch norm's own epsilon, and more where a
        channel hardly varies. Its weights would else be so large that q leaves none to the others.
        """
        return EPS + (VARIANCE_FLOOR * self.var.median() - self.var).clamp(min=0)

    def normed_gain(self) -> torch.Tensor:
        """γ/σ of each channel (O,) under the running statistics."""
        return self.gain * torch.rsqrt(self.var + self.epsilon())

    def folded(self) -> tuple[torch.Tensor, torch.Tensor]:
        """W' and b' under the running statistics."""
        scale = self.normed_gain()
        return self.weight * self.per_output(scale), self.shift - self.mean * scale

    def convolve(
        self, events: torch.Tensor, weight: torch.Tensor, gradient: torch.dtype, chosen: slice
    ) -> torch.Tensor:
        """The synaptic sums of whole events (M, C, H, W) and even weights, in the events' dtype.

        gradient: the dtype that gradients may be convolved in; chosen: the rows that have one. The
        sums do not depend on either.
        """
        stride, padding = (self.stride, self.stride), (self.padding, self.padding)
        if self.transpose:
            extra = self.output_padding
            weight = taps.reached_transposed(weight, events.shape, stride, padding, extra)
            return F.conv_transpose2d(events, weight.to(events.dtype), None, stride, padding, extra)
        return byte_conv(events, weight, stride, padding, self.groups, gradient, chosen)

    def output_shape(self, source: Shape) -> Shape:
        """(C, H, W) of the sums that a source of this shape causes, without any weights.

        Not of a transposed conv. Raises ConfigError where no layer may be as large.
        """
        height, width = (
            (size + 2 * self.padding - self.kernel) // self.stride + 1 for size in source[1:]
        )
        try:
            shape = possible((len(self.gain), height, width))
        except ValueError as error:
            raise ConfigError(f"model: a layer of {error}; lower model.width") from None
        return shape[0], shape[1], shape[2]

    def observe(self, mean: torch.Tensor, variance: torch.Tensor, count: int) -> None:
        """Move the running statistics towards those of a batch of `count` values a channel."""
        self.mean.lerp_(mean, MOMENTUM)
        self.var.lerp_(variance * (count / max(1, count - 1)), MOMENTUM)

    def record(self, weight: np.ndarray) -> Synapse:
        """The integer record of this synapse."""
        stride, padding = (self.stride, self.stride), (self.padding, self.padding)
        if self.transpose:
            return ConvTranspose(weight, stride, padding, self.output_padding)
        return Conv(weight, stride, padding, groups=self.groups)


class SpikingLayer(torch.nn.Module):
    """LIF neurons driven by one or more normed convs, and by an identity shortcut where asked for.

    input_max: the largest value of an event: 1 for spikes, 63 for 6-bit pixels. Graded events are
    divided by it, so that weights of all layers are of one size.
    """

    def __init__(
        self,
        convs: Sequence[NormedConv],
        neuron: NeuronConfig,
        *,
        identity: bool = False,
        input_max: int = 1,
    ) -> None:
        super().__init__()
        self.convs = torch.nn.ModuleList(convs)
        self.identity, self.input_max = identity, input_max
        self.neuron = slayer.neuron.cuba.Neuron(
            threshold=1,
            current_decay=1,
            voltage_decay=neuron.voltage_decay,
            tau_grad=neuron.tau_grad,  # pyright: ignore[reportArgumentType]
            scale_grad=neuron.scale_grad,  # pyright: ignore[reportArgumentType]
        )
        self.norm = Norm.FLOAT
        self.precise = False  # float32 also where bfloat16 would do
        self.set_steps(1)
        self.rate: torch.Tensor | None = None  # mean of the last forward, kept in the graph

    def output_shape(self, source: Shape) -> Shape:
        """(C, H, W) of the spikes under a source of this shape; shortcuts give the same."""
        first = self.convs[0]
        assert isinstance(first, NormedConv)
        return first.output_shape(source)

    @property
    def voltage_decay(self) -> int:
        """Of 4096."""
        return int(self.neuron.cx_voltage_decay)

    def set_steps(self, steps: int) -> None:
        """Run this many time steps from now on, all of them with gradients."""
        self.steps = steps
        self.backward_steps = range(steps)  # neighbours (training.backward_steps)

    def scale_of(self, folded: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """q of these W' and b': see the module's docstring. It is even: an identity's weight.

        Below 2 where none fits. Raises ConfigError for what is not finite.
        """
        largest = max(float(weight.abs().max()) for weight, _ in folded) / self.input_max
        bias = torch.stack([bias for _, bias in folded]).sum(0)
        limits = [
            WEIGHT_MAX / max(largest, 1e-9),
            float(THRESHOLD_MAX),
            BIAS_MAX / max(float(bias.abs().max()), 1e-9),
            self._state_limit(folded, bias),
        ]
        if self.identity:
            limits.append(float(WEIGHT_MAX))
        if not all(math.isfinite(limit) for limit in limits):
            raise ConfigError("recipe: weights are no longer finite; lower learning_rate")
        return 2.0 * int(min(limits) / 2)

    def _scale(self, folded: Sequence[tuple[torch.Tensor, torch.Tensor]]) -> float:
        """q of these W' and b'. Raises ConfigError where their integers cannot be."""
        scale = self.scale_of(folded)
        if scale < 2:
            shapes = ", ".join(str(tuple(conv.weight.shape)) for conv in self.convs)
            raise ConfigError(
                f"recipe: a layer with weights of shape {shapes} fits no 8-bit integers any more, "
                "its inputs being silent or its weights too large; lower learning_rate"
            )
        return scale

    def _state_limit(
        self, folded: Sequence[tuple[torch.Tensor, torch.Tensor]], bias: torch.Tensor
    ) -> float:
        """The largest q under which no input can take u or v out of 24 bits (splitcore.bounds).

        A voltage that never spikes decays by `keep` a step, so inhibition adds up to a geometric
        sum over the steps. Rounding may add one to each weight.
        """
        keep = 1 - self.voltage_decay / DECAY_UNITY
        reach = sum(keep**step for step in range(self.steps))
        excite, inhibit, slack = bias.clamp(min=0), (-bias).clamp(min=0), 2.0
        for conv, (weight, _) in zip(self.convs, folded, strict=True):
            inputs = (0, 2, 3) if conv.transpose else (1, 2, 3)
            excite = excite + weight.clamp(min=0).sum(inputs)
            inhibit = inhibit + (-weight).clamp(min=0).sum(inputs)
            slack += weight.numel() / len(bias) * self.input_max
        room = (STATE_LIMIT >> STATE_SHIFT) - 1
        up = float(excite.max()) + (1 if self.identity else 0) + keep  # v decays from θ = 1 at most
        down = float(inhibit.max()) * reach
        return min((room - slack) / max(up, 1e-9), (room - slack * reach) / max(down, 1e-9))

    def folded(self) -> Folded:
        """The integers of this layer under its running statistics, differentiable."""
        pairs = [conv.folded() for conv in self.convs]
        with torch.no_grad():
            scale = self._scale(pairs)
        weights = tuple(round_even(weight * (scale / self.input_max)) for weight, _ in pairs)
        bias = round_integer(torch.stack([bias for _, bias in pairs]).sum(0) * scale)
        return Folded(weights, bias, int(scale), int(scale) if self.identity else 0)

    def _parameters_of_lif(self, threshold: float, state_scale: int) -> LifParameters:
        neuron = self.neuron
        return LifParameters(
            threshold=threshold,
            voltage_decay=self.voltage_decay,
            tau=neuron.tau_rho * TAU_RHO_MULT / neuron.threshold,
            scale=neuron.scale_rho * SCALE_RHO_MULT,
            state_scale=state_scale,
        )

    def forward(self, *events: torch.Tensor) -> torch.Tensor:
        """Spikes of this layer; one tensor of events for each conv, one more for the identity."""
        if self.training and self.norm is Norm.FLOAT:
            spikes, rate = self._forward_float(*events)
        else:
            spikes, rate = self._forward_integers(*events)
        self.rate = rate if self.training else None
        return spikes

    def _forward_float(self, *events: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Batch statistics over the sums of the even weights that the integers would have now.

        Whole weights up to 254, spikes and pixels are exact in bfloat16; the sums are not, and
        need not be while statistics still move.
        """
        with torch.no_grad():
            scale = self._scale([conv.folded() for conv in self.convs]) / self.input_max
        dtype = torch.float32 if self.precise else fast_dtype(events[0].device)
        chosen = backward_steps.rows(self.backward_steps, self.steps, events[0])
        sums, norms, units = [], [], []
        for conv, source in zip(self.convs, events, strict=False):
            with torch.no_grad():
                unit, epsilon = conv.normed_gain() * scale, conv.epsilon()
                unit = torch.where(unit.abs() < 1e-9, 1e-9, unit)
            weight = round_even(conv.weight * conv.per_output(unit))
            unit = unit * self.input_max
            sums.append(conv.convolve(source.to(dtype), weight, dtype, chosen))
            # Batch norm does not see the unit of its input, except beside its epsilon.
            norms.append(
                BatchNorm(conv.gain * unit.sign(), epsilon * unit * unit, conv.mean * unit)
            )
            units.append(unit)
        spikes, rate, moments = normed_lif(
            sums,
            norms,
            torch.stack([conv.shift for conv in self.convs]).sum(0),
            events[-1] if self.identity else None,
            identity=1.0,
            steps=self.steps,
            parameters=self._parameters_of_lif(1.0, 0),
            chosen=self.backward_steps,
        )
        for conv, unit, found in zip(self.convs, units, moments, strict=True):
            conv.observe(found.mean / unit, found.variance / (unit * unit), sums[0][:, 0].numel())
        return spikes, rate

    def _forward_integers(self, *events: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        integers = self.folded()
        gradient = torch.float32 if self.precise else fast_dtype(events[0].device)
        chosen = backward_steps.rows(self.backward_steps, self.steps, events[0])
        with torch.autocast(events[0].device.type, enabled=False):  # sums must stay exact
            sums = [
                conv.convolve(source.float(), weight, gradient, chosen)
                for conv, weight, source in zip(self.convs, integers.weights, events, strict=False)
            ]
        spikes, rate, _ = normed_lif(
            sums,
            [],
            integers.bias,
            events[-1] if self.identity else None,
            identity=integers.identity,
            steps=self.steps,
            parameters=self._parameters_of_lif(integers.threshold, 1 << STATE_SHIFT),
            chosen=self.backward_steps,
        )
        return spikes, rate

    def record(self, name: str, sources: Sequence[str]) -> Lif:
        """Copy the integers into a record; sources name what `forward` is given."""
        with torch.no_grad():
            integers = self.folded()
        currents = [
            Current(source, conv.record(_int32(weight)))
            for conv, weight, source in zip(self.convs, integers.weights, sources, strict=False)
        ]
        if self.identity:
            currents.append(Current(sources[-1], Identity(integers.identity)))
        return Lif(
            name=name,
            currents=tuple(currents),
            bias=_int32(integers.bias),
            threshold=integers.threshold,
            voltage_decay=self.voltage_decay,
            current_decay=DECAY_UNITY,
        )


def _int32(values: torch.Tensor) -> np.ndarray:
    return values.detach().cpu().numpy().astype(np.int32)


Emit = Callable[[str, SpikingLayer, Sequence[str]], str]
"""Called for each layer in order with its local name, the layer and the names of its sources."""


class Block(torch.nn.Module):
    """A row of spiking layers with a shortcut where it has one; split logic has no place here."""

    def __init__(self, layers: dict[str, SpikingLayer], shortcut: bool) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleDict(layers)
        self.shortcut = shortcut  # whether the last layer also takes the block's own input

    def forward(self, events: torch.Tensor) -> torch.Tensor:
        """Spikes of the last layer."""
        hidden, last = events, len(self.layers) - 1
        for index, layer in enumerate(self.layers.values()):
            hidden = layer(hidden, events) if self.shortcut and index == last else layer(hidden)
        return hidden

    def output_shape(self, source: Shape) -> Shape:
        """(C, H, W) of the last layer's spikes under a source of this shape."""
        for layer in self.layers.values():
            assert isinstance(layer, SpikingLayer)
            source = layer.output_shape(source)
        return source

    def lower(self, source: str, emit: Emit) -> str:
        """Emit every layer's record; returns the name of the last one."""
        hidden, last = source, len(self.layers) - 1
        for index, (name, layer) in enumerate(self.layers.items()):
            assert isinstance(layer, SpikingLayer)
            sources = (hidden, source) if self.shortcut and index == last else (hidden,)
            hidden = emit(name, layer, sources)
        return hidden
