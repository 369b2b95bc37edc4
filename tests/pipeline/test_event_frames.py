"""Recordings of an event camera through the pipeline: trained, exported, verified, counted."""

import numpy as np
import pytest

from pipeline import energy, export, images, verify
from splitcore.bundle import Bundle
from splitcore.errors import BundleError
from training import checkpoint, config, loop
from training.data import sources
from training.data.dataset import Dataset, Split

STEPS, SIDE = 4, 8
CLASSES = ("right", "down", "still")


def bars(count: int, seed: int) -> Split:
    """A bar in two polarities that moves a pixel a step, by its class; some events are noise."""
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % len(CLASSES)
    frames = (rng.random((count, STEPS, 2, SIDE, SIDE)) < 0.02).astype(np.uint8)
    for frame, label in zip(frames, labels, strict=True):
        place = rng.integers(SIDE)
        for step in range(STEPS):
            at = (place + step * (label < 2)) % SIDE
            for polarity, row in enumerate((at, (at - 1) % SIDE)):
                if label == 1:
                    frame[step, polarity, row, :] = 1
                else:
                    frame[step, polarity, :, row] = 1
    return Split(frames, labels.astype(np.int64))


@pytest.fixture(scope="module")
def recordings() -> Dataset:
    return Dataset("N-MNIST", CLASSES, bars(192, 0), bars(48, 1), bars(48, 2))


@pytest.fixture(scope="module")
def bundle(recordings: Dataset, tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    raw = {
        "name": "N-MNIST",
        "data": {"source": "nmnist"},
        "model": {"backbone": "resnet8", "width": 8, "steps": STEPS, "input_bits": 0},
        "bottleneck": {"split": "stage2.block1", "channels": 4},
        "recipe": {
            "epochs": 6,
            "batch_size": 16,
            "optimiser": "muon",
            "learning_rate": 0.02,
            "augment": {"padding": 1},
        },
    }
    folder = tmp_path_factory.mktemp("events")
    loop.fit(config.parse(raw, "test"), recordings, folder / "run")
    return export.export(checkpoint.load(folder / "run"), recordings, folder / "bundle")


def test_a_bundle_of_event_frames_verifies_on_its_probe(bundle: Bundle) -> None:
    assert bundle.manifest.accuracy > 0.8
    assert bundle.probe().frames.shape == (16, STEPS, 2, SIDE, SIDE)
    found = verify.run(bundle.path)
    assert found["mismatched_spikes"] == found["prediction_mismatches"] == 0
    assert found["probe"]["mismatched_spikes"] == 0
    assert found["spikes"] > 0
    assert found["silent_layers"] == []


def test_energy_counts_the_events_that_enter(
    bundle: Bundle, recordings: Dataset, monkeypatch: pytest.MonkeyPatch
) -> None:
    test = sources.TestPart("N-MNIST", CLASSES, recordings.test)
    monkeypatch.setattr(sources, "load_test", lambda *_: test)
    frames = images.load(bundle, None, None).frames_ntchw
    assert np.array_equal(frames, recordings.test.images)
    found = energy.run(bundle.path, samples=len(frames))
    # An event reaches 3×3 places of 8 channels, fewer at the border.
    reached = np.array([2] + [3] * (SIDE - 2) + [2])
    assert found["layers"][0]["synops"] == 8 * (frames * np.outer(reached, reached)).sum() / 48


def test_a_probe_of_the_wrong_number_of_steps_is_refused(bundle: Bundle) -> None:
    short = bundle.manifest.model_copy(update={"steps": STEPS - 1})
    with pytest.raises(BundleError, match="probe"):
        Bundle(bundle.path, short, bundle.digest).probe()
