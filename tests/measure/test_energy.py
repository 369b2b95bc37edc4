import math

import numpy as np
import pytest

from measure import energy, profile
from measure.counts import Counts, count
from splitcore.errors import DataError
from splitcore.graph import Conv, Current, Dense, Graph, Identity, Input, Lif


def lif(name, *currents, channels):
    return Lif(name, currents, np.zeros(channels, np.int32), threshold=10, voltage_decay=1024)


# Two layers whose spikes are known. Input 1×1×3, 4 bits, T = 2 steps:
#     step 1: 5 0 0        step 2: 0 0 3        so 2 events, both at a border
# a: conv 2×1×1×3, padding 1 -> 2×1×3, 6 neurons. A border pixel reaches 2 places × 2 channels = 4,
#    so 8 MACs; 6 neurons × 2 steps = 12 updates, of which at most 8 active, 4 idle; fires 2 + 1.
# b: dense 6 -> 2. 3 spikes × 2 targets = 6 synops; 2 × 2 = 4 updates, all active; fires once.
GRAPH = Graph(
    Input((1, 1, 3), message_bits=4),
    (
        lif(
            "a",
            Current("input", Conv(np.full((2, 1, 1, 3), 2), padding=(0, 1))),
            channels=2,
        ),
        lif("b", Current("a", Dense(np.full((2, 6), 2))), channels=2),
    ),
)
FRAMES = np.array([[[5, 0, 0], [0, 0, 3]]], dtype=np.uint8).reshape(1, 2, 1, 1, 3)
SPIKES = {
    "a": np.array([[1, 0, 0, 0, 1, 0], [0, 0, 1, 0, 0, 0]], np.uint8).reshape(1, 2, 2, 1, 3),
    "b": np.array([[0, 0], [1, 0]], np.uint8).reshape(1, 2, 2, 1, 1),
}
EVENTS = np.array([2])


# a -> b -> c and a -> c: the shortcut waits one step, in 4 relay neurons; 3 events pass them
WAITING = Graph(
    Input((1, 2, 2)),
    (
        lif("a", Current("input", Identity(2)), channels=1),
        lif("b", Current("a", Identity(2)), channels=1),
        lif("c", Current("b", Identity(2)), Current("a", Identity(2)), channels=1),
    ),
)


def waited():
    zeros = np.zeros((1, 3), np.int64)
    return Counts(
        layers=("a", "b", "c"),
        spikes=zeros,
        synops=zeros,
        macs=zeros,
        neuron_updates=zeros + 8,
        relay_events=np.array([[0, 0, 3]]),
    )


def counts():
    return count(GRAPH, FRAMES, SPIKES)


def term(result, name):
    return next(item for item in result.terms if item.name == name)


def digits(energy_pj):
    return [f"{value:.4f}" for value in np.asarray(energy_pj)[0]]


def test_counts_of_the_hand_worked_network_are_those_in_its_comment():
    worked = counts()
    assert worked.macs.tolist() == [[8, 0]]
    assert worked.synops.tolist() == [[0, 6]]
    assert worked.spikes.tolist() == [[3, 1]]
    assert worked.neuron_updates.tolist() == [[12, 4]]
    assert worked.relay_events.sum() == 0


def test_energy_of_two_layers_on_cmos_equals_the_sum_worked_by_hand():
    result = energy.energy(GRAPH, counts(), profile.load("cmos45_fp32"), 2, EVENTS)
    # op-only: 8 MACs × 4.6 = 36.8; 6 ACs × 0.9 = 5.4
    assert digits(result.op_only_pj) == ["36.8000", "5.4000"]
    # active: 8 × 5.5 = 44, 4 × 5.5 = 22; idle: 4 × 4.6 = 18.4, none
    assert digits(term(result, "neuron_updates_active").energy_pj) == ["44.0000", "22.0000"]
    assert digits(term(result, "neuron_updates_idle").energy_pj) == ["18.4000", "0.0000"]
    # every buffer is below 8 KB: 10 pJ for 64 bits, so 5 pJ for a 32-bit word
    # weights: 8 × 5 + 12 biases × 5 = 100; 6 × 5 + 4 × 5 = 50
    assert digits(term(result, "memory_weights").energy_pj) == ["100.0000", "50.0000"]
    # states, read and written: 2 × (8 + 12) × 5 = 200; 2 × (6 + 4) × 5 = 100
    assert digits(term(result, "memory_states").energy_pj) == ["200.0000", "100.0000"]
    # events: a reads 2 pixels, writes 3 spikes: 25; b reads 3, writes 1: 20
    assert digits(term(result, "memory_events").energy_pj) == ["25.0000", "20.0000"]
    # addresses: 8 × 0.1 + 2 events × 2 × 3.2 = 13.6; dense: 6 × 0.1 = 0.6
    assert digits(term(result, "addressing").energy_pj) == ["13.6000", "0.6000"]
    # 36.8+44+18.4+100+200+25+13.6 = 437.8; 5.4+22+0+50+100+20+0.6 = 198
    assert digits(result.full_pj) == ["437.8000", "198.0000"]
    assert term(result, "routing").status == "included"
    assert result.absent == ("static",)


