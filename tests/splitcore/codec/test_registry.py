import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from splitcore import spikes as bits
from splitcore.codec import registry
from splitcore.codec.context import MAX_SPIKES, CodeContext
from splitcore.codec.trained import code_length
from splitcore.errors import CodecError, DataError
from tests.splitcore.codec.contexts import context, rates, seeds, shapes, spikes

CODECS = registry.codecs()
every_codec = pytest.mark.parametrize("codec", CODECS, ids=lambda codec: codec.name)
quick = settings(max_examples=60, deadline=None)


@every_codec
@quick
@given(
    shape=shapes,
    said=rates,
    true=rates,
    seed=seeds,
    spread=st.sampled_from([0, 300, 32767]),
    alone=st.booleans(),
)
def test_codec_any_spikes_come_back(codec, shape, said, true, seed, spread, alone):
    known = context(shape, seed, said, spread, alone)
    sent = spikes(shape, true, seed)
    payload = registry.encode(codec, sent, known)
    np.testing.assert_array_equal(registry.decode(codec.id, payload, known), sent)


@every_codec
@quick
@given(shape=shapes, rate=rates, seed=seeds, cut=st.integers(0, 5), alone=st.booleans())
def test_codec_stream_of_steps_comes_back(codec, shape, rate, seed, cut, alone):
    known = context(shape, seed, alone=alone)
    sent = spikes(shape, rate, seed)
    got = sent[:0]
    places = sorted({0, min(cut, shape[0]), *range(cut, shape[0]), shape[0]})
    for first, last in itertools.pairwise(places):
        payload = registry.encode(codec, sent[first:last], known, sent[:first])
        coming = registry.decode(codec.id, payload, known, got, last - first)
        got = np.concatenate([got, coming])
    np.testing.assert_array_equal(got, sent)


@quick
@given(shape=shapes, rate=rates, seed=seeds, data=st.data())
def test_decode_many_does_as_decode_does_one_by_one(shape, rate, seed, data):
    known = context(shape, seed)
    samples = []
    for k, codec in enumerate(data.draw(st.lists(st.sampled_from(CODECS), max_size=6))):
        payload = registry.encode(codec, spikes(shape, rate, seed + k), known)
        samples.append((codec.id, data.draw(st.just(payload) | damages(payload))))
    samples.append((99, b"of no codec"))
    alone = [registry.Coded(*sample) for sample in samples]
    together = np.concatenate([spikes(shape, rate, seed + 10 + k) for k in range(3)])
    group = registry.Coded(*registry.encode_best(together, known), samples=3)
    group = group._replace(payload=data.draw(st.just(group.payload) | damages(group.payload)))
    mixed = [group._replace(place=2), *alone, group._replace(place=0)]
    out = np.full((len(mixed), *shape), 9, dtype=np.uint8)
    errors = registry.decode_many(mixed, known, out)
    reasons = {place: str(error) for place, error in errors.items()}
    for place, one in enumerate(mixed):
        steps = one.samples * shape[0]
        try:
            decoded, reason = registry.decode(one.codec, one.payload, known, steps=steps), None
        except CodecError as error:
            decoded, reason = np.full((steps, *shape[1:]), 9), str(error)
        assert reasons.get(place) == reason
        expected = decoded.reshape(one.samples, *shape)[one.place]
        np.testing.assert_array_equal(out[place], expected)


@every_codec
@quick
@given(shape=shapes, rate=rates, seed=seeds, count=st.integers(2, 5), alone=st.booleans())
def test_codec_samples_together_come_back(codec, shape, rate, seed, count, alone):
    known = context(shape, seed, alone=alone)
    sent = np.concatenate([spikes(shape, rate, seed + k) for k in range(count)])
    payload = registry.encode(codec, sent, known)
    got = registry.decode(codec.id, payload, known, steps=count * shape[0])
    np.testing.assert_array_equal(got, sent)


def test_trained_samples_together_cost_what_they_cost_alone_less_the_last_bits():
    known = context((4, 3, 4, 4), seed=2)
    trained = registry.codec_named("trained")
    codes = [spikes(known.shape, 0.3, seed) for seed in range(16)]
    ideal = sum(code_length(code, known.model) for code in codes) / 8
    together = len(registry.encode(trained, np.concatenate(codes), known))
    assert ideal <= together <= ideal + 1.1
    assert sum(len(registry.encode(trained, code, known)) for code in codes) > together + 2


@pytest.mark.parametrize(("steps", "past"), [(0, 0), (5, 0), (7, 0), (4, 1), (8, 1), (260, 0)])
def test_steps_that_are_neither_a_part_nor_whole_samples_are_refused(steps, past):
    known = context((4, 2, 3, 3))
    behind = np.zeros((past, 2, 3, 3), dtype=np.uint8)
    with pytest.raises(CodecError, match="neither a part of 4 nor 1 … 64 whole samples"):
        registry.encode_best(np.zeros((steps, 2, 3, 3), dtype=np.uint8), known, behind)
    with pytest.raises(CodecError, match="neither a part of 4 nor 1 … 64 whole samples"):
        registry.decode(1, b"", known, behind, steps)


@every_codec
@pytest.mark.parametrize("level", [0, 1])
def test_codec_silence_and_saturation_come_back(codec, level):
    shape = (4, 8, 16, 16)
    known = context(shape, rate=0.0)
    sent = np.full(shape, level, dtype=np.uint8)
    payload = registry.encode(codec, sent, known)
    np.testing.assert_array_equal(registry.decode(codec.id, payload, known), sent)


