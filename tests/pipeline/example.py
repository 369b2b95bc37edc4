"""A small residual network run by the reference, as a whole demo result."""

import functools

import numpy as np

from lava_edge import reference
from measure import energy, profile
from measure.counts import count
from pipeline import report
from splitcore import spikes
from splitcore.bundle import Manifest
from splitcore.graph import Conv, Current, Graph, Identity, Input, Lif

STEPS, SAMPLES = 4, 12


def network() -> Graph:
    rng = np.random.default_rng(3)

    def conv(*shape, stride=(1, 1)):
        return Conv((rng.integers(-40, 60, shape) * 2).astype(np.int32), stride, (1, 1))

    def lif(name, channels, threshold, *currents):
        return Lif(name, currents, np.zeros(channels, np.int32), threshold, 1024)

    return Graph(
        Input((1, 8, 8), message_bits=6),
        (
            lif("stem", 8, 3900, Current("input", conv(8, 1, 3, 3))),
            lif("block1.conv1", 8, 700, Current("stem", conv(8, 8, 3, 3))),
            lif(
                "block1.out",
                8,
                700,
                Current("block1.conv1", conv(8, 8, 3, 3)),
                Current("stem", Identity(64)),
            ),
            lif("encoder", 4, 400, Current("block1.out", conv(4, 8, 3, 3, stride=(2, 2)))),
        ),
    )


@functools.cache
def result(name: str = "digits-resnet-b1", label: str = "0") -> dict:
    """A whole result with details; `label` names the first class."""
    graph = network()
    rng = np.random.default_rng(5)
    images = rng.integers(0, 256, (SAMPLES, 1, 8, 8)).astype(np.uint8)
    frames = spikes.direct_code(images, 6, STEPS)
    trace = reference.run(graph, frames)
    counts = count(graph, frames, trace.spikes)
    manifest = Manifest(
        name=name,
        backbone="resnet8",
        split="block1",
        steps=STEPS,
        input_shape=(1, 8, 8),
        input_bits=6,
        feature_shape=(8, 8, 8),
        code_shape=(4, 4, 4),
        code_rates=(0.1,) * 4,
        classes=(label, *"123456789"),
        data="random pixels",
        accuracy=0.9,
        test_samples=SAMPLES,
        training={},
        files={},
    )
    energies = [
        (loaded, energy.energy(graph, counts, loaded, STEPS))
        for loaded in map(profile.load, ("cmos45_fp32", "loihi1"))
    ]
    labels = rng.integers(0, 10, SAMPLES)
    predictions = np.where(rng.random(SAMPLES) < 0.8, labels, 0)
    code = trace.spikes["encoder"]
    accuracy = float((labels == predictions).mean())
    return {
        "samples": SAMPLES,
        "steps": STEPS,
        "accuracy_model": accuracy,
        "accuracy_pipeline": accuracy,
        "spikes": int(code.sum()),
        "mismatched_spikes": 0,
        "prediction_mismatches": 0,
        "payload_bits_mean": 190.5,
        "wire_bytes_mean": 82.0,
        "raw_spike_bits": 256,
        "feature_bits_fp32": 16384,
        "compression_ratio": 16384 / 190.5,
        "energy_pj": {loaded.name: energy_result.mean_pj() for loaded, energy_result in energies},
        "details": report.details(
            manifest, graph, counts, energies, labels, predictions, code[0], codec="bitmap"
        ),
    }
