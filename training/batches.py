"""What a training step is given: images augmented anew, or the stored spikes of a frozen edge.

Fresh     images ── augment ── levels                       (and the teacher's scores of them)
Frozen    images ── augment ── frozen edge ── packed spikes, once for each view; then looked up
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from rich.progress import Progress

from training import augmentation, evaluate
from training.augmentation import CHUNK, changed
from training.config import Config
from training.data.dataset import Dataset
from training.evaluate import Answers
from training.model import SplitModel
from training.teacher import Teacher


@dataclass(frozen=True)
class Batch:
    """Levels or events of images, or in their place the spikes (T·N, C, H, W) behind frozen blocks;
    labels (N,).
    """

    labels_n: torch.Tensor
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
        train = self._dataset.train
        images = changed(train.images[rows], self._config.recipe, noise, epoch)
        levels = evaluate.levels(images, self._config.model.input_bits)
        return Batch(
            torch.from_numpy(train.labels_n[rows]).to(self._device),
            frames=torch.from_numpy(levels).to(self._device),
            teacher_nk=None if self._teacher is None else self._teacher(images),
        )

    def validate(self, model: SplitModel) -> Answers:
        """Every validation image through the whole model."""
        return evaluate.answers(model, self._dataset.validation.images)


class _Spikes:
    """Spikes of many samples, one bit each."""

    def __init__(self, count: int, steps: int, shape: tuple[int, ...]) -> None:
        self._shape = (steps, *shape)
        self._packed = np.empty((count, -(-int(np.prod(self._shape)) // 8)), np.uint8)

    def put(self, start: int, spikes: torch.Tensor) -> None:
        """Store spikes (T·N, C, H, W) of the samples from `start` on."""
        by_sample = spikes.unflatten(0, (self._shape[0], -1)).transpose(0, 1)
        flat = by_sample.flatten(1).to(torch.uint8).cpu().numpy()
        self._packed[start : start + len(flat)] = np.packbits(flat, axis=1)

    def take(self, rows: np.ndarray, device: str) -> torch.Tensor:
        """Spikes (T·N, C, H, W) of these samples, float32 and channels-last."""
        size = int(np.prod(self._shape))
        bits = np.unpackbits(self._packed[rows], axis=1, count=size)
        spikes = torch.from_numpy(bits.reshape(len(rows), *self._shape)).to(device)
        features = spikes.transpose(0, 1).flatten(0, 1).float()
        return features.contiguous(memory_format=torch.channels_last)


class Frozen:
    """The spikes behind frozen blocks for some views of every image, and for validation."""

    def __init__(
        self,
        config: Config,
        dataset: Dataset,
        model: SplitModel,
        teacher: Teacher | None,
        device: str,
        progress: Progress | None = None,
    ) -> None:
        """Run the frozen blocks over all views. They must not change from here on."""
        train, views = dataset.train, config.recipe.frozen_edge_views
        self._labels, self._device, self._blocks = train.labels_n, device, config.frozen_blocks
        total = views * len(train) + len(dataset.validation)
        task = progress.add_task("frozen edge", total=total) if progress else None
        model.eval()

        def run(images: np.ndarray, into: _Spikes, start: int) -> None:
            levels = evaluate.levels(images, config.model.input_bits)
            with torch.no_grad():
                frames = torch.from_numpy(levels).to(device)
                into.put(start, model.features(frames, self._blocks))
            if progress is not None and task is not None:
                progress.update(task, advance=len(images))

        def room(count: int) -> _Spikes:
            return _Spikes(count, model.steps, model.shape_after(self._blocks))

        self._views = [room(len(train)) for _ in range(views)]
        scores: list[list[torch.Tensor]] = [[] for _ in range(views)]
        for view, start, images in augmentation.views(train.images, config.recipe):
            run(images, self._views[view], start)
            if teacher is not None:
                scores[view].append(teacher(images))
        self._scores = [torch.cat(parts) for parts in scores] if teacher is not None else None
        self._count, self._validation = len(dataset.validation), room(len(dataset.validation))
        for start in range(0, self._count, CHUNK):
            run(dataset.validation.images[start : start + CHUNK], self._validation, start)

    def batch(self, rows: np.ndarray, epoch: int, noise: np.random.Generator) -> Batch:
        """The stored spikes of these rows; each epoch looks at the next view."""
        view = epoch % len(self._views)
        return Batch(
            torch.from_numpy(self._labels[rows]).to(self._device),
            features=self._views[view].take(rows, self._device),
            teacher_nk=None if self._scores is None else self._scores[view][torch.from_numpy(rows)],
        )

    def validate(self, model: SplitModel) -> Answers:
        """The stored spikes of the validation images through the rest of the model."""
        starts = range(0, self._count, CHUNK)
        rows = (np.arange(start, min(start + CHUNK, self._count)) for start in starts)
        stored = (self._validation.take(each, self._device) for each in rows)
        return evaluate.answers_behind(
            model, (model.features_after(each, self._blocks) for each in stored)
        )
