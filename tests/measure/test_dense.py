import json

import numpy as np
import pytest

from lava_edge import reference
from measure import dense, energy, profile, sensitivity
from measure.counts import count
from splitcore import spikes
from splitcore.errors import ProfileError
from splitcore.graph import Graph, Input
from tests.measure.test_energy import EVENTS, FRAMES, GRAPH, SPIKES
from tests.pipeline import example


def counts():
    return count(GRAPH, FRAMES, SPIKES)


def test_dense_twin_of_the_hand_worked_network_equals_the_sum_worked_by_hand():
    twin = dense.dense_energy(GRAPH, profile.load("cmos45_fp32"))
    # a: 1 input channel × 2 outputs × (3 + 3 + 3 taps - 2 at the borders) = 14 MACs
    # b: 6 × 2 = 12 MACs
    assert twin.macs == 26
    assert f"{twin.op_only_pj:.4f}" == f"{26 * 4.6:.4f}"
    # every buffer below 8 KB: 5 pJ a 32-bit word
    # a: 14 weights + 14 inputs + 6 biases + 6 outputs = 40 words; b: 12 + 12 + 2 + 2 = 28 words
    # addresses: a: 3 inputs + 6 outputs + 2 × 3 places = 15; b: 12, at 0.1
    # 119.6 + 68 × 5 + 27 × 0.1 = 462.3
    assert f"{twin.full_pj:.4f}" == "462.3000"


def test_break_even_op_only_is_where_both_sums_are_equal():
    twin = dense.dense_energy(GRAPH, profile.load("cmos45_int8"))
    op_only, _ = dense.break_even(GRAPH, counts(), profile.load("cmos45_fp32"), twin, 2)
    # int8 twin: 26 × 0.23 = 5.98; silent spikes still do 8 MACs × 4.6 = 36.8: never
    assert (op_only.rate_times_steps, op_only.why) == (None, dense.DEARER_SILENT)
    assert f"{op_only.ratio:.6f}" == f"{5.98 / 42.2:.6f}"


def test_break_even_against_fp32_solves_the_linear_equation():
    fp32 = profile.load("cmos45_fp32")
    twin = dense.dense_energy(GRAPH, fp32)
    op_only, full = dense.break_even(GRAPH, counts(), profile.load("loihi1"), twin, 2)
    # 119.6 < 8 × 23.6 = 188.8 already without a spike
    assert op_only.rate_times_steps is None
    assert full.rate_times_steps is None
    # 36.8 + 12 connections × rate × 0.9 = 119.6 -> T × rate = 82.8 / 10.8 = 7.6667
    op_only, _ = dense.break_even(GRAPH, counts(), fp32, twin, 8)
    assert op_only.rate_times_steps is not None
    assert f"{op_only.rate_times_steps:.4f}" == "7.6667"
    # in two steps no network can fire that much: spikes are cheaper at every rate
    op_only, _ = dense.break_even(GRAPH, counts(), fp32, twin, 2)
    assert op_only.rate_times_steps == 2.0


def test_break_even_full_is_where_both_full_energies_are_equal():
    graph, fp32 = example.network(), profile.load("cmos45_fp32")
    frames = spikes.direct_code(np.full((2, 1, 8, 8), 200, np.uint8), 6, 4)
    worked = count(graph, frames, reference.run(graph, frames).spikes)
    twin = dense.dense_energy(graph, fp32)
    _, full = dense.break_even(graph, worked, fp32, twin, 4)
    assert full.rate_times_steps is not None
    activity = full.rate_times_steps / energy.rate_times_steps(graph, worked)
    assert 0.01 < activity < 100
    scaled = energy.energy(graph, worked, fp32, 4, activity=activity).mean_pj()["full"]
    assert scaled == pytest.approx(twin.full_pj, rel=1e-9)


def test_dense_twin_without_mac_figure_is_refused():
    with pytest.raises(ProfileError, match="mac_energy"):
        dense.dense_energy(GRAPH, profile.load("tianjic"))


def test_break_even_of_a_chip_without_a_figure_for_all_that_is_done_has_no_ratio():
    stem = Graph(GRAPH.input, GRAPH.layers[:1])
    done = count(stem, FRAMES, {stem.output_name: SPIKES[stem.output_name]})
    twin = dense.dense_energy(stem, profile.load("cmos45_fp32"))
    odin = profile.load("odin")
    op_only, _ = dense.break_even(stem, done, odin, twin, 4, EVENTS)
    assert done.total()["macs"] > done.total()["synops"] == 0
    assert (op_only.ratio, op_only.rate_times_steps) == (None, None)
    assert op_only.why == "no figure for macs"


def test_break_even_without_a_figure_for_some_of_what_is_done_has_neither_ratio_nor_rate():
    # 6 synaptic ops have a figure, the 8 products have none: 26 MACs over 6 ops would be a gift
    twin = dense.dense_energy(GRAPH, profile.load("cmos45_fp32"))
    op_only, full = dense.break_even(GRAPH, counts(), profile.load("tianjic"), twin, 8, EVENTS)
    assert (op_only.ratio, op_only.rate_times_steps) == (None, None)
    assert op_only.why == "no figure for macs"
    assert (full.ratio, full.rate_times_steps) == (None, None)
    assert "macs, neuron updates active, neuron updates idle, routing" in full.why


