"""Runs a fuzz target under atheris in a process of its own."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

TEN_MINUTES = 600
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
)


def fuzz(target: str, folder: Path, *options: str, timeout_s: float) -> None:
    """Fail where the target finds anything, hangs 10 s on one input or passes 1 GiB."""
    command = [sys.executable, "-m", f"tests.fuzz.{target}", f"-artifact_prefix={folder}/"]
    limits = ["-timeout=10", "-rss_limit_mb=1024", "-seed=1"]
    done = subprocess.run(
        [*command, *limits, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr[-4000:]
