"""What a user can get wrong: one clear line, exit 2, no process left, nothing written."""

import hashlib
import io
import json
import os
import shutil
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from splitcore.bundle import CLOUD, EDGE, MANIFEST, PROBE
from tests.conftest import CLI, run_cli

CONFIG = """\
name: tiny
model: {backbone: resnet8, width: 8}
bottleneck: {split: stage2.block1, channels: 2}
recipe: {epochs: 1}
"""


@pytest.fixture
def place(tmp_path) -> Path:
    """A folder to run in, holding tiny.yaml and an empty folder for temporary files."""
    folder = tmp_path / "place"
    (folder / "tmp").mkdir(parents=True)
    (folder / "tiny.yaml").write_text(CONFIG)
    return folder


@pytest.fixture
def bundle(place, digits_bundle) -> Path:
    """A copy of the small bundle, to be damaged."""
    return Path(shutil.copytree(digits_bundle, place / "bundle"))


def files_in(folder: Path) -> dict[str, str]:
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        if path.is_file()
        else ""
        for path in folder.rglob("*")
    }


def processes_with(mark: str) -> list[str]:
    """Names of the running processes that carry this mark in their environment."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if mark.encode() in (process / "environ").read_bytes():
                found.append((process / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:  # it has ended, or is not ours to read
            continue
    return found


def refused(*arguments: str | Path, place: Path) -> str:
    """Run a command that has to fail as promised; returns its one line."""
    before = files_in(place)
    mark = uuid.uuid4().hex
    environment = {**os.environ, "TMPDIR": str(place / "tmp"), "TEST_MARK": mark}
    result = run_cli(*arguments, cwd=place, env=environment)
    assert result.returncode == 2, result.stderr
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    lines = [line for line in result.stderr.splitlines() if line.startswith("spikebottlenet:")]
    assert len(lines) == 1, result.stderr
    assert processes_with(mark) == []
    assert files_in(place) == before
    return lines[0]


def write_images(root: Path, broken: str | None = None) -> Path:
    buffer = io.BytesIO()
    Image.new("L", (8, 8)).save(buffer, "PNG")
    for name in "0123456789":
        for index in range(4):
            path = root / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(buffer.getvalue())
    if broken:
        (root / broken).write_bytes(buffer.getvalue()[:45])
    return root


def rewrite_manifest(bundle: Path, **changes) -> None:
    manifest = json.loads((bundle / MANIFEST).read_text())
    manifest.update(changes)
    (bundle / MANIFEST).write_text(json.dumps(manifest))


def test_folder_without_images_is_refused(place):
    (place / "images").mkdir()
    line = refused("train", "tiny.yaml", "--data", "images", "--out", "out", place=place)
    assert "images: holds no images" in line


def test_class_folder_with_a_broken_image_is_refused_by_name(place):
    write_images(place / "images", broken="3/2.png")
    line = refused("train", "tiny.yaml", "--data", "images", "--out", "out", place=place)
    assert "images: 3/2.png: broken image" in line


def test_images_that_do_not_fit_the_bundle_are_refused(place, bundle):
    write_images(place / "images", broken=None)
    shutil.rmtree(place / "images" / "9")
    line = refused("verify", bundle, "--data", "images", place=place)
    assert "images" in line
    assert "classes" in line


def change_a_byte(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize("name", [EDGE, CLOUD, PROBE])
def test_bundle_with_a_changed_byte_is_refused_by_name(place, bundle, name):
    change_a_byte(bundle / name)
    line = refused("verify", bundle, place=place)
    assert f"{name}: its bytes are not those the manifest names" in line


@pytest.mark.parametrize("command", [("edge", "--server", "127.0.0.1:1"), ("serve",)])
def test_both_halves_refuse_a_bundle_with_a_changed_byte(place, bundle, command):
    change_a_byte(bundle / CLOUD)
    assert "cloud.safetensors: its bytes" in refused(command[0], bundle, *command[1:], place=place)


def test_bundle_with_an_impossible_manifest_is_refused_by_field(place, bundle):
    rewrite_manifest(bundle, steps="four")
    line = refused("verify", bundle, place=place)
    assert "manifest.json" in line
    assert "steps" in line


def test_bundle_that_is_not_there_is_refused(place):
    assert "no such bundle" in refused("verify", "none", place=place)


def test_config_with_an_unknown_field_is_refused_by_name(place):
    with (place / "tiny.yaml").open("a") as config:
        config.write("colour: red\n")
    line = refused("train", "tiny.yaml", "--out", "out", place=place)
    assert "tiny.yaml" in line
    assert "colour" in line


def test_truncated_hdf5_under_a_manifest_that_names_it_is_refused(place, bundle):
    data = (bundle / EDGE).read_bytes()[:20_000]
    (bundle / EDGE).write_bytes(data)
    files = json.loads((bundle / MANIFEST).read_text())["files"]
    files[EDGE] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
    rewrite_manifest(bundle, files=files)
    assert "edge.net" in refused("energy", bundle, place=place)


def test_server_that_is_not_there_is_refused(place, bundle):
    with socket.socket() as held:  # bound and never listening: nobody can be there
        held.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{held.getsockname()[1]}"
        line = refused("edge", bundle, "--server", address, "--samples", "2", place=place)
    assert address in line


@pytest.fixture
def server_of_another(place, digits_bundle) -> Iterator[str]:
    """Address of a running server of a bundle with another name, and so another digest."""
    other = Path(shutil.copytree(digits_bundle, place.parent / "other"))
    rewrite_manifest(other, name="other")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    server = subprocess.Popen(
        [CLI, "serve", other, "--listen", address],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        host, port = address.split(":")
        for _ in range(600):
            with socket.socket() as client:
                if client.connect_ex((host, int(port))) == 0:
                    break
            assert server.poll() is None
            time.sleep(0.1)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def test_bundle_that_is_not_the_servers_is_refused(place, bundle, server_of_another):
    line = refused("edge", bundle, "--server", server_of_another, "--samples", "2", place=place)
    assert "bundle" in line


def test_truncated_checkpoint_is_refused_by_name(place, digits_run):
    data = (digits_run / "checkpoint.safetensors").read_bytes()
    (place / "cut.safetensors").write_bytes(data[: len(data) // 2])
    assert "cut.safetensors" in refused("export", "cut.safetensors", "--out", "new", place=place)


def test_damaged_result_is_refused_by_name(place):
    (place / "result.json").write_text('{"samples": 3')
    assert "result.json" in refused("report", "result.json", "--out", "page.html", place=place)
