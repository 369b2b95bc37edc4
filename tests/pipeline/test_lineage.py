"""Runs that stand on others: each begins with what its config names."""

from pathlib import Path

import pytest

from pipeline.lineage import Runs
from splitcore.errors import ConfigError
from tests.training.small_digits import small_digits
from training import checkpoint, config


def of(name: str, start: str | None, neuron: str, **recipe: object) -> config.Config:
    muon = {"optimiser": "muon", "learning_rate": 0.02, "batch_size": 32}
    model = {"backbone": "resnet8", "width": 8, "neuron": neuron}
    raw = {"name": name, "model": model, "start": start, "recipe": {**muon, **recipe}}
    return config.parse(raw, name)


def last_accuracy(folder: Path) -> float:
    return checkpoint.load(folder).history[-1]["validation_accuracy"]


def test_an_ann_goes_on_where_the_ann_it_names_stopped(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config.Data(), small_digits(), "cpu")
    slow = {"epochs": 1, "learning_rate": 1e-5, "adamw_rate": 1e-5}
    runs.complete([of("first", None, "relu", epochs=6), of("second", "first", "relu", **slow)])
    runs.complete([of("alone", None, "relu", **slow)])
    assert last_accuracy(tmp_path / "first") > 0.8
    assert last_accuracy(tmp_path / "second") > 0.8
    assert last_accuracy(tmp_path / "alone") < 0.5


def test_an_ann_that_names_a_spiking_run_is_refused(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config.Data(), small_digits(), "cpu")
    runs.complete([of("spiking", None, "lif", epochs=1)])
    with pytest.raises(ConfigError, match="spiking is not of this model's shape"):
        runs.complete([of("ann", "spiking", "relu", epochs=1)])


def test_a_run_that_wants_other_images_is_not_trained_on_these(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config.Data(seed=1), small_digits(), "cpu")
    with pytest.raises(ConfigError, match="first: data: is not that of the run it is needed for"):
        runs.complete([of("first", None, "relu", epochs=1)])
    assert not list(tmp_path.iterdir())
