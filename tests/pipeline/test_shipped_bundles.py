"""Every shipped bundle still gives, in all engines, what its trained model gave at export."""

import re
from pathlib import Path

import pytest

from cloud_server.tail import TailEngine
from lava_edge import netx_file
from pipeline import verify
from splitcore import tail
from splitcore.bundle import open_bundle
from tests.conftest import ROOT
from training import checkpoint, config

BUNDLES = sorted(path.parent for path in (ROOT / "netx_exports").glob("*/manifest.json"))
ANNS = sorted(path.parent for path in (ROOT / "netx_exports").glob("*/checkpoint.safetensors"))


def test_their_readme_has_a_row_for_each_with_its_code_and_accuracy() -> None:
    text = (ROOT / "netx_exports" / "README.md").read_text()
    rows = re.findall(r"^\| `([^`]+)` \|.*\| (\S+) \| (\S+ % of \S+) \w* ?\|$", text, re.M)
    assert BUNDLES
    manifests = [open_bundle(bundle).manifest for bundle in BUNDLES]
    assert sorted(rows) == sorted(
        (
            each.name,
            "×".join(map(str, each.spike_shape)),
            f"{100 * each.accuracy:.2f} % of {each.test_samples:,}",
        )
        for each in manifests
    )


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_shipped_bundle_verifies_without_a_mismatch(bundle: Path) -> None:
    result = verify.run(bundle)
    assert result["spikes"] > 0
    assert result["silent_layers"] == []
    assert result["mismatched_spikes"] == 0
    assert result["prediction_mismatches"] == 0
    assert set(result["mismatched_states_by_engine"].values()) == {0}
    assert result["probe"].pop("score_difference_max") < 1e-5
    assert set(result["probe"].values()) == {result["samples"], 0}


@pytest.mark.parametrize("ann", ANNS, ids=lambda path: path.name)
def test_shipped_ann_is_the_finished_run_of_its_config_and_the_readme_has_its_accuracy(
    ann: Path,
) -> None:
    found = checkpoint.load(ann)
    assert found.config == config.load(config.shipped(ann.name))
    assert found.epoch == found.config.recipe.epochs
    found.network()
    (told,) = re.findall(r"^\| accuracy \| (\S+ % of \S+) ", (ann / "card.md").read_text(), re.M)
    row = rf"^\| `{ann.name}` \|.*\| {told} images \|$"
    assert re.search(row, (ROOT / "netx_exports" / "README.md").read_text(), re.M)


def test_an_engine_that_leaves_a_sample_out_agrees_with_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bundle = open_bundle(ROOT / "netx_exports" / "digits-resnet8")
    graph = netx_file.load(bundle.edge_path, bundle.manifest.input_bits)
    engine = TailEngine(tail.load(bundle.cloud_path), bundle.manifest.steps)
    monkeypatch.setattr(verify, "simulate", lambda *_, **__: iter(()))
    with pytest.raises(ValueError, match="shorter"):
        verify.compare(bundle, graph, bundle.probe().frames_ntchw[:2], engine)
