"""Fixtures shared by all tests: the command line as a user runs it, a small trained bundle."""

import os
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

ROOT = Path(__file__).resolve().parent.parent
CLI = Path(sys.executable).with_name("spikebottlenet")


def run_cli(*arguments: str | Path, cwd: Path, **options) -> subprocess.CompletedProcess[str]:
    """`spikebottlenet` with these arguments, in a process of its own."""
    return subprocess.run(
        [CLI, *arguments], cwd=cwd, capture_output=True, text=True, timeout=240, **options
    )


@pytest.fixture(autouse=True)
def same_draws() -> None:
    """A test draws the same random numbers alone and among others: what fails once fails again."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Decoded images of a test's zips are kept in a folder of its own."""
    folder = tmp_path_factory.mktemp("cache") / "spikebottlenet"
    monkeypatch.setenv("SPIKEBOTTLENET_CACHE", str(folder))
    return folder


@pytest.fixture
def proxy_that_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """An environment that sends what goes through a proxy nowhere."""
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("no_grpc_proxy", "none.invalid")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all test processes of this session share."""
    folder = tmp_path_factory.getbasetemp()
    return folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder


@pytest.fixture(scope="session")
def digits_run(shared_folder: Path) -> Path:
    """The folder of a short training run on digits: real spikes, modest accuracy, seconds.

    Made once for all test processes, as is its bundle; read only.
    """
    from training import config, loop
    from training.data import sources

    folder = shared_folder / "runs" / "digits-small"
    with FileLock(shared_folder / "digits_run.lock"):
        if not folder.exists():
            raw = config.load(config.shipped("digits")).model_dump(mode="json")
            raw["name"] = "digits-small"
            raw["model"]["width"] = 8
            raw["recipe"].update(epochs=8, folded_epochs=2)
            loop.fit(config.parse(raw, "digits-small"), sources.load("digits"), folder)
    return folder


@pytest.fixture(scope="session")
def digits_bundle(digits_run: Path, shared_folder: Path) -> Path:
    """That run as a bundle, with a residual edge half that fires in every layer."""
    from pipeline.export import run

    path = shared_folder / "bundles" / "digits-small"
    with FileLock(shared_folder / "digits_bundle.lock"):
        if not path.exists():
            run(digits_run, out=path, data=None)
    return path


@pytest.fixture(scope="session")
def chromium() -> str:
    """Path of a headless Chromium. Skips where none is, or fails where REQUIRE_CHROMIUM is set."""
    found = subprocess.run([ROOT / ".ci" / "find-chromium"], capture_output=True)
    path = found.stdout.decode().strip()
    if not path:
        reason = "no Chromium found: install it (chromium) so that the report is checked in one"
        if os.environ.get("REQUIRE_CHROMIUM"):
            pytest.fail(reason)
        pytest.skip(reason)
    return path
