"""The packets' fuzz target on known and random bytes; the fuzzer itself where it is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.packet_target import one_input, seeds

ROOT = Path(__file__).resolve().parents[2]
TEN_MINUTES = 600
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
)


def test_packet_target_accepts_its_seeds():
    for seed in seeds():
        one_input(seed)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(seeds()), st.data())
def test_packet_target_damaged_conversations_find_nothing(seed, data):
    damaged = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(seed) - 1))] = data.draw(st.integers(0, 255))
    one_input(bytes(damaged))


def fuzz(folder: Path, *options: str, timeout_s: float) -> None:
    command = [sys.executable, "-m", "tests.fuzz.packet_target", f"-artifact_prefix={folder}/"]
    limits = ["-max_len=2000", "-timeout=10", "-rss_limit_mb=1024", "-seed=1"]
    done = subprocess.run(
        [*command, *limits, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    assert done.returncode == 0, done.stderr[-4000:]


@needs_atheris
def test_packets_a_short_fuzz_finds_nothing(tmp_path):
    fuzz(tmp_path, "-runs=5000", timeout_s=120)


@needs_atheris
@pytest.mark.deep
@pytest.mark.timeout(2 * TEN_MINUTES)
def test_packets_ten_minutes_of_fuzz_find_nothing(tmp_path):
    fuzz(tmp_path, f"-max_total_time={TEN_MINUTES}", timeout_s=1.5 * TEN_MINUTES)
