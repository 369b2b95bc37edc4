import sys
import types

import numpy as np
import pytest

from splitcore.errors import DataError
from training.data.sources import load


class Recordings:
    """Recording k: two events on pixel x=3, y=1 of polarity k % 2, in the first and last bin."""

    sensor_size = (4, 2, 2)
    classes = ("off", "on")

    def __init__(self, save_to, train=True):
        self.count = 40 if train else 6

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        return index % 2, index % 2


class ToFrame:
    def __init__(self, sensor_size, n_time_bins):
        self.shape = (n_time_bins, sensor_size[2], sensor_size[1], sensor_size[0])

    def __call__(self, polarity):
        counts = np.zeros(self.shape, np.int16)
        counts[[0, -1], polarity, 1, 3] = 300
        return counts


def use(monkeypatch, kind):
    tonic = types.ModuleType("tonic")
    tonic.datasets = types.SimpleNamespace(NMNIST=kind, CIFAR10DVS=kind)
    transforms = types.ModuleType("tonic.transforms")
    transforms.ToFrame = ToFrame
    monkeypatch.setitem(sys.modules, "tonic", tonic)
    monkeypatch.setitem(sys.modules, "tonic.transforms", transforms)


def test_events_become_binary_frames_of_the_asked_steps(monkeypatch):
    use(monkeypatch, Recordings)
    dataset = load("nmnist", steps=3)
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [36, 4, 6]
    assert dataset.image_shape == (3, 2, 2, 4)
    for frames, label in zip(dataset.test.images, dataset.test.labels_n, strict=True):
        expected = np.zeros((3, 2, 2, 4), np.uint8)
        expected[[0, 2], label, 1, 3] = 1
        assert (frames == expected).all()


def test_events_are_joined_in_blocks_of_pixels(monkeypatch):
    use(monkeypatch, Recordings)
    dataset = load("cifar10dvs", steps=2, image_shape=(2, 1, 2))
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [32, 4, 4]
    label = dataset.train.labels_n[0]
    expected = np.zeros((2, 2, 1, 2), np.uint8)
    expected[:, label, 0, 1] = 1
    assert (dataset.train.images[0] == expected).all()


@pytest.mark.parametrize("shape", [(2, 2, 3), (1, 2, 4)])
def test_events_in_broken_blocks_are_refused(monkeypatch, shape):
    use(monkeypatch, Recordings)
    with pytest.raises(DataError, match="whole blocks of 2×4 pixels"):
        load("nmnist", steps=2, image_shape=shape)


def test_events_without_steps_are_refused():
    with pytest.raises(DataError, match="nmnist: expected a number of steps"):
        load("nmnist")


def test_events_without_tonic_are_refused_with_advice(monkeypatch):
    monkeypatch.setitem(sys.modules, "tonic", None)
    with pytest.raises(DataError, match="install this project with its extra 'events'"):
        load("nmnist", steps=2)


def test_events_without_a_network_are_refused(monkeypatch):
    class Offline(Recordings):
        def __init__(self, save_to, train=True):
            raise OSError("name not known")

    use(monkeypatch, Offline)
    with pytest.raises(DataError, match=r"N-MNIST: cannot be downloaded to .* \(name not known\)"):
        load("nmnist", steps=2)


def test_events_that_would_fill_the_memory_are_refused(monkeypatch):
    use(monkeypatch, Recordings)
    with pytest.raises(DataError, match="more than 8 GiB"):
        load("nmnist", steps=100_000_000)
