"""The train command: several runs in one go."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from pipeline import export, train
from splitcore.bundle import CARD, open_bundle
from splitcore.errors import ConfigError, DataError, UsageError
from training import checkpoint, frozen, loop
from training.frozen import Frozen
from training.model import SplitModel

PARENT = """
name: parent
model: {backbone: resnet8, width: 8, steps: 3}
recipe: {epochs: 1, batch_size: 64}
"""
CUT = """
name: NAME
model: {backbone: resnet8, width: 8, steps: STEPS}
bottleneck: {split: stage3.block1, channels: CHANNELS}
start: parent
recipe: {epochs: 1, frozen_edge_views: 1, batch_size: 64}
"""
RELU = "neuron: relu"
OF_BUNDLE = """
name: of-bundle
model: {backbone: resnet8, width: 8, steps: 4}
bottleneck: {split: stage2.block1, channels: 4}
recipe: {epochs: 2, codec_epochs: 1, batch_size: 64}
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parent.yaml").write_text(PARENT)
    return tmp_path


def cut(folder: Path, name: str, channels: int, steps: int = 3) -> Path:
    path, text = folder / f"{name}.yaml", CUT.replace("NAME", name)
    path.write_text(text.replace("CHANNELS", str(channels)).replace("STEPS", str(steps)))
    return path


def go(*configs: Path, **options: object) -> dict[str, object] | None:
    defaults = {"data": None, "out": None, "resume": False, "device": "cpu"}
    return train.run(list(configs), **{**defaults, **options})  # type: ignore[arg-type]


