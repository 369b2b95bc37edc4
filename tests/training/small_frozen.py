"""Small runs with a frozen edge, and whether two of them see the same spikes."""

import numpy as np
import torch

from training import config
from training.config import Config
from training.data.dataset import Dataset
from training.frozen import Frozen
from training.model import SplitModel


def frozen_config(split: str, **recipe: object) -> Config:
    raw = {
        "name": "tiny",
        "model": {"backbone": "resnet8", "width": 8, "steps": 3},
        "bottleneck": {"split": split, "channels": 2},
        "start": "parent",
        "recipe": {"epochs": 2, "frozen_edge_views": 2, "augment": {"padding": 1}, **recipe},
    }
    return config.parse(raw, "test")


def fired_parent(data: Dataset) -> SplitModel:
    """An uncut network whose norms have seen images, so that its layers fire."""
    model = frozen_config("stem").build(data.image_shape, 10)
    model.train()
    for _ in range(20):
        model(torch.from_numpy(data.train.images[:64] >> 2))
    return model


def same_spikes(one: Frozen, other: Frozen) -> bool:
    rows, noise = np.arange(one.labels.shape[1]), np.random.default_rng(0)
    batches = [
        (one.batch(rows, epoch, noise), other.batch(rows, epoch, noise)) for epoch in range(3)
    ]
    for left, right in batches:
        assert left.features is not None
        assert right.features is not None
        assert 0.02 < float(left.features.mean()) < 0.9
        if not torch.equal(left.features, right.features):
            return False
    return all(
        torch.equal(left, right)
        for (_, left), (_, right) in zip(
            one.validation.chunks("cpu"), other.validation.chunks("cpu"), strict=True
        )
    )
