"""What a training step is given, and images augmented anew as one kind of it.

    images ── augment ── levels            (and the teacher's scores of them)

The other kind, spikes behind frozen blocks, is training/frozen.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

from training import evaluate
from training.augmentation import changed, mixed
from training.config import Config
from training.data.dataset import Dataset
from training.evaluate import Answers
from training.model import SplitModel
from training.teacher import Teacher


@dataclass(frozen=True)
class Batch:
    """Levels or events of images, or in their place the spikes (T·N, C, H, W) behind frozen blocks;
    labels: ids (N,), or shares of the classes (N, K).
    """

    labels: torch.Tensor
    frames: torch.Tensor | None = None
    features: torch.Tensor | None = None
    teacher_nk: torch.Tensor | None = None


class Batches(Protocol):
    """Where batches come from."""

    def batch(self, rows: np.ndarray, epoch: int, noise: np.random.Generator) -> Batch:
        """The training samples of these rows."""
        ...

    def validate(self, model: SplitModel) -> Answers:
        """The model's answers to the validation images."""
        ...


class Fresh:
    """Every image augmented anew whenever it is asked for."""

    def __init__(
        self, config: Config, dataset: Dataset, teacher: Teacher | None, device: str
    ) -> None:
        self._config, self._dataset, self._teacher, self._device = config, dataset, teacher, device

    def batch(self, rows: np.ndarray, epoch: int, noise: np.random.Generator) -> Batch:
        """The training images of these rows."""
        train, recipe = self._dataset.train, self._config.recipe
        images = changed(train.images[rows], recipe, noise, epoch)
        classes = len(self._dataset.classes)
        images, labels = mixed(images, train.labels_n[rows], classes, recipe, noise)
        levels = evaluate.levels(images, self._config.model.input_bits)
        return Batch(
            torch.from_numpy(labels).to(self._device),
            frames=torch.from_numpy(levels).to(self._device),
            teacher_nk=None if self._teacher is None else self._teacher(images),
        )

    def validate(self, model: SplitModel) -> Answers:
        """Every validation image through the whole model."""
        return evaluate.answers(model, self._dataset.validation.images)
