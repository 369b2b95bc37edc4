"""Spikes behind the frozen blocks of an edge, computed once and then looked up.

    images ── augment ── frozen blocks ── packed spikes, once for each view

Which runs share them is told in training/frozen_edges.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from rich.progress import Progress

from training import augmentation, evaluate
from training.augmentation import CHUNK
from training.batches import Batch
from training.config import Config
from training.data.dataset import Dataset
from training.evaluate import Answers
from training.model import SplitModel
from training.teacher import Teacher


class Spikes:
    """Spikes of many samples, one bit each.

    packed: those that are known, uint8 (count, bytes). Raises ValueError where it is not that.
    """

    def __init__(
        self, count: int, steps: int, shape: tuple[int, ...], packed: np.ndarray | None = None
    ) -> None:
        self._shape = (steps, *shape)
        room = (count, -(-int(np.prod(self._shape)) // 8))
        if packed is not None and (packed.shape, packed.dtype) != (room, np.dtype(np.uint8)):
            raise ValueError(f"spikes: expected uint8 {room}, got {packed.dtype} {packed.shape}")
        self.packed = np.empty(room, np.uint8) if packed is None else packed

    def __len__(self) -> int:
        return len(self.packed)

    def put(self, rows: np.ndarray, spikes: torch.Tensor) -> None:
        """Store spikes (T·N, C, H, W) of these samples."""
        by_sample = spikes.unflatten(0, (self._shape[0], -1)).transpose(0, 1)
        flat = by_sample.flatten(1).to(torch.uint8).cpu().numpy()
        self.packed[rows] = np.packbits(flat, axis=1)

    def take(self, rows: np.ndarray, device: str) -> torch.Tensor:
        """Spikes (T·N, C, H, W) of these samples, float32 and channels-last."""
        size = int(np.prod(self._shape))
        bits = np.unpackbits(self.packed[rows], axis=1, count=size)
        spikes = torch.from_numpy(bits.reshape(len(rows), *self._shape)).to(device)
        features = spikes.transpose(0, 1).flatten(0, 1).float()
        return features.contiguous(memory_format=torch.channels_last)

    def chunks(self, device: str) -> Iterator[tuple[np.ndarray, torch.Tensor]]:
        """(rows, spikes) of all samples, some at a time."""
        for rows in _chunks(len(self)):
            yield rows, self.take(rows, device)


def _chunks(count: int) -> Iterator[np.ndarray]:
    """Rows of so many samples, some at a time."""
    for start in range(0, count, CHUNK):
        yield np.arange(start, min(start + CHUNK, count))


@dataclass(frozen=True)
class Frozen:
    """Spikes behind the first `blocks` blocks: some views of every training image, and validation.

    labels: of each view, ids (views, N) or shares of the classes (views, N, K); scores: the
    teacher's, (views, N, K).
    """

    blocks: int
    labels: np.ndarray
    views: tuple[Spikes, ...]
    validation: Spikes
    scores: torch.Tensor | None
    device: str

    def batch(self, rows: np.ndarray, epoch: int, noise: np.random.Generator) -> Batch:
        """The stored spikes of these rows; each epoch looks at the next view."""
        view = epoch % len(self.views)
        return Batch(
            torch.from_numpy(self.labels[view, rows]).to(self.device),
            features=self.views[view].take(rows, self.device),
            teacher_nk=None if self.scores is None else self.scores[view][torch.from_numpy(rows)],
        )

    def validate(self, model: SplitModel) -> Answers:
        """The stored spikes of the validation images through the rest of the model."""
        return evaluate.answers_behind(
            model,
            (
                model.features_after(spikes, self.blocks)
                for _, spikes in self.validation.chunks(self.device)
            ),
        )

    def deeper(self, model: SplitModel, blocks: int, progress: Progress | None) -> Frozen:
        """The same behind more blocks, which are the model's and must not change from here on."""
        stored = (*self.views, self.validation)
        advance = _bar(progress, sum(len(each) for each in stored))
        model.eval()
        shape, moved = model.shape_after(blocks), []
        for old in stored:
            new = Spikes(len(old), model.steps, shape)
            for rows, spikes in old.chunks(self.device):
                with torch.no_grad():
                    new.put(rows, model.features_after(spikes, self.blocks, blocks))
                advance(len(rows))
            moved.append(new)
        *views, validation = moved
        return replace(self, blocks=blocks, views=tuple(views), validation=validation)


def stored(
    config: Config,
    dataset: Dataset,
    model: SplitModel,
    teacher: Teacher | None,
    device: str,
    progress: Progress | None = None,
) -> Frozen:
    """Run the model's frozen blocks over all views. They must not change from here on."""
    train, count, blocks = dataset.train, config.recipe.frozen_edge_views, config.frozen_blocks
    advance = _bar(progress, count * len(train) + len(dataset.validation))
    model.eval()
    shape = model.shape_after(blocks)

    def run(images: np.ndarray, into: Spikes, rows: np.ndarray) -> torch.Tensor:
        levels = evaluate.levels(images, config.model.input_bits)
        with torch.no_grad():
            spikes = model.features(torch.from_numpy(levels).to(device), blocks)
        into.put(rows, spikes)
        advance(len(images))
        return spikes

    classes = len(dataset.classes)
    views = tuple(Spikes(len(train), model.steps, shape) for _ in range(count))
    labels = augmentation.empty_labels(train, classes, config.recipe)
    scores = None
    if teacher is not None:
        scores = torch.empty(count, len(train), classes, device=device)
    told = None if teacher is None else teacher.behind(model, blocks)
    for view in augmentation.views(train, classes, config.recipe):
        spikes = run(view.images, views[view.index], view.rows)
        labels[view.index, view.rows] = view.labels
        if told is not None and scores is not None:
            scores[view.index, torch.from_numpy(view.rows)] = told(view.images, spikes)
    validation = Spikes(len(dataset.validation), model.steps, shape)
    for rows in _chunks(len(validation)):
        run(dataset.validation.images[rows], validation, rows)
    return Frozen(blocks, labels, views, validation, scores, device)


def _bar(progress: Progress | None, total: int) -> Callable[[int], None]:
    if progress is None:
        return lambda samples: None
    task = progress.add_task("frozen edge", total=total)
    return lambda samples: progress.update(task, advance=samples)