def test_runs_of_one_command_share_what_they_stand_on(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, computed = frozen.stored, []

    def counted(*arguments: object) -> Frozen:
        computed.append(arguments)
        return real(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(frozen, "stored", counted)
    result = go(cut(here, "wide", 4), cut(here, "narrow", 2))
    assert result is not None
    assert len(computed) == 1
    runs = result["runs"]
    assert [Path(run["checkpoint"]).parent.name for run in runs] == ["wide", "narrow"]
    for name, channels in (("wide", 4), ("narrow", 2)):
        assert checkpoint.load(here / "runs" / name).model().code_shape[0] == channels
    assert train.summary(result).count("checkpoint: ") == 2


@pytest.mark.parametrize("option", ["runs/parent", "runs/../runs/parent"])
def test_out_that_belongs_to_an_ancestor_is_refused_before_it_is_trained(
    here: Path, option: str
) -> None:
    with pytest.raises(UsageError, match="belongs to a run that child stands on"):
        go(cut(here, "child", 2), out=Path(option))
    assert not (here / "runs").exists()


def test_a_bundle_that_learned_from_todays_test_images_is_no_beginning(
    here: Path, digits_bundle: Path
) -> None:
    other = here / "other.yaml"
    other.write_text(OF_BUNDLE + "data: {source: digits, seed: 1}\n")
    with pytest.raises(DataError, match="test images may be its training images"):
        go(other, start=digits_bundle)
    assert not (here / "runs").exists()


def test_a_frozen_edge_may_begin_with_a_bundle_alone(here: Path, digits_bundle: Path) -> None:
    config = here / "of-bundle.yaml"
    config.write_text(OF_BUNDLE)
    assert go(config, start=digits_bundle) is not None
    assert checkpoint.load(here / "runs" / "of-bundle").config.start == "digits-small"


def test_a_run_and_its_card_say_which_bundle_it_began_with(here: Path, digits_bundle: Path) -> None:
    config, digest = here / "of-bundle.yaml", open_bundle(digits_bundle).digest
    config.write_text(OF_BUNDLE)
    go(config, start=digits_bundle)
    found = checkpoint.load(here / "runs" / "of-bundle").config
    assert (found.start, found.start_bundle) == ("digits-small", digest)
    export.run(here / "runs" / "of-bundle", out=here / "exported", data=None)
    told = (here / "exported" / CARD).read_text()
    assert "train of-bundle.yaml --data DATA --start digits-small" in told
    assert f"digits-small of digest {digest[:16]}" in told
    again = here / "again.yaml"
    again.write_text(told.split("```yaml\n")[1].split("```")[0])
    with pytest.raises(UsageError, match="start_bundle: begins with a bundle; give it: --start"):
        go(again, out=Path("runs/again"))
    with pytest.raises(ConfigError, match="start_bundle: is not the digest of of-bundle"):
        go(again, out=Path("runs/again"), start=here / "exported")
    assert go(again, out=Path("runs/again"), start=digits_bundle) is not None


def test_a_run_stands_on_one_that_begins_with_a_bundle(here: Path, digits_bundle: Path) -> None:
    begins = f"start: digits-small\nstart_bundle: {'a' * 64}\n"
    (here / "of-bundle.yaml").write_text(OF_BUNDLE + begins)
    child = here / "child.yaml"
    child.write_text(OF_BUNDLE.replace("name: of-bundle", "name: child") + "start: of-bundle\n")
    with pytest.raises(ConfigError, match="of-bundle: start_bundle: begins with a bundle"):
        go(child)
    assert not (here / "runs").exists()


def test_a_network_that_cannot_begin_with_the_bundle_is_refused_before_anything_is_trained(
    here: Path, digits_bundle: Path
) -> None:
    wide = here / "wide.yaml"
    wide.write_text(OF_BUNDLE.replace("width: 8", "width: 16") + "teacher: ann\n")
    (here / "ann.yaml").write_text(PARENT.replace("parent", "ann").replace("steps: 3", RELU))
    with pytest.raises(ConfigError, match=r"start: digits-small is not of this model's shape \(s"):
        go(wide, start=digits_bundle)
    with pytest.raises(ConfigError, match="ann: an ANN cannot begin with a bundle"):
        go(here / "ann.yaml", start=digits_bundle)
    assert not (here / "runs").exists()


def test_a_config_of_other_pixels_than_the_bundle_is_refused(
    here: Path, digits_bundle: Path
) -> None:
    config = here / "of-bundle.yaml"
    config.write_text(OF_BUNDLE.replace("steps: 4", "steps: 4, input_bits: 5"))
    said = r"of-bundle: model\.input_bits: 5, but the bundle digits-small weighs pixels of 6"
    with pytest.raises(ConfigError, match=said):
        go(config, start=digits_bundle)
    assert not (here / "runs").exists()


def test_the_bundle_that_a_run_begins_with_may_teach_it(
    here: Path, digits_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught = []
    real = loop.fit

    def noted(*arguments: object, teachers: list[SplitModel], **options: object) -> object:
        taught.extend(teachers)
        return real(*arguments, teachers=teachers, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(loop, "fit", noted)
    config = here / "of-bundle.yaml"
    config.write_text(OF_BUNDLE.replace("channels: 4", "channels: 2") + "teacher: digits-small\n")
    assert go(config, start=digits_bundle) is not None
    (teacher,), probe = taught, open_bundle(digits_bundle).probe()
    with torch.no_grad():
        code = teacher.encode(torch.from_numpy(probe.frames))
        scores = teacher.decode(code).mean(0)
    code = code.unflatten(0, (4, -1)).transpose(0, 1)
    assert np.array_equal(code.numpy(), probe.code_ntchw)
    assert np.allclose(scores.numpy(), probe.scores_nk, atol=1e-5)


def test_a_bundle_of_other_neurons_is_refused_as_a_teacher(here: Path, digits_bundle: Path) -> None:
    config = here / "of-bundle.yaml"
    other = OF_BUNDLE.replace("steps: 4", "steps: 4, voltage_decay: 0.75")
    config.write_text(other + "teacher: digits-small\n")
    with pytest.raises(ConfigError, match="teacher: the bundle digits-small is of another model"):
        go(config, start=digits_bundle)
    assert not (here / "runs").exists()


def test_a_run_that_is_there_is_refused_before_any_other_begins(here: Path) -> None:
    assert go(here / "parent.yaml") is not None
    new = cut(here, "new", 2)
    with pytest.raises(ConfigError, match="exists; go on with --resume"):
        go(new, here / "parent.yaml")
    assert not (here / "runs" / "new").exists()
    resumed = go(new, here / "parent.yaml", resume=True)
    assert resumed is not None
    assert len(resumed["runs"]) == 2


def test_several_runs_have_one_kind_of_samples_and_no_common_folder(here: Path) -> None:
    configs = cut(here, "one", 2), cut(here, "other", 2, steps=2)
    with pytest.raises(UsageError, match=r"other\.yaml: data: runs of one command share images"):
        go(*configs)
    with pytest.raises(UsageError, match="--out: names the folder of one run"):
        go(*configs, out=here / "x")
    assert not (here / "runs").exists()


def test_a_finished_run_needs_nothing_it_stood_on(here: Path) -> None:
    child = cut(here, "child", 2)
    first = go(child)
    shutil.rmtree(here / "runs" / "parent")
    assert go(child, resume=True) == first
    assert not (here / "runs" / "parent").exists()
