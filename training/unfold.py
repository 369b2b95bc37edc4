"""From integers back to weights that train: begin with what a bundle holds.

Folding gives a layer w = q·W′ and bias = q·b′. Here W′ and b′ become its weights again, and the
norm that was folded away gets the statistics that W′ has on real images, so that it changes
nothing until training moves it: γ = √(σ² + ε), β = b′ + μ. Folding such a layer gives its integers
back, every one of them, where they stay in 24 bits for as many steps as the model runs, its neurons
decaying as the model's do and not as the record's. Where a slower decay or more steps leave them no
room, q falls to what fits, and the same reals are rounded to that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import torch
import torch.nn.functional as F

from splitcore.errors import ConfigError
from splitcore.graph import Conv, ConvTranspose, Identity, Lif
from splitcore.splits import DECODER, ENCODER
from training import evaluate
from training.blocks import EPS, Block, NormedConv, SpikingLayer
from training.model import SplitModel

WEIGHT_ROOM, BIAS_ROOM = 0.99, 0.4  # of the one and the half that rounding swallows
FLOAT_ROOM = 1e-5  # relative; what the norm's float32 arithmetic may move
BISECTIONS = 40


def begin_with_integers(
    model: SplitModel,
    records: Mapping[str, Lif],
    readout: tuple[np.ndarray, np.ndarray],
    images: np.ndarray,
    name: str,
) -> None:
    """Copy the layers of these names, wherever either network is cut, and the readout.

    Encoder and decoder are taken where they fit; decays are the model's own, as they are when it
    begins with a run. images: uint8 (N, C, H, W) of training, for the
    statistics. Raises ConfigError where the backbones are not of one shape.
    """
    layers = require_shape(model, records, readout, name)
    weight, bias = (torch.from_numpy(part) for part in readout)
    with torch.no_grad():
        for key, layer in layers.items():
            _copy(layer, records[key])
        model.readout.weight.copy_(weight)
        model.readout.bias.copy_(bias)
    _settle(model, list(layers.values()), images)


def require_shape(
    model: SplitModel,
    records: Mapping[str, Lif],
    readout: tuple[np.ndarray, np.ndarray],
    name: str,
) -> dict[str, SpikingLayer]:
    """The layers that can begin with the records of their names.

    Raises ConfigError where one outside the codec cannot, or the readout.
    """
    layers = _named(model)
    fitting = {
        key: layer for key, layer in layers.items() if key in records and _fits(layer, records[key])
    }
    missing = [key for key in layers if key not in {*fitting, ENCODER, DECODER}]
    if missing or readout[0].shape != tuple(model.readout.weight.shape):
        what = missing[0] if missing else "readout"
        raise ConfigError(f"start: {name} is not of this model's shape ({what})")
    return fitting


def _named(model: SplitModel) -> dict[str, SpikingLayer]:
    """Layers by the names of their records."""
    layers: dict[str, SpikingLayer] = {}
    for block_name, block in {**model.edge, **model.cloud}.items():
        assert isinstance(block, Block)
        for name, layer in block.layers.items():
            assert isinstance(layer, SpikingLayer)
            layers[f"{block_name.replace('/', '.')}.{name}"] = layer
    ends = {ENCODER: model.encoder, DECODER: model.decoder}
    return layers | {name: layer for name, layer in ends.items() if layer is not None}


def _kernels(record: Lif) -> list[np.ndarray]:
    """Integer kernels of a record's convs, in order; an identity has none."""
    found = []
    for current in record.currents:
        match current.synapse:
            case Conv(weight_oihw=weight) | ConvTranspose(weight_iohw=weight):
                found.append(weight)
            case _:
                continue
    return found


