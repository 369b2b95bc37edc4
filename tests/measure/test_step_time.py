import numpy as np
import pytest

from measure import profile
from measure.step_time import Work, step_us

NONE = np.zeros((1, 3))


def work(*operations, places):
    return Work(np.array([operations], float), NONE, NONE, np.array(places))


def loihi(chip=4096):
    return profile.load("loihi1").with_value("neurons_per_chip", chip)


def test_work_is_shared_out_as_evenly_as_neurons_have_room():
    # one chip of four cores. The first layer's 2,048 neurons need two of them, whatever they do;
    # the others share two: (600 + 200) × 3.5 ns / 2
    done = work(100, 600, 200, places=[2048, 512, 512])
    assert step_us(loihi(), done, 1).tolist() == pytest.approx([0.465 + 1.4])


def test_an_even_load_needs_no_bound():
    # 800 × 3.5 ns over four cores
    done = work(400, 200, 200, places=[1024, 512, 512])
    assert step_us(loihi(), done, 1).tolist() == pytest.approx([0.465 + 0.7])


def test_no_neuron_is_parted():
    # 2 neurons do 200 of 210 operations: two cores at most, 100 × 3.5 ns
    done = work(200, 5, 5, places=[2, 512, 512])
    assert step_us(loihi(), done, 1).tolist() == pytest.approx([0.465 + 0.35])


def test_a_full_chip_has_no_choice():
    done = work(100, 600, 200, places=[2048, 1024, 1024])
    assert step_us(loihi(), done, 1).tolist() == pytest.approx([0.465 + 2.1])


def test_packed_layers_take_whole_cores():
    # 1,500 neurons: two cores, 300 operations each
    done = work(100, 600, 200, places=[512, 1500, 512])
    packed = step_us(loihi(), done, 1, "packed")
    assert packed is not None
    assert packed.tolist() == pytest.approx([0.465 + 1.05])


def test_each_sample_waits_for_its_own_busiest_core_placed_for_the_mean():
    operations = np.array([[400.0, 0.0], [0.0, 400.0]])
    done = Work(operations, 0 * operations, 0 * operations, np.array([512, 512]))
    # both layers get two of four cores: 400 × 3.5 / 2, in two steps
    assert step_us(loihi(), done, 2).tolist() == pytest.approx([0.465 + 0.35] * 2)


def test_a_step_of_fixed_length_stays_what_it_is():
    done = work(1, 2, 3, places=[1, 1, 1])
    assert step_us(profile.load("truenorth"), done, 1).tolist() == [1000]
    assert step_us(profile.load("tianjic"), done, 1) is None


def test_nothing_done_takes_the_barrier_alone():
    assert step_us(loihi(), work(0, 0, 0, places=[1, 1, 1]), 4).tolist() == [0.465]
