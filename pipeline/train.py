"""The train command: configs and data in, a run folder for each out.

A config may begin with another run or learn from one. Such a run is looked for beside this one's
folder, by name; where there is none it is trained first, from the config of that name.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measure.interval import wilson_interval
from pipeline import lineage, trained_on
from pipeline.bundle_start import BundleStart, require_no_test_image_learned
from pipeline.console import progress_bar
from pipeline.device import require
from splitcore.bundle import Bundle, open_bundle
from splitcore.errors import UsageError
from training import checkpoint, evaluate, parallel
from training import config as configuration
from training.allocator import keep_freed_memory
from training.baselines.split_ann import SplitAnn
from training.config import Config
from training.data.dataset import Dataset
from training.model import SplitModel
from training.teacher import Teacher


def run(
    config_paths: list[Path],
    *,
    data: str | None,
    out: Path | None,
    resume: bool,
    device: str,
    start: Path | None = None,
) -> dict[str, Any] | None:
    """Train one run after the other; each result has the exact test accuracy, 95 % interval.

    Runs whose frozen edges are alike compute their spikes once. start: a bundle to begin with, in
    the place of the run that a config names. Under torchrun every process is given its share, and
    rank 0 alone has a result.
    """
    require(device)
    if out is not None and len(config_paths) > 1:
        raise UsageError("--out: names the folder of one run; give one config, or leave it out")
    bundle = None if start is None else open_bundle(start)
    planned = [_planned(path, bundle, out, resume) for path in config_paths]
    settings = planned[0].config.data, planned[0].config.model.steps
    for each in planned[1:]:
        if (each.config.data, each.config.model.steps) != settings:
            raise UsageError(
                f"{each.path}: data: runs of one command share images and steps; "
                f"those of {planned[0].path} are others"
            )
    keep_freed_memory()
    dataset = trained_on.load(planned[0].config, data)
    beginning = None
    if bundle is not None:
        require_no_test_image_learned(bundle, dataset)
        beginning = BundleStart.of(bundle)
        for each in planned:
            beginning.require_fits(each.config, dataset)
    with parallel.joined(device) as own, progress_bar() as progress:
        shown = progress if parallel.leads() else None
        runs = lineage.Runs(planned[0].folder.parent, planned[0].config.data, dataset, own, shown)
        done = []
        for each in planned:
            path = each.folder / checkpoint.FILE
            going_on = (resume and len(planned) == 1) or path.exists()
            found = checkpoint.resumed(path, each.config, dataset, True) if going_on else None
            if found is not None and found.finished:
                trained = found.network()
            else:
                runs.complete(each.needed, [name for _, name in lineage.parents(each.config)])
                trained = runs.train(each.config, each.folder, resume=going_on, bundle=beginning)
            if parallel.leads():
                done.append(_tested(trained, each.folder, dataset, own))
    return {"runs": done} if parallel.leads() else None


@dataclass(frozen=True)
class _Planned:
    """A run to be done: its config, the configs it stands on, and its folder."""

    path: Path
    config: Config
    needed: list[Config]
    folder: Path


def _planned(path: Path, bundle: Bundle | None, out: Path | None, resume: bool) -> _Planned:
    """Raises ConfigError for a config that cannot be, or a run that is there and not to go on."""
    given = None if bundle is None else (bundle.manifest.name, bundle.digest)
    config = configuration.load(path, given)
    if bundle is None and config.start_bundle is not None:
        raise UsageError(f"{path}: start_bundle: begins with a bundle; give it: --start BUNDLE")
    needed = lineage.ancestors(config, path)
    folder = out or Path("runs") / config.name
    if any(folder.resolve() == folder.with_name(each.name).resolve() for each in needed):
        raise UsageError(f"--out {folder}: belongs to a run that {config.name} stands on")
    if not resume:
        checkpoint.require_none(folder / checkpoint.FILE)
    return _Planned(path, config, needed, folder)


def _tested(
    trained: SplitModel | SplitAnn, folder: Path, dataset: Dataset, device: str
) -> dict[str, Any]:
    scores = Teacher([trained], device)(dataset.test.images)
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
    """Two plain lines a run."""
    lines = []
    for run in result["runs"]:
        low, high = run["test_accuracy_interval"]
        lines += [
            f"{run['data']}: {100 * run['test_accuracy']:.2f} % of {run['test_samples']} test "
            f"images right (95 % interval {100 * low:.1f} … {100 * high:.1f} %)",
            f"checkpoint: {run['checkpoint']}",
        ]
    return "\n".join(lines)