def test_energy_of_two_layers_on_loihi_equals_the_sum_worked_by_hand():
    result = energy.energy(GRAPH, counts(), profile.load("loihi1"), 2, EVENTS)
    # op-only: 8 × 23.6 = 188.8; 6 × 23.6 = 141.6
    assert digits(result.op_only_pj) == ["188.8000", "141.6000"]
    # active: 8 × 81 = 648, 4 × 81 = 324; idle: 4 × 52 = 208
    assert digits(term(result, "neuron_updates_active").energy_pj) == ["648.0000", "324.0000"]
    assert digits(term(result, "neuron_updates_idle").energy_pj) == ["208.0000", "0.0000"]
    # a message: 1.7 + 2 hops × 3.5 = 8.7; a: (2 pixels + 3 spikes) × 8.7; b: 1 × 8.7 to the link
    assert digits(term(result, "routing").energy_pj) == ["43.5000", "8.7000"]
    # a step waits for b, whose two neurons are busy for (6 × 3.5 + 4 × 8.4) / 2 = 27.3 ns of it, on
    # two cores: 465 + 13.65 ns. 104.4 mW × 2 × 0.47865 us = 99,942.12 pJ, shared 6 : 2
    assert f"{result.step_us:.5f}" == "0.47865"
    assert digits(term(result, "static").energy_pj) == ["74956.5900", "24985.5300"]
    assert digits(term(result, "relays").energy_pj) == ["0.0000", "0.0000"]
    # 188.8+648+208+43.5+74956.59 = 76044.89; 141.6+324+8.7+24985.53 = 25459.83
    assert digits(result.full_pj) == ["76044.8900", "25459.8300"]
    assert f"{result.mean_pj()['full']:.4f}" == "101504.7200"
    assert term(result, "memory_weights").status == "included"


def test_rate_times_steps_of_the_hand_worked_network_is_a_half():
    # 6 synops over the 12 spiking connections of b; the graded connections of a are left out
    assert energy.rate_times_steps(GRAPH, counts()) == 0.5


def test_energy_without_input_events_takes_every_pixel_of_every_step():
    result = energy.energy(GRAPH, counts(), profile.load("loihi1"), 2)
    # 3 pixels × 2 steps + 3 spikes = 9 messages of 8.7 pJ
    assert digits(term(result, "routing").energy_pj) == ["78.3000", "8.7000"]


def test_relays_of_a_shortcut_cost_neurons_and_messages():
    result = energy.energy(WAITING, waited(), profile.load("loihi1"), 2)
    # 3 × (23.6 + 81 + 8.7) + (8 - 3) × 52 = 339.9 + 260
    assert digits(term(result, "relays").energy_pj) == ["0.0000", "0.0000", "599.9000"]


def test_relays_take_their_places_on_chips():
    small = profile.load("loihi1").with_value("neurons_per_chip", 12)
    result = energy.energy(WAITING, waited(), small, 2)
    # 3 × 4 neurons would fill one chip; the 4 relays before c need a second
    # busy: a and b 8 × 5.3 / 2 = 21.2 ns a step each, c (3 × (3.5 + 8.4) + 13 × 5.3) / 2 = 52.3 ns;
    # 94.7 ns on 24/1024 of a core take 4040.53 ns, and the barrier 465
    # 2 × 104.4 mW × 2 × 4.50553 us = 1,881,510.72 pJ, shared 4 : 4 : 4 + 4
    assert digits(term(result, "static").energy_pj) == [
        "470377.6800",
        "470377.6800",
        "940755.3600",
    ]


def test_a_sample_alone_runs_on_until_its_last_spikes_are_out():
    loihi = profile.load("loihi1")
    alone = energy.energy(GRAPH, counts(), loihi, 2, EVENTS, alone=True)
    # depth 2: four steps for two, 24 and 8 updates; active as many as operations came, 8 and 6
    assert digits(term(alone, "neuron_updates_active").energy_pj) == ["648.0000", "486.0000"]
    assert digits(term(alone, "neuron_updates_idle").energy_pj) == ["832.0000", "104.0000"]
    # b: (6 × 3.5 + 6 × 8.4 + 2 × 5.3) / 4 = 20.5 ns on two cores
    # 104.4 mW × 4 × 0.47525 us = 198,464.4 pJ
    assert f"{term(alone, 'static').energy_pj.sum():.2f}" == "198464.40"