def test_break_even_of_a_chain_is_op_only_where_a_profile_has_the_operation_alone():
    # binary input: a passes 8 synapses, b 6, all synaptic ops at 1.54 pJ; nothing waits
    chain = Graph(Input((1, 1, 3)), GRAPH.layers)
    done = count(chain, (FRAMES > 0).astype(np.uint8), SPIKES)
    twin = dense.dense_energy(chain, profile.load("cmos45_fp32"))
    op_only, full = dense.break_even(chain, done, profile.load("tianjic"), twin, 2, EVENTS)
    assert f"{op_only.ratio:.6f}" == f"{26 * 4.6 / (14 * 1.54):.6f}"
    assert (op_only.rate_times_steps, op_only.why) == (2.0, "")
    assert full.ratio is None
    assert full.why == "no figure for neuron updates active, neuron updates idle, routing"


def test_break_even_where_no_spike_passes_a_synapse_says_so_and_not_that_silence_costs_more():
    stem = Graph(GRAPH.input, GRAPH.layers[:1])  # pixels alone: there is nothing to scale
    done = count(stem, FRAMES, {"a": SPIKES["a"]})
    fp32 = profile.load("cmos45_fp32")
    op_only, full = dense.break_even(stem, done, fp32, dense.dense_energy(stem, fp32), 2, EVENTS)
    # the twin has 14 connections, of which 8 met a pixel that was not zero
    assert f"{op_only.ratio:.4f}" == f"{14 / 8:.4f}"
    assert (op_only.rate_times_steps, op_only.why) == (None, dense.NO_RATE)
    # in full 437.8 - 3 spikes × 5 = 422.8 without a spike, and 14 × 4.6 + 40 × 5 + 1.5 = 265.9
    assert (full.rate_times_steps, full.why) == (None, dense.DEARER_SILENT)


def test_break_even_of_a_silent_network_that_could_spike_has_no_rate():
    done = count(GRAPH, FRAMES, {name: np.zeros_like(fired) for name, fired in SPIKES.items()})
    fp32 = profile.load("cmos45_fp32")
    op_only, _ = dense.break_even(GRAPH, done, fp32, dense.dense_energy(GRAPH, fp32), 2, EVENTS)
    assert f"{op_only.ratio:.4f}" == f"{26 / 8:.4f}"
    assert (op_only.rate_times_steps, op_only.why) == (None, dense.NO_RATE)


def test_mean_only_gives_the_same_means():
    rng = np.random.default_rng(4)
    frames = np.concatenate([FRAMES, FRAMES[:, ::-1]])
    fired = {name: np.concatenate([s, rng.permuted(s, axis=1)]) for name, s in SPIKES.items()}
    worked = count(GRAPH, frames, fired)
    for name in ("loihi1", "cmos45_int8"):
        every = energy.energy(GRAPH, worked, profile.load(name), 2).mean_pj()
        mean = energy.energy(GRAPH, worked, profile.load(name), 2, mean_only=True).mean_pj()
        assert mean == pytest.approx(every, rel=1e-12)


def test_tornado_swings_are_the_energies_at_both_ends_widest_first():
    loihi = profile.load("loihi1")
    swings = sensitivity.tornado(GRAPH, counts(), loihi, 2, EVENTS)
    widths = [swing.width_pj for swing in swings]
    assert widths == sorted(widths, reverse=True)
    assert swings[0].assumption == "step time"
    # static alone follows the step time: 104.4 mW × 2 × (1.8 + 0.01365) us = 378,690.12 pJ, where
    # 0.465 + 0.01365 us gave 99,942.12 of 101,504.72
    assert f"{swings[0].high_pj:.2f}" == f"{101504.72 - 99942.12 + 378690.12:.2f}"
    macs = next(swing for swing in swings if swing.assumption == "mac energy")
    # 8 MACs × (141.6 - 23.6)
    assert f"{macs.width_pj:.1f}" == "944.0"
    # a's six neurons on one core: 58.2 ns a step, where b's 13.65 were the longest
    packed = next(swing for swing in swings if swing.assumption == "what each core holds")
    assert f"{packed.width_pj:.2f}" == f"{104.4 * 2 * (58.2 - 13.65):.2f}"
    alone = next(swing for swing in swings if swing.assumption == "how samples follow one another")
    # 12 + 2 more idle updates and 2 more active; static 198,464.4 for 99,942.12
    assert f"{alone.width_pj:.2f}" == f"{14 * 52 + 2 * 81 + 198464.4 - 99942.12:.2f}"


def test_tornado_moves_a_buffer_that_has_a_range(tmp_path):
    content = json.loads((profile.FOLDER / "cmos45_fp32.json").read_text())
    content["memory"]["points"][0]["energy"].update(low=1, high=12)
    content["name"] = "mine"
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    mine = profile.load(path)
    swings = sensitivity.tornado(GRAPH, counts(), mine, 2, EVENTS)
    (moved,) = [swing for swing in swings if swing.assumption.startswith("access to a buffer")]
    assert (moved.low_is, moved.high_is) == ("1 pJ", "12 pJ")
    # all buffers are small: 100+200+25 + 50+100+20 = 495 pJ of memory at 10 pJ an access
    assert f"{moved.high_pj - moved.base_pj:.4f}" == f"{495 * 0.2:.4f}"
    assert f"{moved.base_pj - moved.low_pj:.4f}" == f"{495 * 0.9:.4f}"
