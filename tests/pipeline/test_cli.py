"""The command line: one clear line and exit 2 for bad input, one JSON object with --json."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

COMMANDS = ("demo", "train", "export", "verify", "serve", "edge", "energy", "plan", "report")
BENCHES = ("edge", "train", "wire", "serve")


def _run(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline.cli", *map(str, arguments)],
        capture_output=True,
        text=True,
        timeout=120,
    )


def _assert_refused(done: subprocess.CompletedProcess[str], *words: str) -> None:
    lines = [line for line in done.stderr.splitlines() if "error:" in line]
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert len(lines) == 1, done.stderr
    for word in words:
        assert word in lines[0]


@pytest.fixture
def bundle(digits_bundle: Path, tmp_path: Path) -> Path:
    """A copy that a test may damage."""
    return Path(shutil.copytree(digits_bundle, tmp_path / "bundle"))


@pytest.mark.parametrize("command", COMMANDS)
def test_help_of_every_command_teaches(command: str) -> None:
    done = _run(command, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


@pytest.mark.parametrize("name", BENCHES)
def test_help_of_every_bench_teaches(name: str) -> None:
    done = _run("bench", name, "--help")
    assert done.returncode == 0
    assert "--json" in done.stdout


@pytest.mark.parametrize("name", ["edge.net", "cloud.safetensors", "probe.safetensors"])
def test_verify_of_a_bundle_with_a_changed_byte_is_refused(bundle: Path, name: str) -> None:
    raw = bytearray((bundle / name).read_bytes())
    raw[len(raw) // 2] ^= 1
    (bundle / name).write_bytes(raw)
    _assert_refused(_run("verify", bundle), name, "bytes are not those")


def test_verify_of_a_bundle_with_a_changed_manifest_is_refused(bundle: Path) -> None:
    path = bundle / "manifest.json"
    path.write_text(path.read_text().replace('"steps": 4', '"steps": "four"'))
    _assert_refused(_run("verify", bundle), "manifest.json", "steps")


def test_verify_of_a_missing_bundle_is_refused(tmp_path: Path) -> None:
    _assert_refused(_run("verify", tmp_path / "none"), "no such bundle")


def test_verify_of_a_truncated_hdf5_is_refused(bundle: Path) -> None:
    import hashlib

    path = bundle / "edge.net"
    old = path.read_bytes()
    path.write_bytes(old[: len(old) // 2])
    manifest = bundle / "manifest.json"
    text = manifest.read_text()
    text = text.replace(
        hashlib.sha256(old).hexdigest(), hashlib.sha256(path.read_bytes()).hexdigest()
    )
    text = text.replace(f'"bytes": {len(old)}', f'"bytes": {len(old) // 2}')
    manifest.write_text(text)
    _assert_refused(_run("verify", bundle), "edge.net")


def test_edge_without_a_server_is_refused(digits_bundle: Path) -> None:
    _assert_refused(
        _run("edge", digits_bundle, "--server", "127.0.0.1:9", "--samples", 2), "127.0.0.1:9"
    )


def test_serve_of_a_bundle_with_a_changed_byte_is_refused(bundle: Path) -> None:
    (bundle / "cloud.safetensors").write_bytes(b"x")
    _assert_refused(_run("serve", bundle), "cloud.safetensors")


def test_train_on_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    (tmp_path / "images" / "cat").mkdir(parents=True)
    out = tmp_path / "run"
    done = _run("train", _config(tmp_path), "--data", tmp_path / "images", "--out", out)
    _assert_refused(done, "images")
    assert not out.exists()


def test_train_on_a_broken_image_is_refused_by_its_name(tmp_path: Path) -> None:
    from PIL import Image

    for split in ("train", "test"):
        for label in ("cat", "dog"):
            folder = tmp_path / "images" / split / label
            folder.mkdir(parents=True)
            for index in range(8):
                Image.new("RGB", (8, 8), (index * 30, 0, 0)).save(folder / f"{index}.png")
    (tmp_path / "images" / "train" / "cat" / "3.png").write_bytes(b"\x89PNG broken")
    done = _run(
        "train", _config(tmp_path), "--data", tmp_path / "images", "--out", tmp_path / "run"
    )
    _assert_refused(done, "3.png")
    assert not (tmp_path / "run").exists()


def _config(folder: Path) -> Path:
    path = folder / "config.yaml"
    path.write_text(
        "name: small\n"
        "model: {backbone: resnet8, width: 4}\n"
        "bottleneck: {split: stem, channels: 2}\n"
        "recipe: {epochs: 1}\n"
    )
    return path


def test_train_with_an_unknown_field_is_refused_by_name(tmp_path: Path) -> None:
    path = _config(tmp_path)
    path.write_text(path.read_text() + "colour: red\n")
    _assert_refused(_run("train", path), "config.yaml", "colour")


def test_export_with_json_prints_one_object_alone(digits_run: Path, tmp_path: Path) -> None:
    done = _run("export", digits_run, "--out", tmp_path / "bundle", "--json")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["data"] == "digits"
    assert done.stdout.count("\n") == 1


def test_verify_with_json_finds_no_mismatch_in_any_engine(digits_bundle: Path) -> None:
    done = _run("verify", digits_bundle, "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["engines"] == ["slayer", "reference", "leaf", "stock"]
    assert result["mismatched_spikes"] == 0
    assert result["prediction_mismatches"] == 0
    assert set(result["mismatched_states_by_engine"].values()) == {0}
    assert result["silent_layers"] == []
    assert result["stock_conv_routine"] == "lava"
