"""Decoded images of a zip: read again from the entry, never a stale or a damaged one."""

import json
import os

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save_file

from splitcore.errors import DataError
from tests.training.test_data_folders import TRAIN_AND_TEST, two_classes, write_zip
from training.data import class_folders
from training.data.sources import load, load_test


@pytest.fixture
def archive(tmp_path):
    return write_zip(tmp_path / "files.zip", TRAIN_AND_TEST)


@pytest.fixture
def decodings(monkeypatch):
    """Every time that a zip is really read."""
    seen = []
    real = class_folders.open_source

    def noted(path):
        seen.append(path)
        return real(path)

    monkeypatch.setattr(class_folders, "open_source", noted)
    return seen


def same(one, other):
    return np.array_equal(one.images, other.images) and np.array_equal(one.labels_n, other.labels_n)


def test_a_zip_is_decoded_once_and_gives_the_same_data_again(archive, decodings):
    first, again = load(archive, seed=1), load(archive, seed=1)
    assert len(decodings) == 1
    assert (first.name, first.classes, first.digest) == (again.name, again.classes, again.digest)
    tests = [load_test(archive, seed=1, samples=count) for count in (None, 2)]
    assert len(decodings) == 2
    assert same(tests[0].split, first.test)
    assert len(tests[1].split) == 2
    assert tests[1].classes == first.classes


def test_another_seed_or_shape_or_zip_is_decoded_anew(tmp_path, archive, decodings):
    load(archive, seed=1)
    load(archive, seed=2)
    load(archive, seed=1, image_shape=(1, 2, 2))
    assert len(decodings) == 3
    other = write_zip(tmp_path / "other.zip", two_classes(12))
    digest = load(other, seed=1).digest
    other.replace(archive)
    assert load(archive, seed=1).digest == digest


@pytest.mark.parametrize("damage", [lambda raw: raw[:40], lambda _raw: b"", lambda raw: raw[:-9]])
def test_a_damaged_entry_is_made_again(archive, own_cache, decodings, damage):
    digest = load(archive).digest
    (entry,) = own_cache.glob("*.safetensors")
    entry.write_bytes(damage(entry.read_bytes()))
    assert load(archive).digest == digest
    assert load(archive).digest == digest
    assert len(decodings) == 2


def rewritten(entry, told=None, leave_out=None):
    """The entry with other words beside its arrays, or one array fewer."""
    with safe_open(entry, framework="numpy") as file:
        names = [name for name in file.keys() if name != leave_out]  # noqa: SIM118
        arrays, words = {name: file.get_tensor(name) for name in names}, file.metadata()["entry"]
    save_file(arrays, entry, {"entry": words if told is None else told(words)})


def changed(**fields):
    return lambda words: json.dumps({**json.loads(words), **fields})


@pytest.mark.parametrize(
    "damage",
    [
        {"leave_out": "test.labels"},
        {"told": lambda words: words.replace('"classes"', '"glasses"')},
        {"told": changed(classes="ab")},
        {"told": changed(classes=["ant"])},
        {"told": changed(name=5)},
        {"told": lambda _words: "[1]"},
        {"told": lambda _words: "[" * 100_000},
    ],
    ids=["array", "no classes", "text", "too few", "name", "list", "deep"],
)
def test_an_entry_whose_content_is_damaged_is_made_again(archive, own_cache, decodings, damage):
    digest = load(archive).digest
    (entry,) = own_cache.glob("*.safetensors")
    rewritten(entry, **damage)
    assert load(archive).digest == digest
    assert load(archive).digest == digest
    assert len(decodings) == 2


def test_a_zip_whose_name_is_no_text_is_kept_too(archive, tmp_path, decodings):
    odd = archive.rename(tmp_path / os.fsdecode(b"od\xff.zip"))
    assert load(odd).digest == load(odd).digest
    assert len(decodings) == 1
    assert load(odd).name == "od\ufffd"


def test_a_broken_image_is_refused_and_nothing_is_kept(tmp_path, own_cache):
    broken = write_zip(tmp_path / "files.zip", {**TRAIN_AND_TEST, "test/ant/1.png": b"no image"})
    with pytest.raises(DataError, match=r"test/ant/1\.png: broken image"):
        load_test(broken)
    assert not list(own_cache.glob("*"))


def test_a_cache_that_cannot_be_written_is_done_without(archive, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setitem(os.environ, "SPIKEBOTTLENET_CACHE", str(tmp_path / "file" / "cache"))
    assert load(archive).digest == load(archive).digest
