"""Accuracy and bytes of a baseline, on payloads that were really made and decoded."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from measure.interval import wilson_interval
from training.baselines.codec import FeatureCodec
from training.baselines.split_ann import SplitAnn
from training.baselines.stored import as_input
from training.data.dataset import Split


@dataclass(frozen=True)
class Measured:
    """On `samples` images: accuracy with its 95 % interval, payload bits an image."""

    samples: int
    accuracy: float
    accuracy_low: float
    accuracy_high: float
    payload_bits_mean: float
    payload_bits_max: int

    def row(self) -> dict[str, Any]:
        """As plain data."""
        return asdict(self)


def codes(model: SplitAnn, split: Split, *, batch: int = 256) -> torch.Tensor:
    """What the encoder of a cut model makes of these images, (N, C, H, W) float32."""
    assert isinstance(model.codec, FeatureCodec)
    device = model.readout.weight.device
    was_training = model.training
    model.eval()
    with torch.no_grad():
        found = [
            model.codec.encoder(model.edge(as_input(split.images[start : start + batch], device)))
            for start in range(0, len(split), batch)
        ]
    model.train(was_training)
    return torch.cat(found).float().cpu()


def evaluate(model: SplitAnn, split: Split, *, batch: int = 256) -> Measured:
    """Send every image of a split through `SplitAnn.answer`."""
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
    )
