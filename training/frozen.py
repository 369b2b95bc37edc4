"""Spikes behind the frozen blocks of an edge, computed once and then looked up.

    images ── augment ── frozen blocks ── packed spikes, once for each view

Runs that begin alike share them: a later cut's follow from an earlier one's by the blocks between.
The last ones are kept on disk, for the next command and for a run that was cut off.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from training import augmentation, evaluate
from training.augmentation import CHUNK
from training.batches import Batch
from training.config import Config
from training.data import kept
from training.data.dataset import Dataset
from training.data.kept import Kept
from training.evaluate import Answers
from training.model import SplitModel
from training.teacher import Teacher

FORMAT = 1  # of what is kept; also to be raised where views or spikes are made otherwise


class _Spikes:
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
    views: tuple[_Spikes, ...]
    validation: _Spikes
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
            new = _Spikes(len(old), model.steps, shape)
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

    def run(images: np.ndarray, into: _Spikes, rows: np.ndarray) -> torch.Tensor:
        levels = evaluate.levels(images, config.model.input_bits)
        with torch.no_grad():
            spikes = model.features(torch.from_numpy(levels).to(device), blocks)
        into.put(rows, spikes)
        advance(len(images))
        return spikes

    classes = len(dataset.classes)
    views = tuple(_Spikes(len(train), model.steps, shape) for _ in range(count))
    labels = augmentation.empty_labels(train, classes, config.recipe)
    scores = None
    if teacher is not None:
        scores = torch.empty(count, len(train), classes, device=device)
    alike = teacher is not None and teacher.begins_with(model, blocks)
    for view in augmentation.views(train, classes, config.recipe):
        spikes = run(view.images, views[view.index], view.rows)
        labels[view.index, view.rows] = view.labels
        if teacher is not None and scores is not None:
            told = teacher.after(spikes, blocks) if alike else teacher(view.images)
            scores[view.index, torch.from_numpy(view.rows)] = told
    validation = _Spikes(len(dataset.validation), model.steps, shape)
    for rows in _chunks(len(validation)):
        run(dataset.validation.images[rows], validation, rows)
    return Frozen(blocks, labels, views, validation, scores, device)


def _kept_or_stored(
    config: Config,
    dataset: Dataset,
    model: SplitModel,
    teacher: Teacher | None,
    device: str,
    progress: Progress | None,
) -> Frozen:
    """The spikes that the last command kept, where they are these, else computed and kept."""
    blocks, shape = config.frozen_blocks, model.shape_after(config.frozen_blocks)

    def make() -> Kept:
        found = stored(config, dataset, model, teacher, device, progress)
        arrays = {f"view{index}": view.packed for index, view in enumerate(found.views)}
        arrays |= {"labels": found.labels, "validation": found.validation.packed}
        if found.scores is not None:
            arrays["scores"] = found.scores.cpu().numpy()
        return Kept(arrays, {})

    def unpack(entry: Kept) -> Frozen:
        arrays, count = entry.arrays, config.recipe.frozen_edge_views
        spikes = [
            _Spikes(len(split), model.steps, shape, arrays[name])
            for split, name in (
                *((dataset.train, f"view{index}") for index in range(count)),
                (dataset.validation, "validation"),
            )
        ]
        labels, scores = arrays["labels"], None
        expected = augmentation.empty_labels(dataset.train, len(dataset.classes), config.recipe)
        if (labels.shape, labels.dtype) != (expected.shape, expected.dtype):
            raise ValueError(f"labels: {labels.dtype} {labels.shape}")
        if teacher is not None:
            scores = torch.from_numpy(arrays["scores"]).to(device)
            if scores.shape != (count, len(dataset.train), len(dataset.classes)):
                raise ValueError(f"scores: {tuple(scores.shape)}")
        return Frozen(blocks, labels, tuple(spikes[:-1]), spikes[-1], scores, device)

    return kept.of("frozen", _stamp(config, dataset, model, teacher), make, unpack)


def _stamp(config: Config, dataset: Dataset, model: SplitModel, teacher: Teacher | None) -> str:
    """A digest of all that frozen spikes, labels and scores depend on."""
    recipe = config.recipe
    views = recipe.frozen_edge_views, recipe.augment.model_dump(), recipe.seed
    settings: list[Any] = [FORMAT, dataset.digest, config.model.input_bits, model.steps, views]
    parts: list[torch.nn.Module] = [model.first_blocks(config.frozen_blocks)]
    if teacher is not None:
        parts.append(teacher.model)
        settings.append(teacher.model.steps if isinstance(teacher.model, SplitModel) else None)
    digest = hashlib.sha256(json.dumps(settings).encode())
    for part in parts:
        for name, tensor in part.state_dict().items():
            values = tensor.detach().cpu().contiguous().numpy()
            digest.update(f"{name} {values.dtype} {values.shape}".encode())
            digest.update(values.data)
    return digest.hexdigest()


class FrozenEdges:
    """The last frozen spikes, for the next run that begins, looks and learns alike.

    It shares them where as many blocks are frozen; where more are, its own follow from them.
    """

    def __init__(self) -> None:
        self._last: tuple[tuple[object, ...], Frozen] | None = None

    def of(
        self,
        config: Config,
        dataset: Dataset,
        model: SplitModel,
        teacher: Teacher | None,
        device: str,
        progress: Progress | None = None,
    ) -> Frozen:
        """The frozen spikes of this run, whose model has its beginning and has not learned yet."""
        recipe, blocks = config.recipe, config.frozen_blocks
        key = (
            *(config.start, config.teacher, config.model, dataset.digest),
            *(recipe.frozen_edge_views, recipe.augment, recipe.seed),
        )
        if self._last is not None and self._last[0] == key and self._last[1].blocks <= blocks:
            found = self._last[1]
            if found.blocks < blocks:
                found = found.deeper(model, blocks, progress)
        else:
            self._last = None  # its memory is needed
            found = _kept_or_stored(config, dataset, model, teacher, device, progress)
        self._last = key, found
        return found


def _bar(progress: Progress | None, total: int) -> Callable[[int], None]:
    if progress is None:
        return lambda samples: None
    task = progress.add_task("frozen edge", total=total)
    return lambda samples: progress.update(task, advance=samples)
