import json
import os

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from splitcore import bundle as bundles
from splitcore.bundle import Probe, open_bundle, sha256, write_bundle
from splitcore.errors import BundleError
from tests.splitcore.foreign_numbers import renumber
from tests.tiny_bundle import make_bundle


@pytest.fixture
def made(tmp_path):
    return make_bundle(tmp_path / "bundle")


def manifest_of(bundle):
    return json.loads((bundle.path / "manifest.json").read_text())


def rewrite(bundle, **changes):
    """Write the manifest again with these changes, digests of all files brought up to date."""
    manifest = manifest_of(bundle) | changes
    if "files" not in changes:
        for name in manifest["files"]:
            file = bundle.path / name
            manifest["files"][name] = {"sha256": sha256(file), "bytes": file.stat().st_size}
    (bundle.path / "manifest.json").write_text(json.dumps(manifest))


def test_bundle_opens_with_the_digest_of_its_manifest(made):
    assert open_bundle(made.path).digest == sha256(made.path / "manifest.json") == made.digest


def test_the_same_bundle_written_again_has_the_same_digest(tmp_path):
    assert len({make_bundle(tmp_path / "tiny").digest for _ in range(12)}) == 1


def test_bundle_keeps_its_probe(made):
    probe = open_bundle(made.path).probe()
    assert probe.frames.shape == (8, *made.manifest.input_shape)
    assert probe.code_ntchw.shape == (8, *made.manifest.spike_shape)
    assert 0.2 < probe.code_ntchw.mean() < 0.4


@pytest.mark.parametrize("name", bundles.FILES)
def test_bundle_with_a_changed_byte_is_refused(made, name):
    path = made.path / name
    raw = bytearray(path.read_bytes())
    raw[-1] ^= 1
    path.write_bytes(raw)
    with pytest.raises(BundleError, match=f"{name}: its bytes are not those"):
        open_bundle(made.path)


@pytest.mark.parametrize("name", bundles.FILES)
def test_bundle_with_a_missing_file_is_refused(made, name):
    (made.path / name).unlink()
    with pytest.raises(BundleError, match=f"{name}: missing"):
        open_bundle(made.path)


@pytest.mark.parametrize("name", bundles.FILES)
def test_bundle_replaced_while_it_is_opened_is_refused(made, name, monkeypatch):
    def gone(path):
        if path.name == name:
            path.unlink()
        return sha256(path)

    monkeypatch.setattr(bundles, "sha256", gone)
    with pytest.raises(BundleError, match=rf"{name}: cannot be read \(No such file"):
        open_bundle(made.path)


def test_bundle_replaced_since_it_was_opened_says_so(made):
    opened = open_bundle(made.path)
    opened.require_unchanged()
    make_bundle(made.path, seed=7)
    with pytest.raises(BundleError, match="was replaced while it was read"):
        opened.require_unchanged()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2}, "version"),
        ({"format": "other"}, "format"),
        ({"more": 1}, "more"),
        ({"steps": 0}, "steps"),
        ({"steps": "NaN"}, "steps"),
        ({"code_shape": [3, 4]}, "code_shape"),
        ({"code_shape": [3, 4, -4]}, "code_shape"),
        ({"code_shape": [3, 1 << 15, 1 << 15]}, "code_shape: .* more than 67,108,864 values"),
        ({"code_rates": [0.1, 2.0, 0.1]}, "code_rates"),
        ({"code_rates": [0.1]}, "code_rates: expected 3 rates"),
        ({"accuracy": 1.5}, "accuracy"),
        ({"files": {}}, "files: expected"),
        ({"files": {"edge.net": {"sha256": "x", "bytes": 1}}}, "sha256"),
        ({"input_bits": 17}, "input_bits"),
        ({"classes": []}, "classes"),
    ],
)
def test_bundle_of_impossible_manifest_names_the_field(made, changes, message):
    rewrite(made, **changes)
    with pytest.raises(BundleError, match=message) as info:
        open_bundle(made.path)
    assert str(info.value).startswith(str(made.path / "manifest.json"))


def test_bundle_naming_a_file_elsewhere_is_refused(made):
    files = manifest_of(made)["files"]
    files["../outside"] = files.pop("edge.net")
    rewrite(made, files=files)
    with pytest.raises(BundleError, match="files: expected"):
        open_bundle(made.path)


@pytest.mark.parametrize("content", ["", "{", "[]", "[" * 100_000, "null"])
def test_bundle_of_no_manifest_is_refused(made, content):
    (made.path / "manifest.json").write_text(content)
    with pytest.raises(BundleError, match=r"manifest\.json"):
        open_bundle(made.path)


