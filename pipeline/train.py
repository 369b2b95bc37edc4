"""The train command: config and data in, a run folder out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from pipeline.console import progress_bar
from splitcore.errors import UsageError
from training import config as configuration
from training import evaluate, loop
from training.data import sources


def run(
    config_path: Path, *, data: str | None, out: Path | None, resume: bool, device: str
) -> dict[str, Any]:
    """Train; the result carries the exact test accuracy with its 95 % interval."""
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise UsageError(f"--device {device}: there is no CUDA device here; use cpu")
    config = configuration.load(config_path)
    settings = config.data
    dataset = sources.load(
        data or settings.source, settings.seed, settings.image_shape, config.model.steps
    )
    folder = out or Path("runs") / config.name
    with progress_bar() as progress:
        trained = loop.fit(config, dataset, folder, resume=resume, device=device, progress=progress)
    answers = evaluate.answers(trained.model, dataset.test.images)
    accuracy = evaluate.accuracy(answers.labels_n, dataset.test.labels_n)
    low, high = evaluate.wilson_interval(accuracy, len(dataset.test))
    return {
        "checkpoint": str(trained.path),
        "data": dataset.name,
        "epochs": len(trained.history),
        "validation_accuracy": trained.validation_accuracy,
        "test_accuracy": accuracy,
        "test_accuracy_interval": [low, high],
        "test_samples": len(dataset.test),
    }


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    low, high = result["test_accuracy_interval"]
    return (
        f"{result['data']}: {100 * result['test_accuracy']:.2f} % of {result['test_samples']} test "
        f"images right (95 % interval {100 * low:.1f} … {100 * high:.1f} %), quantised and split\n"
        f"checkpoint: {result['checkpoint']}"
    )
