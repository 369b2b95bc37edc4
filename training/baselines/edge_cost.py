"""What a baseline computes on the edge for one image, layer by layer, as `measure.dense` prices it.

Counted like the dense twin of a spiking edge half: a connection at the border of the map reaches
fewer targets, batch norm is folded into weights and one bias a channel, and the connections of a
shortcut belong to the layer that they meet.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.nn import functional

from measure.dense import DenseLayer
from training.baselines.ann import AnnLayer
from training.baselines.codec import FeatureCodec
from training.baselines.jpeg import JpegUpload
from training.baselines.split_ann import SplitAnn

PIXEL_BITS = 8


def edge_layers(model: SplitAnn, image_shape: tuple[int, ...]) -> list[DenseLayer]:
    """The layers of the edge half and its encoder; of the whole network where it is not cut."""
    found: list[DenseLayer] = []

    def record(
        name: str, module: torch.nn.Module, inputs: tuple[torch.Tensor, ...], out: torch.Tensor
    ) -> None:
        match module:
            case AnnLayer():
                convs = [conv[0] for conv in module.convs if isinstance(conv, torch.nn.Sequential)]
                connected = [
                    _conv(conv, source, out) for conv, source in zip(convs, inputs, strict=False)
                ]
                if module.identity:
                    size = inputs[-1].numel()
                    connected.append((size, 1, size, size + out.numel()))
            case torch.nn.Conv2d():
                connected = [_conv(module, inputs[0], out)]
            case torch.nn.Linear():
                weights = module.weight.numel()
                connected = [(weights, weights, inputs[0].numel(), weights)]
            case _:
                raise AssertionError(type(module).__name__)
        macs, weights, sources, addresses = (sum(column) for column in zip(*connected, strict=True))
        found.append(DenseLayer(name, macs, weights, sources, out.numel(), out.shape[1], addresses))

    hooks = [module.register_forward_hook(partial(record, name)) for name, module in _layers(model)]
    try:
        _walk(model, image_shape)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def raw_bits(model: SplitAnn, image_shape: tuple[int, ...]) -> int:
    """Bits of what is sent for one image before anything squeezes it."""
    match model.codec:
        case FeatureCodec():
            return model.codec.value_bits * _walk(model, image_shape).numel()
        case JpegUpload():
            return PIXEL_BITS * int(torch.Size(image_shape).numel())
        case None:
            return 8 * model.class_bytes


def _layers(model: SplitAnn) -> list[tuple[str, torch.nn.Module]]:
    """Name and module of everything on the edge that multiplies."""
    whole = model.codec is None
    return [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, (AnnLayer, torch.nn.Conv2d, torch.nn.Linear))
        and (whole or name.startswith(("edge.", "codec.encoder.")))
        and ".convs." not in name  # inside an AnnLayer
    ]


@torch.no_grad()
def _walk(model: SplitAnn, image_shape: tuple[int, ...]) -> torch.Tensor:
    """An empty image through the edge half: the code, or the scores of a whole network."""
    was_training = model.training
    model.eval()  # or norms would learn from it
    features = model.edge(_blank(model, image_shape))
    match model.codec:
        case FeatureCodec():
            found = model.codec.encoder(features)
        case JpegUpload():
            found = features
        case None:
            found = model.finish(features)
    model.train(was_training)
    return found


def _blank(model: SplitAnn, image_shape: tuple[int, ...]) -> torch.Tensor:
    return torch.zeros(1, *image_shape, device=model.readout.weight.device)


def _conv(
    conv: torch.nn.Module, source: torch.Tensor, out: torch.Tensor
) -> tuple[int, int, int, int]:
    """MACs without those on padding, weights, inputs and address additions of a convolution."""
    assert isinstance(conv, torch.nn.Conv2d)
    ones = torch.ones_like(conv.weight, dtype=torch.float64)
    reached = functional.conv2d(
        torch.ones_like(source, dtype=torch.float64),
        ones,
        None,
        conv.stride,
        conv.padding,
        conv.dilation,
        conv.groups,
    )
    places = conv.out_channels * conv.weight[0, 0].numel()
    addresses = source.numel() + out.numel() + places
    return int(reached.sum().item()), conv.weight.numel(), source.numel(), addresses
