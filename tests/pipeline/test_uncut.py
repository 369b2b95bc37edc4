"""A network without a bottleneck: its own spikes are the code; the tail may be but a readout."""

import numpy as np
import pytest

from lava_edge import netx_file
from measure import profile
from pipeline import card, export, outcome, results, verify
from splitcore import tail
from splitcore.bundle import CARD, Bundle
from tests.pipeline.test_outcome import true_run
from training import checkpoint, config, loop
from training.data import digits


@pytest.fixture(scope="module", params=[None, {"split": "stage2.block1"}], ids=["last", "middle"])
def uncut(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    settings = config.parse(
        {
            "name": "uncut",
            "model": {"backbone": "resnet8", "width": 8, "steps": 3},
            "bottleneck": request.param,
            "recipe": {
                "epochs": 3,
                "folded_epochs": 1,
                "optimiser": "muon",
                "learning_rate": 0.02,
            },
        },
        "test",
    )
    folder = tmp_path_factory.mktemp("uncut")
    loop.fit(settings, digits.load(), folder / "run")
    return export.export(checkpoint.load(folder / "run"), digits.load(), folder / "bundle")


def test_uncut_bundle_verifies_and_answers(uncut: Bundle) -> None:
    manifest = uncut.manifest
    assert manifest.code_shape == manifest.feature_shape
    assert manifest.accuracy > 0.5
    assert netx_file.load(uncut.edge_path).layers[-1].name != "encoder"
    assert len(tail.load(uncut.cloud_path).graph.layers) == (0 if "stage3" in manifest.split else 2)
    result = verify.run(uncut.path, samples=4)
    assert result["spikes"] > 0
    assert result["mismatched_spikes"] == 0
    assert result["prediction_mismatches"] == 0
    assert result["probe"].pop("score_difference_max") < 1e-5
    assert set(result["probe"].values()) == {16, 0}


def test_outcome_of_an_uncut_bundle_is_what_losses_are_counted_from(uncut: Bundle) -> None:
    found = outcome.outcome(uncut, *true_run(uncut), [profile.load("loihi1")])
    assert found["mismatched_spikes"] == 0
    assert found["prediction_mismatches"] == 0
    assert found["details"]["accuracy_uncut"] == found["accuracy_pipeline"] > 0
    assert results.check(found).details is not None


def test_card_says_what_the_manifest_says(uncut: Bundle) -> None:
    manifest = uncut.manifest
    written = (uncut.path / CARD).read_text(encoding="utf-8")
    assert written == card.text(manifest)
    raw = int(np.prod(manifest.spike_shape))
    for fact in (
        f"{100 * manifest.accuracy:.2f} %",
        f"{raw:,}",
        "optimiser: muon",
        "spikes a neuron",
    ):
        assert fact in written
    rates = manifest.training["layer_rates"]
    assert list(rates) == [layer.name for layer in netx_file.load(uncut.edge_path).layers]
    assert all(0 < rate < 1 for rate in rates.values())
