"""Begin a run with the weights of another: block by block, wherever either of them is cut.

A spiking run passes its blocks on as they are, its encoder and decoder where they fit, but each
neuron decays as its own config says; an ANN all it has to another ANN, its convs and norms to a
spiking run. Its ReLU answers to any positive drive and a spike only to one above the threshold, so
each layer's gains and shifts are divided by the drive that a quarter of its neurons would exceed if
drives were normal: then a quarter of them fires from the start.
"""

from __future__ import annotations

import torch

from splitcore.errors import ConfigError
from training.baselines.ann import AnnBlock, AnnLayer
from training.baselines.split_ann import SplitAnn
from training.blocks import Block, NormedConv, SpikingLayer
from training.model import SplitModel

FIRING = 0.25  # share of neurons above the threshold when an ANN's weights arrive
LEAST_SCALE = 0.05


def begin(model: SplitModel | SplitAnn, parent: SplitModel | SplitAnn, name: str) -> None:
    """Copy the parent's weights. Raises ConfigError where the backbones are not of one shape."""
    try:
        match model, parent:
            case SplitModel(), SplitAnn():
                _from_ann(model, parent)
            case SplitModel(), SplitModel():
                _from_spiking(model, parent)
            case SplitAnn(), SplitAnn():
                model.load_state_dict(parent.state_dict())
                return
            case _:
                raise ValueError("it is spiking, and this one is not")
        model.readout.load_state_dict(parent.readout.state_dict())
    except (RuntimeError, ValueError) as error:
        first = " ".join(str(error).split())[:200]
        raise ConfigError(f"start: {name} is not of this model's shape ({first})") from None


def _from_spiking(model: SplitModel, parent: SplitModel) -> None:
    theirs = {**parent.edge, **parent.cloud}
    for name, block in {**model.edge, **model.cloud}.items():
        if name not in theirs:
            raise ValueError(f"it has no block {name}")
        _take(block, theirs[name])
    if parent.split == model.split and parent.code_shape == model.code_shape:
        for ours, other in ((model.encoder, parent.encoder), (model.decoder, parent.decoder)):
            if ours is not None and other is not None:
                _take(ours, other)


def _take(ours: torch.nn.Module, other: torch.nn.Module) -> None:
    """All of the other's state but what its neurons are."""
    own = {key: value for key, value in ours.state_dict().items() if "neuron" in key.split(".")}
    ours.load_state_dict({**other.state_dict(), **own})


def _from_ann(model: SplitModel, parent: SplitAnn) -> None:
    blocks = [*model.edge.values(), *model.cloud.values()]
    for block, other in zip(blocks, [*parent.edge, *parent.cloud], strict=True):
        assert isinstance(block, Block)
        assert isinstance(other, AnnBlock)
        for layer, ann in zip(block.layers.values(), other.layers, strict=True):
            assert isinstance(layer, SpikingLayer)
            assert isinstance(ann, AnnLayer)
            _layer_from_ann(layer, ann)


@torch.no_grad()
def _layer_from_ann(layer: SpikingLayer, ann: AnnLayer) -> None:
    for conv, other in zip(layer.convs, ann.convs, strict=True):
        assert isinstance(conv, NormedConv)
        assert isinstance(other, torch.nn.Sequential)
        weights, norm = other
        conv.synapse.weight.copy_(weights.weight[..., None])
        for ours, theirs in (
            (conv.gain, norm.weight),
            (conv.shift, norm.bias),
            (conv.mean, norm.running_mean),
            (conv.var, norm.running_var),
        ):
            assert isinstance(theirs, torch.Tensor)
            ours.copy_(theirs)
    scale = _drive_exceeded(layer, FIRING)
    for conv in layer.convs:
        conv.gain.div_(scale)
        conv.shift.div_(scale)


def _drive_exceeded(layer: SpikingLayer, share: float) -> float:
    """The drive that this share of neurons exceeds, were each channel's drive normal."""
    shift = torch.stack([conv.shift for conv in layer.convs]).sum(0)
    spread = torch.stack([conv.gain**2 for conv in layer.convs]).sum(0).sqrt()
    levels = (torch.arange(64, device=shift.device) + 0.5) / 64
    normal = torch.distributions.Normal(0.0, 1.0).icdf(levels)
    drives = shift[:, None] + spread[:, None] * normal
    return max(LEAST_SCALE, float(torch.quantile(drives, 1 - share)))
