import sys
import types

import numpy as np
import pytest
from sklearn.datasets import load_digits

from splitcore.errors import DataError
from training.data import torchvision_cifar
from training.data.dataset import Dataset, Split, hold_out
from training.data.sources import load


def test_digits_splits_hold_every_scan_once():
    dataset = load("digits")
    splits = (dataset.train, dataset.validation, dataset.test)
    assert [len(split) for split in splits] == [1257, 180, 360]
    ours = np.concatenate([split.images.reshape(len(split), 64) for split in splits])
    labels = np.concatenate([split.labels_n for split in splits])
    levels, theirs = load_digits(return_X_y=True)
    # 255/16 a level, rounded to even: 0, 16, 32, 48, 64, 80, 96, 112, 128 (127.5), 143, …
    scaled = np.array([0, 16, 32, 48, 64, 80, 96, 112, 128, 143, 159, 175, 191, 207, 223, 239, 255])
    expected = np.column_stack([scaled[levels.astype(int)], theirs])
    found = np.column_stack([ours, labels])
    assert sorted(map(tuple, found)) == sorted(map(tuple, expected))


def test_digits_classes_are_in_proportion_in_every_split():
    dataset = load("digits")
    for split, low, high in ((dataset.validation, 17, 19), (dataset.test, 35, 37)):
        counts = np.bincount(split.labels_n, minlength=10)
        assert counts.min() >= low
        assert counts.max() <= high


def test_digits_split_is_fixed_by_the_seed():
    assert load("digits", seed=3).digest == load("digits", seed=3).digest
    assert load("digits", seed=3).digest != load("digits", seed=4).digest


def test_digits_of_another_shape_are_refused():
    with pytest.raises(DataError, match=r"digits: its images are \(1, 8, 8\)"):
        load("digits", image_shape=(3, 32, 32))


def test_unknown_name_is_refused_with_the_known_ones():
    with pytest.raises(DataError, match="no such data; give one of digits, cifar10, cifar100"):
        load("no-such-data")


def fake_torchvision(monkeypatch, kind):
    datasets = types.SimpleNamespace(CIFAR10=kind, CIFAR100=kind)
    monkeypatch.setitem(sys.modules, "torchvision", types.SimpleNamespace(datasets=datasets))


def test_cifar_without_a_network_is_refused_with_advice(monkeypatch, tmp_path):
    def offline(root, train, download):
        raise OSError("name not known")

    fake_torchvision(monkeypatch, offline)
    with pytest.raises(DataError, match=r"CIFAR-10: cannot be downloaded .*give a folder or zip"):
        torchvision_cifar.load("cifar10", root=tmp_path)


def test_cifar_becomes_channels_first_and_keeps_stdout_clean(monkeypatch, tmp_path, capsys):
    class Part:
        classes = tuple(str(index) for index in range(10))

        def __init__(self, root, train, download):
            print("Files already downloaded and verified")
            count = 6000 if train else 100
            self.targets = [index % 10 for index in range(count)]
            self.data = np.zeros((count, 32, 32, 3), np.uint8)
            self.data[:, 0, 1, 2] = self.targets

    fake_torchvision(monkeypatch, Part)
    dataset = torchvision_cifar.load("cifar10", root=tmp_path)
    assert dataset.name == "CIFAR-10"
    assert [len(s) for s in (dataset.train, dataset.validation, dataset.test)] == [1000, 5000, 100]
    assert dataset.image_shape == (3, 32, 32)
    assert (dataset.test.images[:, 2, 0, 1] == dataset.test.labels_n).all()
    assert capsys.readouterr().out == ""


def split_of(count: int, shape=(1, 2, 2), classes: int = 2) -> Split:
    return Split(np.zeros((count, *shape), np.uint8), np.arange(count) % classes)


def test_hold_out_more_than_there_is_is_refused():
    with pytest.raises(DataError, match="4 images are too few to hold out 4"):
        hold_out(split_of(4), 4, 0, "toy")


@pytest.mark.parametrize("images", [np.zeros((2, 1, 2, 2)), np.zeros((2, 4), np.uint8)])
def test_split_of_wrong_type_or_dimensions_is_refused(images):
    with pytest.raises(DataError, match="expected uint8"):
        Split(images, np.zeros(2, np.int64))


def test_split_without_a_label_an_image_is_refused():
    with pytest.raises(DataError, match="labels: expected 2"):
        Split(np.zeros((2, 1, 2, 2), np.uint8), np.zeros(3, np.int64))


def test_dataset_of_two_shapes_is_refused():
    with pytest.raises(DataError, match="toy: test images of shape"):
        Dataset("toy", ("a", "b"), split_of(4), split_of(2), split_of(2, (1, 3, 3)))


def test_dataset_with_a_label_beyond_its_classes_is_refused():
    with pytest.raises(DataError, match="validation labels outside 0 … 1"):
        Dataset("toy", ("a", "b"), split_of(4), split_of(3, classes=3), split_of(2))