@every_codec
@settings(max_examples=150, deadline=None)
@given(shape=shapes, seed=seeds, payload=st.binary(max_size=80))
def test_codec_random_bytes_are_spikes_or_codec_error(codec, shape, seed, payload):
    known = context(shape, seed)
    try:
        got = registry.decode(codec.id, payload, known)
    except CodecError:
        return
    assert got.shape == shape
    assert got.dtype == np.uint8
    assert got.max() <= 1
    if codec.name != "bitmap+zstd":
        assert registry.encode(codec, got, known) == payload


@every_codec
@settings(max_examples=150, deadline=None)
@given(shape=shapes, rate=rates, seed=seeds, data=st.data())
def test_codec_damaged_payload_is_other_spikes_or_codec_error(codec, shape, rate, seed, data):
    known = context(shape, seed)
    sent = spikes(shape, rate, seed)
    payload = registry.encode(codec, sent, known)
    damaged = data.draw(damages(payload))
    try:
        got = registry.decode(codec.id, damaged, known)
    except CodecError:
        return
    assert got.shape == shape
    if damaged != payload and codec.name != "bitmap+zstd":
        assert (got != sent).any()


def damages(payload: bytes) -> st.SearchStrategy[bytes]:
    cut = st.integers(0, len(payload)).map(lambda keep: payload[:keep])
    extended = st.binary(min_size=1, max_size=9).map(lambda more: payload + more)
    if not payload:
        return extended

    def flip(bit: int) -> bytes:
        number = int.from_bytes(payload, "big") ^ 1 << bit
        return number.to_bytes(len(payload), "big")

    return cut | extended | st.integers(0, 8 * len(payload) - 1).map(flip)


@every_codec
@pytest.mark.parametrize("filler", [b"\x00", b"\x01", b"\x7f", b"\x80", b"\xff"])
def test_codec_a_megabyte_for_few_spikes_is_refused(codec, filler):
    with pytest.raises(CodecError):
        registry.decode(codec.id, filler * (1 << 20), context((4, 2, 4, 4)))


def test_encode_best_takes_the_shortest_payload():
    known = context((4, 4, 8, 8), rate=0.05)
    sent = spikes(known.shape, 0.05, 1)
    codec_id, payload = registry.encode_best(sent, known)
    assert len(payload) == min(len(registry.encode(codec, sent, known)) for codec in CODECS)
    np.testing.assert_array_equal(registry.decode(codec_id, payload, known), sent)


def test_encode_best_without_model_leaves_the_trained_codec_out():
    known = CodeContext((4, 4, 8, 8), (0.1,) * 4)
    trained = registry.codec_named("trained")
    assert not trained.usable(known)
    assert registry.encode_best(spikes(known.shape, 0.1, 1), known)[0] != trained.id
    with pytest.raises(CodecError, match="context model"):
        registry.decode(trained.id, b"", known)
    out = np.empty((1, *known.shape), dtype=np.uint8)
    (error,) = registry.decode_many([registry.Coded(trained.id, b"")], known, out).values()
    assert "context model" in str(error)


def test_ids_are_those_on_the_wire():
    assert {codec.name: codec.id for codec in CODECS} == {
        "bitmap": 1,
        "events": 2,
        "bitmap+zstd": 3,
        "rates": 4,
        "adaptive": 5,
        "trained": 6,
    }


def test_codec_named_unknown_raises_codec_error():
    with pytest.raises(CodecError, match="no codec 'jpeg'"):
        registry.codec_named("jpeg")


@pytest.mark.parametrize("codec_id", [-1, 0, 7, 1 << 40])
def test_decode_unknown_id_raises_codec_error(codec_id):
    with pytest.raises(CodecError, match="no codec has the id"):
        registry.decode(codec_id, b"", context((1, 1, 1, 1)))


@pytest.mark.parametrize(("past", "steps"), [(0, 0), (0, 5), (3, 2), (0, -1)])
def test_decode_impossible_steps_raise_codec_error(past, steps):
    known = context((4, 1, 2, 2))
    with pytest.raises(CodecError, match="steps"):
        registry.decode(1, b"", known, np.zeros((past, 1, 2, 2), dtype=np.uint8), steps)


def test_decode_whole_sample_as_past_raises_codec_error():
    known = context((4, 1, 2, 2))
    with pytest.raises(CodecError, match="past"):
        registry.decode(1, b"", known, np.zeros(known.shape, dtype=np.uint8))


def test_encode_graded_values_raise_data_error():
    known = context((1, 1, 2, 2))
    with pytest.raises(DataError):
        registry.encode_best(np.full(known.shape, 2, dtype=np.uint8), known)


def test_bitmap_is_the_packed_form():
    known = context((2, 1, 3, 3))
    sent = spikes(known.shape, 0.5, 3)
    assert registry.encode(registry.codec_named("bitmap"), sent, known) == bits.pack(sent)


@pytest.mark.parametrize(
    ("shape", "rates"),
    [
        ((0, 1, 1, 1), (0.1,)),
        ((1, 1, 4097, 4096), (0.1,)),
        ((1, 2, 1, 1), (0.1,)),
        ((1, 1, 1, 1), (1.5,)),
        ((1, 1, 1, 1), (float("nan"),)),
        ((1, 1, 1), (0.1,)),
    ],
)
def test_context_impossible_raises_codec_error(shape, rates):
    with pytest.raises(CodecError):
        CodeContext(shape, rates)


def test_context_model_of_other_shape_raises_codec_error():
    model = context((4, 1, 2, 2)).model
    with pytest.raises(CodecError, match="context model"):
        CodeContext((4, 1, 2, 3), (0.1,), model)


def test_context_largest_shape_is_accepted():
    assert CodeContext((1, 1, 4096, 4096), (0.1,)).shape[2] * 4096 == MAX_SPIKES