def test_bundle_of_a_manifest_that_is_a_pipe_is_refused(made):
    (made.path / "manifest.json").unlink()
    os.mkfifo(made.path / "manifest.json")
    with pytest.raises(BundleError, match=r"manifest\.json: is no file"):
        open_bundle(made.path)


def test_bundle_of_giant_manifest_is_refused_unread(made):
    (made.path / "manifest.json").write_bytes(b" " * (bundles.MAX_MANIFEST_BYTES + 1))
    with pytest.raises(BundleError, match="more than 1,048,576 bytes"):
        open_bundle(made.path)


def test_bundle_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(BundleError, match="no such bundle"):
        open_bundle(tmp_path / "none")


def test_folder_without_manifest_is_refused(tmp_path):
    with pytest.raises(BundleError, match="cannot be read"):
        open_bundle(tmp_path)


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("frames", np.zeros((8, 1, 8, 7), np.uint8)),
        ("frames", np.zeros((8, 1, 8, 8), np.float32)),
        ("frames", np.zeros((7, 1, 8, 8), np.uint8)),
        ("scores", np.zeros((8, 4), np.float32)),
        ("labels", np.zeros((8, 1), np.int64)),
        ("labels", np.zeros(8, np.float32)),
        ("labels", np.zeros(7, np.int64)),
        ("code", np.zeros(3, np.uint8)),
    ],
)
def test_probe_that_does_not_fit_its_manifest_is_refused(made, name, tensor):
    path = made.path / "probe.safetensors"
    save_file(load_file(path) | {name: tensor}, path)
    rewrite(made)
    with pytest.raises(BundleError, match=r"probe\.safetensors"):
        open_bundle(made.path).probe()


@pytest.mark.parametrize(
    ("tensors", "said"),
    [
        (
            {
                "frames": np.zeros((0, 1, 8, 8), np.uint8),
                "code": np.zeros(0, np.uint8),
                "scores": np.zeros((0, 5), np.float32),
                "labels": np.zeros(0, np.int64),
            },
            "holds no frame",
        ),
        ({"scores": np.full((8, 5), np.nan, np.float32)}, "scores: expected finite numbers"),
    ],
)
def test_probe_that_can_prove_nothing_is_refused(made, tensors, said):
    path = made.path / "probe.safetensors"
    save_file(load_file(path) | tensors, path)
    rewrite(made)
    with pytest.raises(BundleError, match=rf"probe\.safetensors: {said}"):
        open_bundle(made.path).probe()


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3"])
def test_probe_of_numbers_that_numpy_has_not_is_refused(made, dtype):
    path = made.path / "probe.safetensors"
    renumber(path, "I64", dtype)
    rewrite(made)
    with pytest.raises(BundleError, match=f"labels: numpy has no numbers of {dtype}"):
        open_bundle(made.path).probe()


def test_probe_without_a_tensor_is_refused(made):
    path = made.path / "probe.safetensors"
    tensors = load_file(path)
    del tensors["scores"]
    save_file(tensors, path)
    rewrite(made)
    with pytest.raises(BundleError, match="damaged probe"):
        open_bundle(made.path).probe()


def test_write_over_a_bundle_replaces_it_whole(tmp_path):
    first = make_bundle(tmp_path / "bundle", seed=0, name="first")
    (first.path / "stray").write_text("left over")
    second = make_bundle(tmp_path / "bundle", seed=1, name="second")
    assert open_bundle(first.path).manifest.name == "second" != first.manifest.name
    assert second.digest != first.digest
    assert not (first.path / "stray").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_write_over_something_else_is_refused(tmp_path):
    (tmp_path / "bundle").mkdir()
    (tmp_path / "bundle" / "precious").write_text("mine")
    with pytest.raises(BundleError, match="is no bundle"):
        make_bundle(tmp_path / "bundle")
    assert (tmp_path / "bundle" / "precious").read_text() == "mine"


def test_write_that_fails_leaves_the_older_bundle_and_nothing_else(tmp_path):
    made = make_bundle(tmp_path / "bundle")
    probe = made.probe()

    def fails(path):
        path.write_bytes(b"half")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        write_bundle(made.path, lambda files: made.manifest, fails, fails, probe)
    assert open_bundle(made.path).digest == made.digest
    assert [path.name for path in tmp_path.iterdir()] == ["bundle"]


def test_write_of_code_that_is_not_binary_leaves_nothing(tmp_path):
    made = make_bundle(tmp_path / "bundle")
    good = made.probe()
    bad = Probe(good.frames, good.code_ntchw + np.uint8(1), good.scores_nk, good.labels_n)

    def writes(path):
        path.write_bytes(b"something")

    with pytest.raises(Exception, match="only 0 and 1"):
        write_bundle(tmp_path / "other", lambda files: made.manifest, writes, writes, bad)
    assert not (tmp_path / "other").exists()
