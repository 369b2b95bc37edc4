"""A run of an ordinary network: trained by `fit`, a checkpoint after each epoch."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from rich.progress import Progress

from splitcore.errors import DataError
from splitcore.splits import backbone_named
from training import checkpoint, evaluate, parallel
from training.augmentation import require_crop
from training.baselines.fit import Epoch, fit
from training.baselines.split_ann import SplitAnn, without_codec
from training.config import Config
from training.data.dataset import Dataset
from training.teacher import Teacher


def fit_ann(
    config: Config,
    dataset: Dataset,
    out: Path,
    *,
    begin: Callable[[SplitAnn], None] | None = None,
    resume: bool = False,
    device: str = "cpu",
    progress: Progress | None = None,
) -> SplitAnn:
    """Train the ANN of a config (neuron: relu) into the folder `out`.

    begin: gives the new model the weights of `config.start`.
    """
    shape = dataset.image_shape
    if len(shape) != 3:
        raise DataError(f"{config.name}: an ANN takes images (C, H, W), got {shape}")
    require_crop(dataset.train.images, config.recipe)
    parallel.share(np.arange(config.recipe.batch_size))  # refused before anything is written
    torch.manual_seed(config.recipe.seed)
    model = without_codec(
        backbone_named(config.model.backbone),
        width=config.model.width,
        image_shape=shape,
        classes=len(dataset.classes),
    ).to(device)
    if begin is not None:
        begin(model)
    path = out / checkpoint.FILE
    found = checkpoint.resumed(path, config, dataset, resume)
    history: list[dict[str, float]] = [] if found is None else found.history

    def after(epoch: Epoch) -> None:
        scores = Teacher([model], device)(dataset.validation.images)
        right = evaluate.accuracy(scores.argmax(1).cpu().numpy(), dataset.validation.labels_n)
        model.train().requires_grad_(True)
        history.append(
            {"epoch": epoch.index + 1, "total": epoch.loss, "validation_accuracy": right}
        )
        if parallel.leads():
            checkpoint.save(
                path,
                config=config,
                classes=dataset.classes,
                image_shape=shape,
                data_digest=dataset.digest,
                epoch=epoch.index + 1,
                history=history,
                model=model,
                optimiser=epoch.optimiser,
                generators={"order": epoch.order},
            )
        parallel.wait()

    fit(
        model, dataset.train, config.recipe, progress=progress, name="ANN", begin=found, after=after
    )
    return model