def test_the_mean_alone_is_the_mean_of_all_samples():
    # two samples, each of which keeps another layer busiest
    zeros = np.zeros((2, 2), np.int64)
    uneven = Counts(
        layers=("a", "b"),
        spikes=zeros,
        synops=np.array([[4_000_000, 0], [0, 2_000_000]]),
        macs=zeros,
        neuron_updates=zeros + 12,
        relay_events=zeros,
    )
    loihi, events = profile.load("loihi1"), np.array([2, 2])
    every = energy.energy(GRAPH, uneven, loihi, 2, events)
    mean = energy.energy(GRAPH, uneven, loihi, 2, events, mean_only=True)
    assert mean.mean_pj() == pytest.approx(every.mean_pj(), rel=1e-12)
    assert mean.step_us == pytest.approx(every.step_us, rel=1e-12)
    assert every.step_us > 1


def test_a_shortcut_computes_no_addresses():
    result = energy.energy(WAITING, waited(), profile.load("cmos45_fp32"), 2)
    assert term(result, "addressing").energy_pj.sum() == 0


def test_a_silent_network_of_binary_input_has_no_events_at_all():
    chain = Graph(
        Input((1, 1, 3)),
        (lif("a", Current("input", Dense(np.full((2, 3), 2))), channels=2),),
    )
    done = count(chain, (FRAMES > 0).astype(np.uint8), {"a": SPIKES["b"]})
    for name, of_events in (("loihi1", "routing"), ("cmos45_fp32", "memory_events")):
        silent = energy.energy(chain, done, profile.load(name), 2, EVENTS, activity=0.0)
        assert term(silent, of_events).energy_pj.sum() == 0
        half = energy.energy(chain, done, profile.load(name), 2, EVENTS, activity=0.5)
        whole = energy.energy(chain, done, profile.load(name), 2, EVENTS)
        sums = [term(each, of_events).energy_pj.sum() for each in (half, whole)]
        assert sums[0] == pytest.approx(sums[1] / 2)
        assert sums[1] > 0


def test_what_never_happens_needs_no_figure():
    # one dense layer of binary input: no graded products, no shortcut, so neither is missed
    chain = Graph(
        Input((1, 1, 3)),
        (lif("a", Current("input", Dense(np.full((2, 3), 2))), channels=2),),
    )
    done = count(chain, (FRAMES > 0).astype(np.uint8), {"a": SPIKES["b"]})
    result = energy.energy(chain, done, profile.load("tianjic"), 2)
    assert result.absent == ("neuron_updates_active", "routing", "static")
    assert digits(term(result, "macs").energy_pj) == ["0.0000"]
    assert digits(term(result, "relays").energy_pj) == ["0.0000"]


def test_relays_without_a_figure_are_absent_where_a_shortcut_waits():
    result = energy.energy(WAITING, waited(), profile.load("tianjic"), 2)
    assert "relays" in result.absent
    assert "macs" not in result.absent


def test_connections_of_every_synapse_equal_a_walk_over_all_pairs():
    source = (2, 5, 4)
    conv = Conv(np.ones((4, 1, 3, 2), np.int32), (2, 1), (1, 0), (1, 2), groups=2)
    _, height, width = conv.output_shape(source)
    pairs = sum(
        0 <= 2 * y + ky - 1 < 5 and 0 <= x + 2 * kx < 4
        for y in range(height)
        for x in range(width)
        for ky in range(3)
        for kx in range(2)
    )
    assert energy.connections(conv, source) == 4 * 1 * pairs
    assert energy.connections(Identity(4), source) == 40
    assert energy.connections(Dense(np.ones((3, 40), np.int32)), source) == 120


def test_access_energy_between_two_buffer_sizes_lies_on_their_line():
    memory = profile.load("cmos45_int8")
    # half-way from 8 KB (10 pJ) to 32 KB (20 pJ), flat below, same slope beyond 1 MB
    assert memory.access_energy_pj(1) == 10
    assert memory.access_energy_pj(20480) == 15
    slope = 80 / (1048576 - 32768)
    assert math.isclose(memory.access_energy_pj(2 << 20), 100 + slope * 1048576)


def test_energy_of_foreign_counts_is_refused():
    worked = counts()
    foreign = Counts(
        layers=("x", "b"),
        spikes=worked.spikes,
        synops=worked.synops,
        macs=worked.macs,
        neuron_updates=worked.neuron_updates,
        relay_events=worked.relay_events,
    )
    with pytest.raises(DataError, match="expected layers"):
        energy.energy(GRAPH, foreign, profile.load("loihi1"), 2)


def test_as_dict_says_absent_terms_have_no_energy():
    record = energy.energy(GRAPH, counts(), profile.load("cmos45_int8"), 2).as_dict()
    static = next(item for item in record["terms"] if item["name"] == "static")
    assert static["status"] == "absent"
    assert static["energy_pj"] is None
