import json

import numpy as np
import pytest

from pipeline.bench import wire
from splitcore.codec import context_fit, registry
from splitcore.codec.context import CodeContext
from tests import tiny_bundle

ROW_KEYS = {
    "payload_bits_mean",
    "entropy_bits_mean",
    "ratio_to_entropy",
    "raw_spike_bits",
    "feature_bits_fp32",
    "encode_us",
    "decode_us",
}


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle.make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")


def persisting(shape, count, seed):
    """Codes whose spikes mostly stay where they were a step ago."""
    rng = np.random.default_rng(seed)
    code = np.empty((count, *shape), dtype=np.uint8)
    code[:, 0] = rng.random(code[:, 0].shape) < 0.3
    for t in range(1, shape[0]):
        code[:, t] = code[:, t - 1] ^ (rng.random(code[:, t].shape) < 0.05)
    return code


@pytest.fixture(scope="module")
def measured(bundle):
    shape = bundle.manifest.spike_shape
    model = context_fit.fit(persisting(shape, 300, 0))
    known = CodeContext(shape, bundle.manifest.code_rates, model)
    return wire.measure_codes(persisting(shape, 60, 1), bundle.manifest, known)


def test_measure_codes_has_a_row_for_every_codec(measured):
    assert [row["codec"] for row in measured["codecs"]] == [c.name for c in registry.codecs()]
    for row in measured["codecs"]:
        assert row.keys() >= ROW_KEYS


def test_measure_codes_loses_no_spike(measured):
    assert {row["mismatched_spikes"] for row in measured["codecs"]} == {0}


def test_measure_codes_figures_fit_each_other(measured, bundle):
    manifest = bundle.manifest
    chosen = measured["chosen"]
    by_name = {row["codec"]: row for row in measured["codecs"]}
    assert by_name["bitmap"]["payload_bits_mean"] == -(-chosen["raw_spike_bits"] // 8) * 8
    assert chosen["raw_spike_bits"] == np.prod(manifest.spike_shape)
    assert chosen["feature_bits_fp32"] == 32 * np.prod(manifest.feature_shape)
    assert chosen["payload_bits_mean"] <= min(row["payload_bits_mean"] for row in by_name.values())
    assert sum(chosen["samples_by_codec"].values()) == measured["samples"]
    assert chosen["entropy_bits_mean"] == min(measured["entropy_bits_by_model"].values())
    for row in (*by_name.values(), chosen):
        expected = row["payload_bits_mean"] / row["entropy_bits_mean"]
        assert row["ratio_to_entropy"] == pytest.approx(expected)


def test_measure_codes_steps_apart_cost_more_than_samples(measured):
    chosen = measured["chosen"]
    assert chosen["payload_bits_mean_by_step"] > chosen["payload_bits_mean"]


def test_measure_codes_samples_together_cost_less_than_alone(measured):
    grouped, chosen = measured["grouped"], measured["chosen"]
    assert grouped["payload_bits_mean"] < chosen["payload_bits_mean"]
    expected = grouped["payload_bits_mean"] / chosen["entropy_bits_mean"]
    assert grouped["ratio_to_entropy"] == pytest.approx(expected)


def test_measure_codes_chosen_beats_zstandard_and_counts(measured):
    by_name = {row["codec"]: row["payload_bits_mean"] for row in measured["codecs"]}
    assert measured["chosen"]["codec"] == "trained"
    assert measured["chosen"]["payload_bits_mean"] < by_name["bitmap+zstd"]
    assert measured["bundle_model_bits_mean"] < measured["entropy_bits_by_model"]["channel"]


def test_measure_codes_too_few_samples_are_held_against_the_bundles_own_model(bundle):
    shape, noise = bundle.manifest.spike_shape, np.random.default_rng(0)
    seen, code = noise.integers(0, 2, (2, 4, *shape), dtype=np.uint8)
    known = CodeContext(shape, (0.5,) * shape[1], context_fit.fit(seen))
    found = wire.measure_codes(code, bundle.manifest, known)
    assert found["refitted_flattery_bits"] > 0.1 * found["refitted_bits_mean"]
    bounds = found["entropy_bits_by_model"]
    assert "trained" not in bounds
    assert bounds["trained, on other images"] == found["bundle_model_bits_mean"]


def test_measure_codes_silent_code_has_no_ratio(bundle):
    shape = bundle.manifest.spike_shape
    code = np.zeros((5, *shape), dtype=np.uint8)
    found = wire.measure_codes(code, bundle.manifest, CodeContext(shape, (0.0,) * shape[1]))
    assert found["chosen"]["codec"] == "events"
    assert found["chosen"]["payload_bits_mean"] == 0
    assert found["chosen"]["compression_ratio"] is None
    assert found["bundle_model_bits_mean"] is None


def test_run_measures_each_bundle_and_is_json(bundle, monkeypatch):
    monkeypatch.setattr(wire, "SPEED_SAMPLES", 2)
    asked = []

    def source(opened, data, samples):
        asked.append((opened.path, data, samples))
        return "synthetic", persisting(opened.manifest.spike_shape, 4, 2)

    result = wire.run([bundle.path, bundle.path], samples=4, data="here", source=source)
    assert asked == [(bundle.path, "here", 4)] * 2
    assert [row["bundle"] for row in result["bundles"]] == [str(bundle.path)] * 2
    assert set(result["speed_8192_bits"]) == {codec.name for codec in registry.codecs()}
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    assert "synthetic" in wire.summary(result)
