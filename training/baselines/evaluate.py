"""Accuracy and bytes of a baseline, on payloads that were really made and decoded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from training.baselines.fit import as_input
from training.baselines.split_ann import SplitAnn
from training.data.dataset import Split
from training.evaluate import wilson_interval


@dataclass(frozen=True)
class Measured:
    """On `samples` images: accuracy with its 95 % interval, payload bits an image, edge MACs."""

    samples: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    payload_bits_mean: float
    payload_bits_max: int
    edge_macs: int

    def row(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def evaluate(
    model: SplitAnn, split: Split, *, counted: SplitAnn | None = None, batch: int = 256
) -> Measured:
    """Send every image of a split through `SplitAnn.answer`.

    counted: the model whose edge MACs are counted, where `model` is a quantised copy of it.
    """
    device = model.readout.weight.device
    was_training = model.training
    model.eval()
    envelope = getattr(model.codec, "envelope_bytes", 0)
    right, sizes = 0, []
    for start in range(0, len(split), batch):
        answers = model.answer(as_input(split.images[start : start + batch], device))
        labels = split.labels_n[start : start + batch]
        right += int((answers.scores_nk.argmax(1).cpu().numpy() == labels).sum())
        sizes += [len(payload) - envelope for payload in answers.payloads]
    model.train(was_training)
    low, high = wilson_interval(right / len(split), len(split))
    return Measured(
        samples=len(split),
        accuracy=right / len(split),
        accuracy_low=low,
        accuracy_high=high,
        payload_bits_mean=8 * float(np.mean(sizes)),
        payload_bits_max=8 * max(sizes),
        edge_macs=edge_macs(counted or model, split.images.shape[1:]),
    )


def edge_macs(model: SplitAnn, image_shape: tuple[int, ...]) -> int:
    """Multiplications of the convs (and readout) on the edge for one image; borders in full.

    Counted as K × K × inputs × outputs at every output position, padding included, as the papers
    do.
    """
    edge = [model.edge]
    encoder = getattr(model.codec, "encoder", None)
    if encoder is not None:
        edge.append(encoder)
    if model.codec is None:
        edge += [model.cloud, model.readout]
    total = 0

    def count(module: torch.nn.Module, _inputs: object, output: torch.Tensor) -> None:
        nonlocal total
        if isinstance(module, torch.nn.Conv2d):
            total += output[0].numel() * module.weight[0].numel()
        elif isinstance(module, torch.nn.Linear):
            total += module.weight.numel()

    layers = [
        module
        for part in edge
        for module in part.modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear))
    ]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    device = model.readout.weight.device
    try:
        model.answer(torch.zeros(1, *image_shape, device=device))
    finally:
        for hook in hooks:
            hook.remove()
    return total