def _fits(layer: SpikingLayer, record: Lif) -> bool:
    """Whether the same convs, of one stride and kernel and direction, drive both."""
    ours = [
        (conv.transpose, (conv.stride, conv.stride), tuple(conv.weight.shape))
        for conv in layer.convs
        if isinstance(conv, NormedConv)
    ]
    synapses = [current.synapse for current in record.currents]
    identity = any(isinstance(synapse, Identity) for synapse in synapses)
    theirs = [
        (isinstance(synapse, ConvTranspose), synapse.stride, kernel.shape)
        for synapse, kernel in zip(
            [each for each in synapses if isinstance(each, Conv | ConvTranspose)],
            _kernels(record),
            strict=True,
        )
    ]
    return ours == theirs and identity == layer.identity


def _copy(layer: SpikingLayer, record: Lif) -> None:
    pairs = _reals(layer, record)
    for conv, (weight, bias) in zip(layer.convs, pairs, strict=True):
        assert isinstance(conv, NormedConv)
        conv.synapse.weight.copy_(weight[..., None])
        conv.gain.fill_((1 + EPS) ** 0.5)
        conv.var.fill_(1.0)
        conv.mean.fill_(0.0)
        conv.shift.copy_(bias)


def _reals(layer: SpikingLayer, record: Lif) -> list[tuple[torch.Tensor, torch.Tensor]]:
    """W' and b' of each conv that fold into just these integers.

    Integers over q need not: where the largest weight had been rounded down, a larger q fits. All
    magnitudes together move within what rounding swallows until q is the record's again; the reals
    that were rounded once lie between the two ends.
    """
    q = record.threshold  # the trained threshold is 1
    kernels = [torch.from_numpy(kernel.astype(np.float32)) for kernel in _kernels(record)]
    bias = torch.from_numpy(record.bias.astype(np.float32))

    def moved(by: float, factor: float = 1.0) -> list[tuple[torch.Tensor, torch.Tensor]]:
        shift = (bias + by * BIAS_ROOM * bias.sign()) * (factor / q)
        unit = factor * layer.input_max / q
        return [
            (
                (kernel + by * WEIGHT_ROOM * kernel.sign()) * unit,
                shift if index == 0 else torch.zeros_like(shift),
            )
            for index, kernel in enumerate(kernels)
        ]

    by, low, high = 0.0, -1.0, 1.0
    for _ in range(BISECTIONS):
        if layer.scale_of(moved(by, 1 + FLOAT_ROOM)) < q:
            high = by
        elif layer.scale_of(moved(by, 1 - FLOAT_ROOM)) > q:
            low = by
        else:
            break
        by = (low + high) / 2
    return moved(by)


def _settle(model: SplitModel, layers: list[SpikingLayer], images: np.ndarray) -> None:
    """Give every norm the statistics of its sums on these images, without changing what it does."""

    def note(layer: SpikingLayer) -> Callable[..., None]:
        def before(_module: torch.nn.Module, events: tuple[torch.Tensor, ...]) -> None:
            for conv, source in zip(layer.convs, events, strict=False):
                assert isinstance(conv, NormedConv)
                variance, mean = torch.var_mean(_sums(conv, source, layer.input_max), (0, 2, 3))
                conv.mean.copy_(mean)
                conv.var.copy_(variance)
                conv.gain.copy_((variance + conv.epsilon()).sqrt())
                conv.shift.add_(mean)

        return before

    hooks = [layer.register_forward_pre_hook(note(layer)) for layer in layers]
    try:
        with torch.no_grad():
            evaluate.answers(model, images, batch=len(images))
    finally:
        for hook in hooks:
            hook.remove()


def _sums(conv: NormedConv, source: torch.Tensor, input_max: int) -> torch.Tensor:
    events = source.float() / input_max
    if conv.transpose:
        return F.conv_transpose2d(
            events,
            conv.weight,
            stride=conv.stride,
            padding=conv.padding,
            output_padding=conv.output_padding,
        )
    return F.conv2d(events, conv.weight, None, conv.stride, conv.padding, groups=conv.groups)
