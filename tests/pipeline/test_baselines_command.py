"""The baselines command: which ANN the baselines begin with."""

from pathlib import Path
from typing import Any

import pytest

from pipeline import baselines
from splitcore.errors import ConfigError, UsageError

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


def go(here: Path, ann: str | None) -> dict[str, Any]:
    return baselines.run(
        here / "cut.yaml",
        data=None,
        runs=here / "runs",
        out=here / "baselines.json",
        device="cpu",
        qualities=(50,),
        ann=ann,
    )


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


def test_another_backbone_and_no_ann_are_refused(here: Path) -> None:
    with pytest.raises(ConfigError, match="baselines begin with a resnet8; other is a resnet18"):
        go(here, "other")
    with pytest.raises(ConfigError, match=r"baselines begin with an ANN .* not cut"):
        go(here, "cut")
    (here / "cut.yaml").write_text(CUT.replace("teacher: wide\n", ""))
    with pytest.raises(ConfigError, match=r"cut.yaml: teacher: none given"):
        go(here, None)
