"""The baselines command: which ANN the baselines begin with."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline import baseline_rows, baselines, results, trained_on
from splitcore.errors import ConfigError, UsageError
from training.baselines.rival import Rival
from training.data.dataset import Dataset, Split

ANN = (
    "{{name: {name}, model: {{backbone: {backbone}, width: {width}, neuron: relu}}, "
    "recipe: {{epochs: 1}}}}"
)
CUT = """
name: cut
model: {backbone: resnet8, width: 8, steps: 4}
bottleneck: {split: stage3.block1, channels: 4}
teacher: wide
recipe: {epochs: 2}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, backbone, width in (
        ("wide", "resnet8", 8),
        ("narrow", "resnet8", 4),
        ("other", "resnet18", 4),
    ):
        text = ANN.format(name=name, backbone=backbone, width=width)
        (tmp_path / f"{name}.yaml").write_text(text)
    (tmp_path / "cut.yaml").write_text(CUT)
    return tmp_path


def go(here: Path, ann: str | None = None, **changed: Any) -> dict[str, Any]:
    options: dict[str, Any] = {
        "data": None,
        "runs": here / "runs",
        "out": here / "baselines.json",
        "device": "cpu",
        "qualities": (50,),
        "ann": ann,
    }
    return baselines.run(here / "cut.yaml", **{**options, **changed})


def edge_macs(result: dict[str, Any]) -> int:
    (row,) = (row for row in result["rows"] if row["name"] == "BottleNet++")
    return sum(layer["macs"] for layer in row["edge_layers"])


def test_they_begin_with_the_teacher_or_with_another_width(here: Path) -> None:
    wide, narrow = go(here, None), go(here, "narrow")
    assert (wide["width"], narrow["width"]) == (8, 4)
    assert wide["beside"] == narrow["beside"] == "cut"
    assert 0 < edge_macs(narrow) < edge_macs(wide)


@pytest.mark.parametrize("ann", ["configs/wide", "./wide.yaml", "wide.yaml", "wide\n", ""])
def test_an_ann_is_given_by_its_name_alone(here: Path, ann: str) -> None:
    with pytest.raises(UsageError, match=r"expected the name of a config in the folder"):
        go(here, ann)


def test_a_run_that_is_cut_off_leaves_the_rows_that_were_done(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save, written = results.save, []

    def cut_off(text: str, path: Path) -> None:
        save(text, path)
        written.append(text)
        if len(written) == 3:
            raise KeyboardInterrupt

    monkeypatch.setattr(results, "save", cut_off)
    with pytest.raises(KeyboardInterrupt):
        go(here, qualities=(50, 90), only=(Rival.JPEG, Rival.ANN, Rival.BOTTLENET))
    rows = baseline_rows.load(here / "baselines.json").content.rows
    jpeg = "all in the cloud (JPEG {})"
    assert [row.name for row in rows] == ["all on the edge (ANN)", jpeg.format(50), jpeg.format(90)]


@pytest.mark.parametrize("out", ["wide.yaml/baselines.json", "folder", "/proc/baselines.json"])
def test_a_file_that_cannot_be_written_is_refused_before_any_training(here: Path, out: str) -> None:
    (here / "folder").mkdir()
    with pytest.raises(UsageError, match="cannot be written"):
        go(here, out=here / out)
    assert not (here / "runs").exists()


def test_a_config_without_a_code_is_refused_before_any_training(here: Path) -> None:
    (here / "cut.yaml").write_text(CUT.replace(", channels: 4", ""))
    with pytest.raises(ConfigError, match=r"cut\.yaml: bottleneck\.channels: baselines are sized"):
        go(here)
    assert not (here / "runs").exists()


def test_images_that_are_no_pictures_are_refused_before_any_training(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def two_channels(*_: object) -> Dataset:
        part = Split(np.zeros((4, 2, 8, 8), np.uint8), np.arange(4) % 2)
        return Dataset("odd", ("a", "b"), part, part, part)

    monkeypatch.setattr(trained_on, "load", two_channels)
    with pytest.raises(ConfigError, match="odd: baselines take images of 1 or 3 channels"):
        go(here)
    assert not (here / "runs").exists()


def test_another_backbone_and_no_ann_are_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="baselines begin with a resnet8; other is a resnet18"):
        go(here, "other")
    with pytest.raises(ConfigError, match=r"baselines begin with an ANN .* not cut"):
        go(here, "cut")
    (here / "cut.yaml").write_text(CUT.replace("teacher: wide\n", ""))
    with pytest.raises(ConfigError, match=r"cut.yaml: teacher: none given"):
        go(here, None)
    (here / "cut.yaml").write_text(CUT.replace("teacher: wide", "teacher: [wide, other]"))
    with pytest.raises(ConfigError, match=r"teacher: several given, .* one ANN; name it: --ann"):
        go(here, None)
