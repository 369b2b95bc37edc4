"""The fuzz target on known and random bytes; a short run of the fuzzer where it is installed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.codec_target import one_input, seeds
from tests.fuzz.runner import TEN_MINUTES, fuzz, needs_atheris

LIMITS = ("-max_len=200", "-len_control=0")


def test_codec_target_accepts_its_seeds():
    for seed in seeds():
        one_input(seed)


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=64))
def test_codec_target_random_bytes_find_nothing(data):
    one_input(data)


@needs_atheris
def test_codecs_a_short_fuzz_finds_nothing(tmp_path):
    fuzz("codec_target", tmp_path, *LIMITS, "-runs=1500", timeout_s=120)


@needs_atheris
@pytest.mark.deep
@pytest.mark.timeout(2 * TEN_MINUTES)
def test_codecs_ten_minutes_of_fuzz_find_nothing(tmp_path):
    fuzz(
        "codec_target",
        tmp_path,
        *LIMITS,
        f"-max_total_time={TEN_MINUTES}",
        timeout_s=1.5 * TEN_MINUTES,
    )
