"""Fixtures shared by all tests."""

import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


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
