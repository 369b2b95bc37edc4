"""Export: what was trained is what is in the bundle."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lava_edge import netx_file, reference
from pipeline import card, export, export_ann, images, train
from splitcore import tail
from splitcore.bundle import open_bundle
from splitcore.codec import context_fit
from splitcore.errors import BundleError, ConfigError, DataError, UsageError
from splitcore.graph import Identity
from training import checkpoint, evaluate
from training.data import sources


def test_export_of_a_run_holds_the_trained_model(digits_run: Path, digits_bundle: Path) -> None:
    bundle = open_bundle(digits_bundle)
    graph, cloud = netx_file.load(bundle.edge_path), tail.load(bundle.cloud_path)
    test = images.load(bundle, None, None)
    code = reference.run(graph, test.frames_ntchw).spikes[graph.output_name]
    scores = cloud.scores(reference.run(cloud.graph, code).spikes[cloud.graph.output_name])
    trained = evaluate.answers(checkpoint.load(digits_run).model(), test.images)
    assert np.array_equal(code, trained.code_ntchw)
    assert np.array_equal(scores.argmax(axis=1), trained.labels_n)
    assert bundle.manifest.accuracy == evaluate.accuracy(trained.labels_n, test.labels_n)
    assert bundle.manifest.accuracy > 0.8


def test_export_edge_half_has_both_kinds_of_shortcut(digits_bundle: Path) -> None:
    graph = netx_file.load(open_bundle(digits_bundle).edge_path)
    joined = [layer for layer in graph.layers if len(layer.currents) == 2]
    kinds = {isinstance(layer.currents[1].synapse, Identity) for layer in joined}
    assert kinds == {True, False}


def test_export_of_images_in_the_order_of_their_classes_looks_at_all_classes(
    digits_run: Path, tmp_path: Path
) -> None:
    digits = sources.load("digits")
    sorted_by_class = replace(
        digits,
        **{
            name: split.take(np.argsort(split.labels_n, kind="stable"))
            for name, split in (("train", digits.train), ("test", digits.test))
        },
    )
    found = replace(checkpoint.load(digits_run), data_digest=sorted_by_class.digest)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(context_fit, "SAMPLES", 200)
        patch.setattr(card, "TOLD_SAMPLES", 60)
        bundle = export.export(found, sorted_by_class, tmp_path / "bundle")
    assert len(set(bundle.probe().labels_n.tolist())) >= 9
    code = evaluate.answers(found.model(), digits.train.images).code_ntchw
    assert bundle.manifest.code_rates == pytest.approx(code.mean((0, 1, 3, 4)), abs=0.05)


def test_export_with_other_images_is_refused(digits_run: Path, tmp_path: Path) -> None:
    found = checkpoint.load(digits_run)
    digits = sources.load("digits")
    other = type(digits)("other", ("a", *digits.classes[1:]), *_splits(digits))
    with pytest.raises(DataError, match=r"digits-small expects 10 classes \(0"):
        export.export(found, other, tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_export_with_another_split_of_the_same_images_is_refused(
    digits_run: Path, tmp_path: Path
) -> None:
    found = checkpoint.load(digits_run)
    with pytest.raises(DataError, match="was trained on other images than digits"):
        export.export(found, sources.load("digits", seed=1), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def _splits(dataset: object) -> tuple:
    return tuple(getattr(dataset, name) for name in ("train", "validation", "test"))


def test_export_of_a_run_half_trained_is_refused(digits_run: Path, tmp_path: Path) -> None:
    found = replace(checkpoint.load(digits_run), epoch=1)
    with pytest.raises(ConfigError, match="1 of 8 epochs; train it to its end with --resume"):
        export.export(found, sources.load("digits"), tmp_path / "bundle")
    assert not list(tmp_path.iterdir())


def test_export_over_a_folder_that_is_no_bundle_is_refused(
    digits_run: Path, tmp_path: Path
) -> None:
    (tmp_path / "keep.txt").write_text("mine")
    with pytest.raises(BundleError, match="is no bundle"):
        export.run(digits_run, out=tmp_path, data=None)
    assert [path.name for path in tmp_path.iterdir()] == ["keep.txt"]


@pytest.mark.parametrize("out", ["taken", "file/bundle", "/proc/bundle"])
def test_export_looks_at_its_place_before_it_evaluates_anything(
    digits_run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, out: str
) -> None:
    (tmp_path / "taken").mkdir()
    (tmp_path / "file").write_text("mine")
    monkeypatch.setattr(evaluate, "answers", lambda *_, **__: pytest.fail("evaluated"))
    with pytest.raises((BundleError, UsageError), match=r"is no bundle|cannot be written"):
        export.run(digits_run, out=tmp_path / out, data=None)


ANN = """
name: plain
model: {backbone: resnet8, width: 8, neuron: relu}
recipe: {epochs: 2, optimiser: muon, learning_rate: 0.02, batch_size: 64}
"""
SPIKING = """
name: spiking
model: {backbone: resnet8, width: 8, steps: 2}
start: plain
recipe: {epochs: 1}
"""


def test_an_exported_ann_is_a_run_that_others_stand_on(tmp_path: Path) -> None:
    for name, text in (("plain", ANN), ("spiking", SPIKING)):
        (tmp_path / f"{name}.yaml").write_text(text)
    there = {"data": None, "resume": False, "device": "cpu"}
    (trained,) = train.run([tmp_path / "plain.yaml"], out=tmp_path / "first", **there)["runs"]
    out = tmp_path / "runs" / "plain"
    found = export.run(tmp_path / "first", out=out, data=None)
    assert found["accuracy"] == pytest.approx(trained["test_accuracy"], abs=0.02)
    assert found["accuracy"] > 0.5
    assert f"{100 * found['accuracy']:.2f} % of 360 test images" in (out / "card.md").read_text()
    assert "spikebottlenet train plain.yaml" in (out / "card.md").read_text()
    file = out / checkpoint.FILE
    assert export.run(tmp_path / "first", out=out, data=None) == found
    assert file.stat().st_size < (tmp_path / "first" / checkpoint.FILE).stat().st_size / 3

    before = file.read_bytes()
    train.run([tmp_path / "spiking.yaml"], out=tmp_path / "runs" / "spiking", **there)
    assert file.read_bytes() == before  # it was not trained again
    with pytest.raises(ConfigError, match="weights alone"):
        train.run([tmp_path / "plain.yaml"], out=out, **{**there, "resume": True})


def test_export_of_an_ann_half_trained_or_over_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "plain.yaml").write_text(ANN)
    train.run(
        [tmp_path / "plain.yaml"], data=None, out=tmp_path / "run", resume=False, device="cpu"
    )
    whole = checkpoint.load(tmp_path / "run")
    with pytest.raises(ConfigError, match="1 of 2 epochs"):
        export_ann.export(replace(whole, epoch=1), sources.load("digits"), tmp_path / "out")
    before = (tmp_path / "run" / checkpoint.FILE).read_bytes()
    with pytest.raises(ConfigError, match="exists and is no exported ANN"):
        export.run(tmp_path / "run", out=tmp_path / "run", data=None)
    assert (tmp_path / "run" / checkpoint.FILE).read_bytes() == before  # it may go on learning


def test_images_more_than_there_are_is_refused(digits_bundle: Path) -> None:
    with pytest.raises(DataError, match="360 test images"):
        images.load(open_bundle(digits_bundle), None, 361)
