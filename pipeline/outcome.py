"""A run of any bundle as a result that `plan` and `report` read: measured, counted, compared.

The trained model itself is not in a bundle. Where it is not at hand, what it would say is the
word of the cloud's integer engine, run over both halves on the same images (`verify` proves that
all engines agree).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from cloud_server.tail import TailEngine
from lava_edge import netx_file, reference
from measure import energy
from measure.counts import Counts, count
from measure.dense import DenseEnergy
from measure.energy import EnergyResult
from measure.profile import Profile
from pipeline import details
from pipeline.codes import code_of
from pipeline.images import Images
from pipeline.payloads import SIZED, grouped_bits
from splitcore import tail
from splitcore.bundle import Bundle
from splitcore.codec import context
from splitcore.codec.registry import codec_with_id, encode_best
from splitcore.graph import Graph
from splitcore.splits import ENCODER
from splitcore.tail import Tail
from training.baselines import jpeg
from training.data.dataset import evenly
from training.evaluate import Answers

if TYPE_CHECKING:
    from pipeline.edge import EdgeRun

TIMED = 64  # samples over which a host time is averaged
JPEG_QUALITY = 75


def outcome(
    bundle: Bundle,
    test: Images,
    done: EdgeRun,
    profiles: Sequence[Profile],
    others: Sequence[DenseEnergy] = (),
    *,
    expected: Answers | None = None,
) -> dict[str, Any]:
    """The result of one run with the keys of `demo` and its details.

    others: ordinary networks that the edge half is held against; expected: what the trained model
    says of the images.
    """
    manifest = bundle.manifest
    graph = netx_file.of_bundle(bundle)
    cloud = tail.of_bundle(bundle)
    if expected is None:
        code = code_of(graph, test.frames_ntchw)
        expected = Answers(code, TailEngine(cloud, manifest.steps)(code))
    events = np.count_nonzero(test.frames_ntchw, axis=(1, 2, 3, 4))
    energies = [
        (each, energy.energy(graph, done.counts, each, manifest.steps, events)) for each in profiles
    ]
    accuracy = float(np.mean(done.labels_n == test.labels_n))
    feature_bits = 32 * int(np.prod(manifest.feature_shape))
    payload_bits = done.mean("payload_bits")
    sample = int(np.argmax(done.code_ntchw.reshape(len(test), -1).sum(axis=1)))
    return {
        "samples": len(test),
        "steps": manifest.steps,
        "accuracy_model": float(np.mean(expected.labels_n == test.labels_n)),
        "accuracy_pipeline": accuracy,
        "spikes": int(expected.code_ntchw.sum()),
        "mismatched_spikes": int((done.code_ntchw != expected.code_ntchw).sum()),
        "prediction_mismatches": int((done.labels_n != expected.labels_n).sum()),
        "payload_bits_mean": payload_bits,
        "wire_bytes_mean": done.mean("wire_bytes"),
        "raw_spike_bits": int(np.prod(manifest.spike_shape)),
        "feature_bits_fp32": feature_bits,
        "compression_ratio": feature_bits / payload_bits if payload_bits else None,
        "energy_pj": {each.name: result.mean_pj() for each, result in energies},
        "details": details.details(
            manifest,
            graph,
            done.counts,
            energies,
            test.labels_n,
            done.labels_n,
            done.code_ntchw[sample],
            sample=sample,
            input_events=events,
            others=others,
            accuracy_uncut=None if graph.output_name == ENCODER else accuracy,
            **beyond_the_cut(bundle, graph, test, done, energies, cloud),
        ),
    }


def beyond_the_cut(
    bundle: Bundle,
    edge: Graph,
    test: Images,
    done: EdgeRun,
    energies: Sequence[tuple[Profile, EnergyResult]],
    cloud: Tail,
) -> dict[str, Any]:
    """What the planner needs beside the split itself: the cloud half, times, and the image's size.

    encode_us, and cloud_us where the run was timed, are measured on this host. The cloud half is
    priced on the edge without its readout.
    """
    some = evenly(len(test), TIMED)
    code = done.code_ntchw[some]
    coding = context.of_bundle(bundle)
    encode_best(code[0], coding)  # compilation is not what an image costs
    started = time.perf_counter()
    chosen = [encode_best(each, coding)[0] for each in code]
    encode_us = (time.perf_counter() - started) / len(chosen) * 1e6
    usual = max(set(chosen), key=chosen.count)
    sized = evenly(len(test), SIZED)
    found = {
        "encode_us": encode_us,
        "cloud_us": done.cloud_us,
        "grouped_bits_mean": grouped_bits(done.code_ntchw[sized], coding),
        "cloud_depth": cloud.graph.depth[cloud.graph.output_name],
        "whole": _on_one_device(
            edge,
            cloud.graph,
            done.counts.take(some),
            code,
            energies,
            np.count_nonzero(test.frames_ntchw[some], axis=(1, 2, 3, 4)),
        ),
        "codec": codec_with_id(usual).name,
    }
    if bundle.manifest.input_bits and test.images.ndim == 4 and test.images.shape[1] in (1, 3):
        found["input_bytes_mean"] = float(np.mean([_jpeg_bytes(image) for image in test.images]))
    return found


def _on_one_device(
    edge: Graph,
    cloud: Graph,
    counts: Counts,
    code_ntchw: np.ndarray,
    energies: Sequence[tuple[Profile, EnergyResult]],
    events: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """By profile, both halves on one device, where they share chips and the code stays.

    What that takes more than the first half is modelled from the counts of some samples, and added
    to the first half's energy over all of them.
    """
    steps = code_ntchw.shape[1]
    whole = edge.followed_by(cloud)
    spikes = reference.run(cloud, code_ntchw).spikes
    together = counts.followed_by(count(cloud, code_ntchw, spikes))
    found = {}
    for profile, every in energies:
        both = energy.energy(whole, together, profile, steps, events)
        first = energy.energy(edge, counts, profile, steps, events).mean_pj()
        found[profile.name] = {
            "energy_pj": {
                name: pj + both.mean_pj()[name] - first[name]
                for name, pj in every.mean_pj().items()
            },
            "step_us": both.step_us,
        }
    return found


def _jpeg_bytes(image_chw: np.ndarray) -> int:
    """Bytes of the image as JPEG, as `training.baselines` charges it, or raw if those are fewer."""
    pixels = jpeg.pixels_of(image_chw)
    return min(len(jpeg.compress(pixels, JPEG_QUALITY)), image_chw.size)
