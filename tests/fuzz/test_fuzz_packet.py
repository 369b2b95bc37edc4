"""The packets' fuzz target on known and random bytes; the fuzzer itself where it is installed."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.fuzz.packet_target import one_input, seeds
from tests.fuzz.runner import TEN_MINUTES, fuzz, needs_atheris

LIMITS = ("-max_len=2000",)


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


@needs_atheris
def test_packets_a_short_fuzz_finds_nothing(tmp_path):
    fuzz("packet_target", tmp_path, *LIMITS, "-runs=5000", timeout_s=120)


@needs_atheris
@pytest.mark.deep
@pytest.mark.timeout(2 * TEN_MINUTES)
def test_packets_ten_minutes_of_fuzz_find_nothing(tmp_path):
    fuzz(
        "packet_target",
        tmp_path,
        *LIMITS,
        f"-max_total_time={TEN_MINUTES}",
        timeout_s=1.5 * TEN_MINUTES,
    )
