"""The train command: config and data in, a run folder out.

A config may begin with another run or learn from one. Such a run is looked for beside this one's
folder, by name; where there is none it is trained first, from the config of that name.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import torch
from rich.progress import Progress

from pipeline.console import progress_bar
from splitcore.errors import ConfigError, UsageError
from training import checkpoint, evaluate, loop
from training import config as configuration
from training.baselines import ann_loop
from training.baselines.split_ann import SplitAnn
from training.config import Config
from training.data import sources
from training.data.dataset import Dataset
from training.model import SplitModel
from training.teacher import Teacher


def run(
    config_path: Path, *, data: str | None, out: Path | None, resume: bool, device: str
) -> dict[str, Any]:
    """Train; the result carries the exact test accuracy with its 95 % interval."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: there is no CUDA device here; use cpu")
    config = configuration.load(config_path)
    _check_lineage(config, config_path)
    settings = config.data
    dataset = sources.load(
        data or settings.source, settings.seed, settings.image_shape, config.model.steps
    )
    folder = out or Path("runs") / config.name
    with progress_bar() as progress:
        train_one = partial(_train, dataset=dataset, device=device, progress=progress)
        for name in dict.fromkeys(_ancestors(config, config_path)):
            parent = folder.parent / name
            found = checkpoint.load(parent) if (parent / checkpoint.FILE).exists() else None
            if found is None or found.epoch < found.config.recipe.epochs:
                train_one(_beside(config_path, name), parent, resume=found is not None)
        trained = train_one(config, folder, resume=resume)
    scores = Teacher(trained, device)(dataset.test.images)
    predicted = scores.argmax(1).cpu().numpy()
    accuracy = evaluate.accuracy(predicted, dataset.test.labels_n)
    low, high = evaluate.wilson_interval(accuracy, len(dataset.test))
    history = checkpoint.load(folder).history
    return {
        "checkpoint": str(folder / checkpoint.FILE),
        "data": dataset.name,
        "epochs": len(history),
        "validation_accuracy": history[-1]["validation_accuracy"],
        "test_accuracy": accuracy,
        "test_accuracy_interval": [low, high],
        "test_samples": len(dataset.test),
    }


def _train(
    config: Config,
    folder: Path,
    *,
    dataset: Dataset,
    device: str,
    progress: Progress,
    resume: bool,
) -> SplitModel | SplitAnn:
    """One run, whose ancestors lie beside its folder."""
    if config.model.neuron == "relu":
        return ann_loop.fit_ann(
            config, dataset, folder, resume=resume, device=device, progress=progress
        )
    parent, teacher = (
        None if name is None else checkpoint.load(folder.parent / name).network()
        for name in (config.start, config.teacher)
    )
    return loop.fit(
        config,
        dataset,
        folder,
        parent=parent,
        teacher=teacher,
        resume=resume,
        device=device,
        progress=progress,
    ).model


def _beside(config_path: Path, name: str) -> Config:
    """The config of this name in the same folder."""
    path = config_path.with_name(f"{name}.yaml")
    found = configuration.load(path)
    if found.name != name:
        raise ConfigError(f"{path}: name: expected {name}, as the file is called")
    return found


def _ancestors(config: Config, config_path: Path) -> list[str]:
    """Names of all runs that this one needs, the first to be trained first."""
    names: list[str] = []
    for name in (config.start, config.teacher):
        if name is not None:
            names += [*_ancestors(_beside(config_path, name), config_path), name]
    return names


def _check_lineage(config: Config, config_path: Path, seen: tuple[str, ...] = ()) -> None:
    """Raise ConfigError where runs begin with one another in a circle."""
    if config.name in seen:
        raise ConfigError(f"{config_path}: start: a circle of {', '.join((*seen, config.name))}")
    for name in (config.start, config.teacher):
        if name is not None:
            _check_lineage(_beside(config_path, name), config_path, (*seen, config.name))


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    low, high = result["test_accuracy_interval"]
    return (
        f"{result['data']}: {100 * result['test_accuracy']:.2f} % of {result['test_samples']} test "
        f"images right (95 % interval {100 * low:.1f} … {100 * high:.1f} %)\n"
        f"checkpoint: {result['checkpoint']}"
    )
