"""Which runs share the spikes of a frozen edge: one command's by memory, the next one's by disk.

Runs that begin alike share them: a later cut's follow from an earlier one's by the blocks between.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

import torch
from rich.progress import Progress

from training import augmentation, frozen
from training.config import Config
from training.data import kept
from training.data.dataset import Dataset
from training.data.kept import Kept
from training.frozen import Frozen, Spikes
from training.model import SplitModel
from training.teacher import Teacher

FORMAT = 1  # of what is kept; also to be raised where views or spikes are made otherwise


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
        found = frozen.stored(config, dataset, model, teacher, device, progress)
        arrays = {f"view{index}": view.packed for index, view in enumerate(found.views)}
        arrays |= {"labels": found.labels, "validation": found.validation.packed}
        if found.scores is not None:
            arrays["scores"] = found.scores.cpu().numpy()
        return Kept(arrays, {})

    def unpack(entry: Kept) -> Frozen:
        arrays, count = entry.arrays, config.recipe.frozen_edge_views
        spikes = [
            Spikes(len(split), model.steps, shape, arrays[name])
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
        parts += teacher.models
        settings += [
            model.steps if isinstance(model, SplitModel) else None for model in teacher.models
        ]
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
