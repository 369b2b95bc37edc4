"""The baselines command: what others would send at the cut of a config, trained and measured."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from pipeline import lineage, results, trained_on
from pipeline.console import progress_bar
from pipeline.device import require
from splitcore.errors import ConfigError, UsageError
from training import config as configuration
from training.allocator import keep_freed_memory
from training.baselines.rival import Rival
from training.baselines.split_ann import SplitAnn
from training.baselines.study import QUALITIES, code_of, require_pictures, study


def run(
    config_path: Path,
    *,
    data: str | None,
    runs: Path,
    out: Path,
    device: str,
    only: tuple[Rival, ...] = tuple(Rival),
    qualities: tuple[int, ...] = QUALITIES,
    ann: str | None = None,
) -> dict[str, Any]:
    """Train baselines beside this config's run and write their rows into the file `out`.

    only: which ones, instead of all.
    They begin with the config's teacher, an ANN, or with the one of another width that `ann` names.
    It is looked for in the folder `runs` and trained there where it is missing. The file is written
    anew after each of them: where a later one fails or is cut off, the rows of those before stay.
    """
    require(device)
    if ann is not None and (not re.fullmatch(configuration.NAME, ann) or ann.endswith(".yaml")):
        raise UsageError(
            f"--ann {ann}: expected the name of a config in the folder {config_path.parent}, "
            "without folder or .yaml"
        )
    results.require_place(out)
    config = configuration.load(config_path)
    code_of(config, config_path)
    name = ann or _only(config.teachers, config_path)
    teacher = lineage.beside(config_path, name)
    if teacher.model.neuron != "relu":
        raise ConfigError(
            f"{config_path}: teacher: baselines begin with an ANN (neuron: relu), not {name}"
        )
    if teacher.model.backbone != config.model.backbone:
        raise ConfigError(
            f"{config_path}: baselines begin with a {config.model.backbone}; "
            f"{name} is a {teacher.model.backbone}"
        )
    width = {"width": teacher.model.width}
    config = config.model_copy(update={"model": config.model.model_copy(update=width)})
    keep_freed_memory()
    dataset = trained_on.load(config, data)
    require_pictures(dataset)
    with progress_bar() as progress:
        known = lineage.Runs(runs, config.data, dataset, device, progress)
        known.complete([*lineage.ancestors(teacher, config_path), teacher], (teacher.name,))
        whole = known.network(teacher.name)
        assert isinstance(whole, SplitAnn)
        found = study(
            config,
            dataset,
            whole.to(device),
            only=only,
            qualities=qualities,
            progress=progress,
            after=lambda so_far: _save(so_far, out),
        )
    return {"file": str(out), **found}


def _only(teachers: tuple[str, ...], config_path: Path) -> str:
    """The one teacher there is. Raises ConfigError for none or several."""
    if len(teachers) != 1:
        given = "several" if teachers else "none"
        raise ConfigError(
            f"{config_path}: teacher: {given} given, and baselines begin with one ANN; "
            "name it: --ann"
        )
    return teachers[0]


def _save(found: dict[str, Any], out: Path) -> None:
    results.save(json.dumps(found, indent=1, allow_nan=False) + "\n", out)


def summary(result: dict[str, Any]) -> str:
    """A line for each baseline."""
    lines = [
        f"{result['data']}, {result['backbone']} of width {result['width']} cut at "
        f"{result['split']}, on {result['rows'][0]['test']['samples']} test images:"
    ]
    for row in result["rows"]:
        test, macs = row["test"], sum(layer["macs"] for layer in row["edge_layers"])
        lines.append(
            f"  {row['name']}: {100 * test['accuracy']:.2f} % "
            f"({100 * test['accuracy_low']:.1f} … {100 * test['accuracy_high']:.1f}), "
            f"{test['payload_bits_mean']:,.0f} bits, {macs:,} MACs on the edge"
        )
    return "\n".join([*lines, f"written: {result['file']}"])
