import json

import pytest

from lava_edge import netx_file, reference
from measure import energy as pricing
from measure import profile
from measure.counts import FIELDS, count
from pipeline import energy, images
from splitcore.bundle import open_bundle
from splitcore.errors import BundleError, ProfileError
from tests.pipeline.test_images import write_photographs

SAMPLES = 12


@pytest.fixture(scope="module")
def answer(digits_bundle):
    return energy.run(digits_bundle, samples=SAMPLES)


def test_run_prices_what_the_reference_says_fired(digits_bundle, answer):
    bundle = open_bundle(digits_bundle)
    frames = images.load(bundle, None, SAMPLES).frames_ntchw
    graph = netx_file.load(bundle.edge_path)
    counts = count(graph, frames, reference.run(graph, frames).spikes)
    assert answer["samples"] == SAMPLES
    for field, total in counts.total().items():
        assert answer[field] * SAMPLES == pytest.approx(total, abs=1e-6), field
        assert total > 0, field
    events = (frames > 0).sum(axis=(1, 2, 3, 4))
    for name in profile.USUAL:
        priced = pricing.energy(
            graph, counts, profile.load(name), bundle.manifest.steps, events
        ).mean_pj()
        assert answer["energy_pj"][name] == priced
    assert answer["rate_times_steps"] == pricing.rate_times_steps(graph, counts)


def test_run_layers_add_up_to_the_whole(answer):
    for record in answer["profiles"].values():
        for accounting in ("op_only", "full"):
            total = sum(layer[accounting] for layer in record["layers"].values())
            assert total == pytest.approx(record["energy_pj"][accounting], rel=1e-9)
    for field in FIELDS:
        total = sum(layer[field] for layer in answer["layers"])
        assert total == pytest.approx(answer[field]), field


def test_run_is_json_and_its_summary_calls_energies_modelled(answer):
    assert json.loads(json.dumps(answer, allow_nan=False))["bundle"] == answer["bundle"]
    assert "energies modelled" in energy.summary(answer)


def test_run_own_profile_by_path_is_used(digits_bundle, tmp_path):
    own = json.loads((profile.FOLDER / "odin.json").read_text())
    own["name"] = "mine"
    own["figures"]["synop_energy"].update(value=1.0, low=1.0, high=1.0)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(own))
    answer = energy.run(digits_bundle, profiles=[str(path)], samples=4)
    assert list(answer["energy_pj"]) == ["mine"]
    assert answer["energy_pj"]["mine"]["op_only"] == pytest.approx(answer["synops"])
    assert "without macs" in energy.summary(answer)
    evens = answer["profiles"]["mine"]["break_even"]
    assert {(even["ratio"], even["rate_times_steps"]) for even in evens} == {(None, None)}
    assert ", op-only: no figure for macs" in energy.summary(answer)
    assert "times" not in energy.summary(answer)


def test_run_takes_all_images_of_a_small_folder_where_nobody_said_how_many(digits_bundle, tmp_path):
    photographs = write_photographs(tmp_path / "photos", "0123456789", (8, 8))
    answer = energy.run(digits_bundle, ["odin"], data=str(photographs))
    assert answer["samples"] == 10  # a fifth of them is for testing


def test_run_bad_input_is_refused_before_anything_is_simulated(digits_bundle, tmp_path):
    with pytest.raises(ProfileError, match="abacus"):
        energy.run(digits_bundle, profiles=["abacus"])
    with pytest.raises(BundleError):
        energy.run(tmp_path)
