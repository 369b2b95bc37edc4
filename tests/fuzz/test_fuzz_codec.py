"""The fuzz target on known and random bytes; a short run of the fuzzer where it is installed."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.codec_target import one_input, seeds

ROOT = Path(__file__).resolve().parents[2]
TEN_MINUTES = 600
needs_atheris = pytest.mark.skipif(
    importlib.util.find_spec("atheris") is None, reason="atheris is not installed"
)


def test_codec_target_accepts_its_seeds():
    for seed in seeds():
        one_input(seed)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=64))
def test_codec_target_random_bytes_find_nothing(data):
    one_input(data)


def fuzz(folder: Path, *options: str, timeout_s: float) -> None:
    command = [sys.executable, "-m", "tests.fuzz.codec_target", f"-artifact_prefix={folder}/"]
    limits = ["-max_len=200", "-len_control=0", "-timeout=10", "-rss_limit_mb=1024", "-seed=1"]
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
def test_codecs_a_short_fuzz_finds_nothing(tmp_path):
    fuzz(tmp_path, "-runs=1500", timeout_s=120)


@needs_atheris
@pytest.mark.deep
@pytest.mark.timeout(2 * TEN_MINUTES)
def test_codecs_ten_minutes_of_fuzz_find_nothing(tmp_path):
    fuzz(tmp_path, f"-max_total_time={TEN_MINUTES}", timeout_s=1.5 * TEN_MINUTES)
