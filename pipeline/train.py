"""The train command: config and data in, a run folder out.

A config may begin with another run or learn from one. Such a run is looked for beside this one's
folder, by name; where there is none it is trained first, from the config of that name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from measure.interval import wilson_interval
from pipeline import lineage
from pipeline.console import progress_bar
from splitcore.bundle import open_bundle
from splitcore.errors import UsageError
from training import checkpoint, evaluate, parallel
from training import config as configuration
from training.data import sources
from training.teacher import Teacher


def run(
    config_path: Path,
    *,
    data: str | None,
    out: Path | None,
    resume: bool,
    device: str,
    start: Path | None = None,
) -> dict[str, Any] | None:
    """Train; the result carries the exact test accuracy with its 95 % interval.

    start: a bundle to begin with, in the place of the run that the config names. Under torchrun
    every process is given its share, and rank 0 alone has a result.
    """
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: there is no CUDA device here; use cpu")
    config = configuration.load(config_path)
    bundle = None if start is None else open_bundle(start)
    if bundle is not None:
        config = config.model_copy(update={"start": None})
    needed = lineage.ancestors(config, config_path)
    if bundle is not None:
        raw = {**config.model_dump(mode="json"), "start": bundle.manifest.name}
        config = configuration.parse(raw, str(start))
    settings = config.data
    dataset = sources.load(
        data or settings.source, settings.seed, settings.image_shape, config.model.steps
    )
    folder = out or Path("runs") / config.name
    with parallel.joined(device) as own, progress_bar() as progress:
        shown = progress if parallel.leads() else None
        runs = lineage.Runs(folder.parent, dataset, own, shown)
        runs.complete(needed)
        trained = runs.train(config, folder, resume=resume, bundle=bundle)
        if not parallel.leads():
            return None
    scores = Teacher(trained, own)(dataset.test.images)
    predicted = scores.argmax(1).cpu().numpy()
    accuracy = evaluate.accuracy(predicted, dataset.test.labels_n)
    low, high = wilson_interval(accuracy, len(dataset.test))
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


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    low, high = result["test_accuracy_interval"]
    return (
        f"{result['data']}: {100 * result['test_accuracy']:.2f} % of {result['test_samples']} test "
        f"images right (95 % interval {100 * low:.1f} … {100 * high:.1f} %)\n"
        f"checkpoint: {result['checkpoint']}"
    )
