import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from lava_edge import netx_file, reference
from lava_edge.uplink import Answer
from measure import energy, profile
from measure.counts import count
from pipeline import images, outcome, plan, results
from pipeline.edge import EdgeRun
from splitcore import tail
from splitcore.bundle import open_bundle
from splitcore.codec import context, registry
from training.baselines.jpeg import JpegUpload

SAMPLES = 6


def true_run(bundle):
    """Its images, and a run in which edge and cloud did what the reference says."""
    test = images.load(bundle, None, SAMPLES)
    graph, cloud = netx_file.load(bundle.edge_path), tail.load(bundle.cloud_path)
    spikes = reference.run(graph, test.frames_ntchw).spikes
    code = spikes[graph.output_name]
    late = reference.run(cloud.graph, code).spikes[cloud.graph.output_name]
    scores = cloud.scores(late)
    answers = tuple(
        Answer(
            sample=index,
            label=int(row.argmax()),
            scores=tuple(map(float, row)),
            server_us=900,
            round_trip_us=2000,
            payload_bits=160,
            envelope_bits=100,
            wire_bytes=40,
        )
        for index, row in enumerate(scores)
    )
    return test, EdgeRun(code, count(graph, test.frames_ntchw, spikes), answers, 700.0)


@pytest.fixture(scope="module")
def finished(digits_bundle):
    bundle = open_bundle(digits_bundle)
    return bundle, *true_run(bundle)


def test_outcome_of_a_true_run_has_no_mismatch_and_can_be_planned(finished, tmp_path):
    found = outcome.outcome(*finished, [profile.load("loihi1")])
    assert found["mismatched_spikes"] == 0
    assert found["prediction_mismatches"] == 0
    assert found["accuracy_pipeline"] == found["accuracy_model"]
    assert found["wire_bytes_mean"] == 40
    assert found["details"]["cloud_us"] == 700
    bundle, _, done = finished
    coding = context.of_bundle(bundle)
    alone = [
        np.mean([8 * len(registry.encode(codec, code, coding)) for code in done.code_ntchw])
        for codec in registry.codecs()
        if codec.usable(coding)
    ]
    assert 0 < found["details"]["grouped_bits_mean"] <= min(alone)  # one codec for all of them
    assert found["details"]["accuracy_uncut"] is None
    path = tmp_path / "result.json"
    results.save(json.dumps(found, allow_nan=False), path)
    kinds = {row["kind"] for row in plan.plan([path], "wifi", "loihi1")["candidates"]}
    assert kinds == {"split", "all_edge", "all_cloud"}


def test_outcome_of_a_run_with_one_flipped_spike_says_so(finished):
    bundle, test, done = finished
    wrong = np.array(done.code_ntchw)
    wrong[2, 1, 0, 0, 0] ^= 1
    damaged = EdgeRun(wrong, done.counts, done.answers)
    found = outcome.outcome(bundle, test, damaged, [profile.load("loihi1")])
    assert found["mismatched_spikes"] == 1


def test_both_halves_on_one_device_share_its_chips_and_keep_the_code(finished):
    bundle, test, done = finished
    loihi = profile.load("loihi1")
    edge, cloud = netx_file.load(bundle.edge_path), tail.load(bundle.cloud_path).graph
    spikes = reference.run(edge.followed_by(cloud), test.frames_ntchw).spikes
    whole = edge.followed_by(cloud)
    events = np.count_nonzero(test.frames_ntchw, axis=(1, 2, 3, 4))
    counts = count(whole, test.frames_ntchw, spikes)
    both = energy.energy(whole, counts, loihi, 4, events)
    first = energy.energy(edge, done.counts, loihi, 4, events).mean_pj()
    found = outcome.outcome(*finished, [loihi])["details"]["whole"]["loihi1"]
    assert found["energy_pj"] == pytest.approx(both.mean_pj())
    assert found["step_us"] == pytest.approx(both.step_us)
    added = {name: pj - first[name] for name, pj in found["energy_pj"].items()}
    alone = energy.energy(
        cloud,
        count(cloud, done.code_ntchw, reference.run(cloud, done.code_ntchw).spikes),
        loihi,
        4,
        np.count_nonzero(done.code_ntchw, axis=(1, 2, 3, 4)),
    ).mean_pj()
    assert added["op_only"] == pytest.approx(alone["op_only"])
    assert 0 < added["full"] < alone["full"]  # a whole chip less


def test_outcome_of_a_code_that_never_fires_has_no_ratio(finished):
    bundle, test, done = finished
    silent = tuple(replace(answer, payload_bits=0) for answer in done.answers)
    run = EdgeRun(np.zeros_like(done.code_ntchw), done.counts, silent)
    assert outcome.outcome(bundle, test, run, [profile.load("loihi1")])["compression_ratio"] is None


def test_size_as_jpeg_is_what_the_baseline_that_uploads_pictures_is_charged(finished):
    bundle, _, done = finished
    noise = np.random.default_rng(3).integers(0, 256, (SAMPLES, 3, 32, 32), dtype=np.uint8)
    smooth = np.broadcast_to(np.arange(0, 256, 8, dtype=np.uint8), (SAMPLES, 3, 32, 32))
    pictures = np.concatenate([noise[: SAMPLES // 2], smooth[SAMPLES // 2 :]])
    test = replace(finished[1], images=pictures)
    found = outcome.outcome(bundle, test, done, [profile.load("loihi1")])
    sent = JpegUpload(outcome.JPEG_QUALITY).transmit(torch.from_numpy(pictures) / 255)
    charged = np.mean([len(payload) for payload in sent.payloads])
    assert found["details"]["input_bytes_mean"] == pytest.approx(charged)
