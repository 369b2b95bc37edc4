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

from training import evaluate
from training.config import Config
from training.data.augment import changed
from training.data.dataset import Split
from training.model import SplitModel
from training.teacher import Teacher

CHUNK = 256  # images at once through a frozen edge


@dataclass(frozen=True)
class Batch:
    """Levels or events of images, or features (T·N, C, H, W) in their place; labels (N,)."""

    labels_n: torch.Tensor
    frames: torch.Tensor | None = None
    features: torch.Tensor | None = None
    teacher_nk: torch.Tensor | None = None


class Batches(Protocol):
    """Where batches come from."""

    def batch(self, rows: np.ndarray, epoch: int, noise: np.random.Generator) -> Batch:
        """The training samples of these rows."""
        ...


class Fresh:
    """Every image augmented anew whenever it is asked for."""

    def __init__(self, config: Config, train: Split, teacher: Teacher | None, device: str) -> None:
        self._config, self._train, self._teacher, self._device = config, train, teacher, device

    def batch(self, rows: np.ndarray, epoch: int, noise: np.random.Generator) -> Batch:
        """The training images of these rows."""
        images = changed(self._train.images[rows], self._config.recipe, noise, epoch)
        levels = evaluate.levels(images, self._config.model.input_bits)
        return Batch(
            torch.from_numpy(self._train.labels_n[rows]).to(self._device),
            frames=torch.from_numpy(levels).to(self._device),
            teacher_nk=None if self._teacher is None else self._teacher(images),
        )


class Frozen:
    """The spikes behind a frozen edge, one bit each, for some views of every image."""

    def __init__(
        self,
        config: Config,
        train: Split,
        model: SplitModel,
        teacher: Teacher | None,
        device: str,
        progress: Progress | None = None,
    ) -> None:
        """Run the edge over all views. The model's edge must not change from here on."""
        self._labels, self._device = train.labels_n, device
        self._steps, self._shape = model.steps, model.feature_shape
        views = config.recipe.frozen_edge_views
        size = -(-int(np.prod((self._steps, *self._shape))) // 8)
        self._packed = np.empty((views, len(train), size), np.uint8)
        scores: list[list[torch.Tensor]] = [[] for _ in range(views)]
        total = views * len(train)
        task = progress.add_task("frozen edge", total=total) if progress else None
        model.eval()
        for view in range(views):
            noise = np.random.default_rng((config.recipe.seed, view))
            for start in range(0, len(train), CHUNK):
                chunk = train.images[start : start + CHUNK]
                images = changed(chunk, config.recipe, noise)
                levels = evaluate.levels(images, config.model.input_bits)
                with torch.no_grad():
                    spikes = model.features(torch.from_numpy(levels).to(device))
                by_sample = spikes.unflatten(0, (self._steps, -1)).transpose(0, 1)
                flat = by_sample.flatten(1).to(torch.uint8).cpu().numpy()
                self._packed[view, start : start + CHUNK] = np.packbits(flat, axis=1)
                if teacher is not None:
                    scores[view].append(teacher(images))
                if progress is not None and task is not None:
                    progress.update(task, advance=len(images))
        self._scores = [torch.cat(parts) for parts in scores] if teacher is not None else None

    def batch(self, rows: np.ndarray, epoch: int, noise: np.random.Generator) -> Batch:
        """The stored spikes of these rows; each epoch looks at the next view."""
        view = epoch % len(self._packed)
        shape = (len(rows), self._steps, *self._shape)
        bits = np.unpackbits(self._packed[view, rows], axis=1, count=int(np.prod(shape[1:])))
        spikes = torch.from_numpy(bits.reshape(shape)).to(self._device)
        features = spikes.transpose(0, 1).flatten(0, 1).float()
        return Batch(
            torch.from_numpy(self._labels[rows]).to(self._device),
            features=features.contiguous(memory_format=torch.channels_last),
            teacher_nk=None if self._scores is None else self._scores[view][torch.from_numpy(rows)],
        )
