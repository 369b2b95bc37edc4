"""Runs that other runs begin with or learn from: found beside them by name, or trained first."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from rich.progress import Progress

from pipeline.bundle_start import BundleStart
from splitcore.errors import ConfigError
from training import checkpoint, loop, start
from training import config as configuration
from training.baselines import ann_loop
from training.baselines.split_ann import SplitAnn
from training.config import Config, Data
from training.data.dataset import Dataset
from training.frozen_edges import FrozenEdges
from training.model import SplitModel


def beside(config_path: Path, name: str) -> Config:
    """The config of this name in the same folder. Raises ConfigError where it is not that."""
    path = config_path.with_name(f"{name}.yaml")
    found = configuration.load(path)
    if found.name != name:
        raise ConfigError(f"{path}: name: expected {name}, as the file is called")
    return found


def parents(config: Config) -> list[tuple[str, str]]:
    """(field, name) of the runs that it begins with and learns from.

    A bundle that it begins with is no run, nor where it is its teacher too.
    """
    bundle = None if config.start_bundle is None else config.start
    named = [("start", config.start), *(("teacher", name) for name in config.teachers)]
    return [(field, name) for field, name in named if name is not None and name != bundle]


def ancestors(config: Config, config_path: Path) -> list[Config]:
    """Configs of all runs that this one stands on, the first to be trained first, each once.

    Raises ConfigError where runs stand on one another in a circle.
    """
    found: dict[str, Config] = {}
    _gather(config, config_path, (config.name,), found)
    return list(found.values())


def _gather(
    config: Config, config_path: Path, above: tuple[str, ...], found: dict[str, Config]
) -> None:
    """Add to `found` what this one of `above`, the last, stands on."""
    for field_name, name in parents(config):
        if name in found:
            continue
        if name in above:
            circle = ", ".join((*above, name))
            raise ConfigError(f"{config_path}: {field_name}: a circle of {circle}")
        parent = beside(config_path, name)
        _gather(parent, config_path.with_name(f"{name}.yaml"), (*above, name), found)
        found[name] = parent


@dataclass(frozen=True)
class Runs:
    """A folder of run folders by name, with what is needed to train more of them.

    images: the data section that the dataset was loaded by.
    """

    folder: Path
    images: Data
    dataset: Dataset
    device: str
    progress: Progress | None = None
    frozen: FrozenEdges = field(default_factory=FrozenEdges)

    def network(self, name: str) -> SplitModel | SplitAnn:
        """The trained model of a run. Raises DataError where its images were others."""
        found = checkpoint.load(self.folder / name)
        found.require_images(self.dataset)
        return found.network()

    def complete(self, configs: list[Config], wanted: Iterable[str]) -> None:
        """Train the wanted runs that are not there; go on with those that were cut off.

        configs: theirs and those of all they stand on, the first to be trained first. What only
        finished runs stand on is not needed any more. Raises ConfigError or DataError where a run
        is not what its config says, or one that is there was trained on other images, or one that
        has to be trained wants others.
        """
        needed, todo = set(wanted), []
        for config in reversed(configs):
            if config.name not in needed:
                continue
            folder = self.folder / config.name
            found = checkpoint.load(folder) if (folder / checkpoint.FILE).exists() else None
            if found is not None and found.finished:
                found.require_same_network(config, self.dataset)
            else:
                if config.data != self.images:
                    raise ConfigError(
                        f"{config.name}: data: is not that of the run it is needed for; train it "
                        "first, by a command of its own"
                    )
                if config.start_bundle is not None:
                    raise ConfigError(
                        f"{config.name}: start_bundle: begins with a bundle; train it first, by a "
                        "command of its own with --start"
                    )
                needed |= {name for _, name in parents(config)}
                todo.append((config, found is not None))
        for config, going_on in reversed(todo):
            self.train(config, self.folder / config.name, resume=going_on)

    def train(
        self, config: Config, out: Path, *, resume: bool, bundle: BundleStart | None = None
    ) -> SplitModel | SplitAnn:
        """One run into `out`; its ancestors are complete.

        bundle: begin with its integers instead of the run that the config names.
        """
        if config.model.neuron == "relu":
            return ann_loop.fit_ann(
                config,
                self.dataset,
                out,
                begin=partial(self._begin, config, bundle),
                resume=resume,
                device=self.device,
                progress=self.progress,
            )
        return loop.fit(
            config,
            self.dataset,
            out,
            begin=partial(self._begin, config, bundle),
            teachers=self._teachers(config, bundle),
            resume=resume,
            device=self.device,
            progress=self.progress,
            frozen=self.frozen,
        ).model

    def _teachers(self, config: Config, bundle: BundleStart | None) -> list[SplitModel | SplitAnn]:
        return [
            bundle.network(config, self.dataset)
            if bundle is not None and name == config.start
            else self.network(name)
            for name in config.teachers
        ]

    def _begin(
        self, config: Config, bundle: BundleStart | None, model: SplitModel | SplitAnn
    ) -> None:
        if bundle is not None:
            assert isinstance(model, SplitModel)
            bundle.begin(model, self.dataset)
        elif config.start is not None:
            start.begin(model, self.network(config.start), config.start)
