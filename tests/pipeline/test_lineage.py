"""Runs that stand on others: each begins with what its config names."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline import lineage
from pipeline.lineage import Runs
from splitcore.errors import ConfigError, DataError
from tests.training.small_digits import small_digits
from training import checkpoint, config, loop
from training.baselines.split_ann import SplitAnn
from training.model import SplitModel


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
    runs.complete(
        [of("first", None, "relu", epochs=6), of("second", "first", "relu", **slow)], ("second",)
    )
    runs.complete([of("alone", None, "relu", **slow)], ("alone",))
    assert last_accuracy(tmp_path / "first") > 0.8
    assert last_accuracy(tmp_path / "second") > 0.8
    assert last_accuracy(tmp_path / "alone") < 0.5


def test_an_ann_that_names_a_spiking_run_is_refused(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config.Data(), small_digits(), "cpu")
    runs.complete([of("spiking", None, "lif", epochs=1)], ("spiking",))
    with pytest.raises(ConfigError, match="spiking is not of this model's shape"):
        runs.complete([of("ann", "spiking", "relu", epochs=1)], ("ann",))


def test_a_run_that_wants_other_images_is_not_trained_on_these(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config.Data(seed=1), small_digits(), "cpu")
    with pytest.raises(ConfigError, match="first: data: is not that of the run it is needed for"):
        runs.complete([of("first", None, "relu", epochs=1)], ("first",))
    assert not list(tmp_path.iterdir())


def test_what_only_a_finished_run_stands_on_is_not_trained_again(tmp_path: Path) -> None:
    runs = Runs(tmp_path, config.Data(), small_digits(64), "cpu")
    line = [of("first", None, "relu", epochs=1), of("second", "first", "relu", epochs=1)]
    runs.complete(line, ("second",))
    shutil.rmtree(tmp_path / "first")
    runs.complete(line, ("second",))
    assert [path.name for path in tmp_path.iterdir()] == ["second"]


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished ANN, to be read only."""
    folder = tmp_path_factory.mktemp("runs")
    config_of_first = of("first", None, "relu", epochs=1)
    Runs(folder, config.Data(), small_digits(64), "cpu").complete([config_of_first], ("first",))
    return folder


@pytest.mark.parametrize("change", ["pixels", "classes", "split"])
def test_a_finished_run_of_other_images_is_not_stood_on(first: Path, change: str) -> None:
    known = small_digits(64)
    other = {
        "pixels": replace(known, test=known.validation),
        "classes": replace(known, classes=("a", *known.classes[1:])),
        "split": replace(known, train=known.validation, validation=known.train),
    }[change]
    runs = Runs(first, config.Data(), other, "cpu")
    with pytest.raises(DataError, match=r"the checkpoint of first expects|was trained on other"):
        runs.complete([of("first", None, "relu", epochs=1)], ("first",))
    with pytest.raises(DataError):
        runs.network("first")


@pytest.mark.parametrize(
    ("section", "changed", "message"),
    [
        ("model", {"width": 16}, "model.width: 8, its config says 16"),
        ("model", {"neuron": "lif"}, "model.neuron: relu, its config says lif"),
        ("data", {"seed": 1}, "data.seed: 0, its config says 1"),
    ],
)
def test_a_finished_run_that_is_not_what_its_config_says_is_not_stood_on(
    first: Path, section: str, changed: dict[str, object], message: str
) -> None:
    raw = of("first", None, "relu", epochs=1).model_dump(mode="json")
    raw[section].update(changed)
    runs = Runs(first, config.Data(), small_digits(64), "cpu")
    with pytest.raises(ConfigError, match=rf"first/checkpoint\S*: was trained with {message}"):
        runs.complete([config.parse(raw, "first")], ("first",))


def test_a_finished_run_of_the_same_images_from_elsewhere_is_stood_on(first: Path) -> None:
    raw = of("first", None, "relu", epochs=3).model_dump(mode="json")
    raw["data"]["source"] = "/some/where/digits.zip"
    runs = Runs(first, config.Data(), small_digits(64), "cpu")
    runs.complete([config.parse(raw, "first")], ("first",))
    assert checkpoint.load(first / "first").epoch == 1


CONFIG = "{{name: {name}, model: {{backbone: resnet8, width: 4}}, recipe: {{epochs: 1}}, {more}}}"


def test_a_run_learns_from_all_the_teachers_it_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = []
    real = loop.fit

    def noted(*arguments: object, teachers: list[object], **options: object) -> object:
        taught.append([type(teacher) for teacher in teachers])
        return real(*arguments, teachers=teachers, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "fit", noted)
    runs = Runs(tmp_path, config.Data(), small_digits(64), "cpu")
    ann, spiking = of("ann", None, "relu", epochs=1), of("spiking", None, "lif", epochs=1)
    raw = of("pupil", None, "lif", epochs=1).model_dump() | {"teacher": ["ann", "spiking"]}
    pupil = config.parse(raw, "pupil")
    runs.complete([ann, spiking, pupil], ("pupil",))
    assert taught == [[], [SplitAnn, SplitModel]]
    assert checkpoint.load(tmp_path / "pupil").history[-1]["teacher"] > 0


def write(folder: Path, **parents: str) -> None:
    for name, more in parents.items():
        (folder / f"{name}.yaml").write_text(CONFIG.format(name=name, more=more))


def test_runs_that_start_at_and_learn_from_the_one_before_are_read_once_each(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path, run0="")
    for number in range(1, 12):
        before = f"run{number - 1}"
        write(tmp_path, **{f"run{number}": f"start: {before}, teacher: {before}"})
    read = []
    real = config.load

    def noted(path: Path) -> config.Config:
        read.append(path.stem)
        return real(path)

    monkeypatch.setattr(config, "load", noted)
    last = tmp_path / "run11.yaml"
    found = lineage.ancestors(real(last), last)
    assert [each.name for each in found] == [f"run{number}" for number in range(11)]
    assert sorted(read) == sorted(each.name for each in found)


def test_a_circle_is_told_by_the_field_and_the_file_that_close_it(tmp_path: Path) -> None:
    write(tmp_path, one="start: two", two="start: three", three="teacher: one")
    path = tmp_path / "one.yaml"
    with pytest.raises(
        ConfigError, match=r"three\.yaml: teacher: a circle of one, two, three, one"
    ):
        lineage.ancestors(config.load(path), path)
