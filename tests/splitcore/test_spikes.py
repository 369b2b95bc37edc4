import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as st_numpy

from splitcore import spikes
from splitcore.errors import CodecError, DataError

SHAPES = st_numpy.array_shapes(min_dims=1, max_dims=5, max_side=7)


@given(SHAPES.flatmap(lambda shape: st_numpy.arrays(np.uint8, shape, elements=st.integers(0, 1))))
def test_pack_and_unpack_of_any_spikes_round_trip(tensor):
    packed = spikes.pack(tensor)
    assert len(packed) == spikes.packed_size(tensor.shape)
    assert np.array_equal(spikes.unpack(packed, tensor.shape), tensor)


def test_pack_puts_the_first_spike_in_the_highest_bit():
    assert spikes.pack(np.array([1, 0, 0, 0, 0, 0, 1, 0, 1])) == bytes([0b10000010, 0b10000000])


def test_unpack_of_spikes_behind_the_end_raises():
    with pytest.raises(CodecError, match="behind the last spike"):
        spikes.unpack(bytes([0b00010000]), (3,))


@pytest.mark.parametrize("length", [0, 2])
def test_unpack_of_wrong_length_raises(length):
    with pytest.raises(CodecError, match="expected 1 bytes"):
        spikes.unpack(bytes(length), (2, 2))


@pytest.mark.parametrize("values", [[0, 2], [-1, 0], [0.0, 1.0]])
def test_check_of_other_values_raises(values):
    with pytest.raises(DataError, match="only 0 and 1"):
        spikes.check_spikes(np.array(values), (2,))


def test_check_of_other_shape_raises():
    with pytest.raises(DataError, match="expected shape"):
        spikes.check_spikes(np.zeros(3, np.uint8), (4,))


def test_check_takes_booleans():
    assert spikes.check_spikes(np.array([True, False]), (2,)).tolist() == [1, 0]


def test_direct_code_keeps_the_highest_bits_in_every_step():
    frames = spikes.direct_code(np.array([[[[255, 128, 7]]]], np.uint8), 6, 3)
    assert frames.shape == (1, 3, 1, 1, 3)
    assert frames[0, :, 0, 0].tolist() == [[63, 32, 1]] * 3
    assert not frames.flags.writeable


@pytest.mark.parametrize(
    ("images", "bits"),
    [
        (np.zeros((1, 1, 2, 2)), 6),
        (np.zeros((1, 2, 2), np.uint8), 6),
        (np.zeros((1, 1, 2, 2), np.uint8), 9),
        (np.zeros((1, 1, 2, 2), np.uint8), 0),
    ],
)
def test_direct_code_of_what_is_no_image_raises(images, bits):
    with pytest.raises(DataError):
        spikes.direct_code(images, bits, 2)
