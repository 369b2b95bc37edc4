"""What single codecs write, worked out by hand, and what they refuse."""

import numpy as np
import pytest
import zstandard

from splitcore.codec import range_coder, registry
from splitcore.codec.context import CodeContext
from splitcore.errors import CodecError
from tests.splitcore.codec.contexts import context, spikes


def flat(shape, *addresses):
    sent = np.zeros(int(np.prod(shape)), dtype=np.uint8)
    sent[list(addresses)] = 1
    return sent.reshape(shape)


EVENTS = registry.codec_named("events")
ZSTD = registry.codec_named("bitmap+zstd")
RATES = registry.codec_named("rates")
ADAPTIVE = registry.codec_named("adaptive")
WIDE = (1, 1, 200, 100)


@pytest.mark.parametrize(
    ("addresses", "payload"),
    [
        ((), b""),
        ((0,), b"\x00"),
        ((0, 1, 2), b"\x00\x00\x00"),
        ((127,), b"\x7f"),
        ((128,), b"\x80\x01"),  # 128 = 0 + 1 · 128
        ((5, 306), b"\x05\xac\x02"),  # 300 silent places = 44 + 2 · 128
        ((16384,), b"\x80\x80\x01"),
    ],
)
def test_events_are_gaps_in_base_128(addresses, payload):
    known = CodeContext(WIDE, (0.1,))
    sent = flat(WIDE, *addresses)
    assert registry.encode(EVENTS, sent, known) == payload
    np.testing.assert_array_equal(registry.decode(EVENTS.id, payload, known), sent)


@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\x80", "cut off"),
        (b"\x05\xff", "cut off"),
        (b"\x85\x00", "shortest"),
        (b"\x80\x80\x80\x80\x01", "shortest"),
        (b"\xa0\x9c\x01", "outside"),  # 20000
        (b"\x00" * 20001, "outside"),
        (b"\x00" * 80001, "too many"),
    ],
)
def test_events_malformed_raise_codec_error(payload, reason):
    with pytest.raises(CodecError, match=reason):
        registry.decode(EVENTS.id, payload, CodeContext(WIDE, (0.1,)))


def test_zstd_bomb_is_refused():
    bomb = zstandard.ZstdCompressor(
        compression_params=zstandard.ZstdCompressionParameters(
            format=zstandard.FORMAT_ZSTD1_MAGICLESS, write_content_size=0
        )
    ).compress(bytes(1 << 26))
    assert len(bomb) < 10_000
    with pytest.raises(CodecError):
        registry.decode(ZSTD.id, bomb, context((4, 2, 4, 4)))


def test_zstd_frame_that_claims_a_huge_size_is_refused():
    claimed = b"\xe0" + (1 << 50).to_bytes(8, "little")  # single segment, 8 bytes of size
    with pytest.raises(CodecError, match="header"):
        registry.decode(ZSTD.id, claimed + b"\x01\x00\x00", context((4, 2, 4, 4)))


@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (4, 8, 16, 16), (1, 1, 4096, 4096)])
def test_zstd_payload_of_any_size_comes_back(shape):
    known = CodeContext(shape, (0.2,) * shape[1])
    sent = spikes(shape, 0.2, 0)
    payload = registry.encode(ZSTD, sent, known)
    np.testing.assert_array_equal(registry.decode(ZSTD.id, payload, known), sent)


def test_zstd_two_frames_are_refused():
    known = context((4, 2, 4, 4))
    payload = registry.encode(ZSTD, spikes(known.shape, 0.2, 0), known)
    with pytest.raises(CodecError):
        registry.decode(ZSTD.id, payload + payload, known)


def test_rates_even_odds_cost_a_bit_each():
    known = CodeContext((4, 1, 16, 16), (0.5,))
    payload = registry.encode(RATES, spikes(known.shape, 0.5, 0), known)
    assert len(payload) in (127, 128)


@pytest.mark.parametrize("name", ["rates", "adaptive", "trained"])
def test_range_codecs_expected_silence_takes_no_byte(name):
    known = context((1, 1, 4, 4), rate=0.0, spread=0)
    codec = registry.codec_named(name)
    # the zero model says 1/2, for which silence is the end of the interval, not its start
    payload = registry.encode(codec, np.zeros(known.shape, dtype=np.uint8), known)
    assert len(payload) <= (2 if name == "trained" else 1)


@pytest.mark.parametrize("name", ["rates", "adaptive", "trained"])
@pytest.mark.parametrize("rate", [0.02, 0.2, 0.5])
def test_range_codecs_length_is_within_ten_bits_of_the_ideal(name, rate):
    """At the rate itself, or in the trained codec's zero model a bit each."""
    shape = (4, 8, 16, 16)
    known = context(shape, rate=rate, spread=0)
    sent = spikes(shape, rate, 5)
    ones, count = int(sent.sum()), sent.size
    ideal = count if name == "trained" else 0.0
    if name == "rates":
        p = known.rates_q16[0] / 65536
        ideal = -(ones * np.log2(p) + (count - ones) * np.log2(1 - p))
    if name == "adaptive":
        ideal = adaptive_ideal(sent, known)
    payload = registry.encode(registry.codec_named(name), sent, known)
    assert ideal - 8 < 8 * len(payload) < ideal + 10


def adaptive_ideal(sent: np.ndarray, known: CodeContext) -> float:
    """The adaptive codec's docstring, in plain Python."""
    counts: dict[tuple[int, ...], list[float]] = {}
    bits = 0.0

    def at(t, c, y, x):
        return int(sent[t, c, y, x]) if min(t, c, y, x) >= 0 else 0

    for t, c, y, x in np.ndindex(*sent.shape):
        key = (
            c,
            at(t, c, y, x - 1),
            at(t, c, y - 1, x),
            at(t - 1, c, y, x),
            at(t - 2, c, y, x),
            at(t, c - 1, y, x),
        )
        seen = counts.setdefault(key, [0.0, 0.0])
        p = (seen[0] + 2 * known.rates[c]) / (seen[1] + 2)
        bits -= np.log2(p if sent[t, c, y, x] else 1 - p)
        seen[0] += sent[t, c, y, x]
        seen[1] += 1
    return bits


def test_adaptive_repeating_steps_cost_less_than_fresh_ones():
    known = CodeContext((8, 2, 16, 16), (0.3, 0.3))
    one = spikes((1, 2, 16, 16), 0.3, 2)
    repeating = np.repeat(one, 8, axis=0)
    fresh = spikes(known.shape, 0.3, 2)
    sizes = [len(registry.encode(ADAPTIVE, sent, known)) for sent in (repeating, fresh)]
    assert sizes[0] < sizes[1] / 3


@pytest.mark.parametrize("p16", [1, 2, 32768, 65534, 65535])
@pytest.mark.parametrize("unlikely", [0, 1])
def test_range_coder_worst_case_fits_its_buffer(p16, unlikely):
    bit = int(p16 < 32768) if unlikely else int(p16 >= 32768)
    out = range_coder.buffer_for(1000)
    at, low, size = 0, np.int64(0), np.int64(range_coder.TOP)
    for _ in range(1000):
        at, low, size = range_coder.put(out, at, low, size, bit, p16)
    length = range_coder.finish(out, at, low, size)
    assert length <= len(out)
    data = out[:length]
    offset, at = range_coder.start(data)
    size = np.int64(range_coder.TOP)
    for _ in range(1000):
        got, at, offset, size = range_coder.get(data, at, offset, size, p16)
        assert got == bit
