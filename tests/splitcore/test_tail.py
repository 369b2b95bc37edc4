import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from splitcore import tail as tails
from splitcore.difference import difference
from splitcore.errors import BundleError, GraphError
from splitcore.graph import Current, Dense, Graph, Identity, Input, Lif
from splitcore.tail import Tail
from tests.splitcore.foreign_numbers import renumber
from tests.tiny_bundle import make_bundle, random_tail


def dense_tail(weight=((2, 4, 6),), delay=None):
    dense = Dense(np.array(weight), delay)
    lif = Lif("only", (Current("input", dense),), np.zeros(len(dense.weight_oi), int), 10, 1024)
    readout = np.array([[0.5], [-1]], np.float32)
    return Tail(Graph(Input((3, 1, 1)), (lif,)), readout, np.array([0, 1], np.float32))


@pytest.fixture
def path(tmp_path):
    return tmp_path / "cloud.safetensors"


@pytest.mark.parametrize("seed", range(5))
def test_tail_of_every_synapse_kind_round_trips(path, seed):
    tails.save(random_tail(seed), path)
    assert difference(tails.load(path), random_tail(seed)) is None


def test_tail_of_odd_weights_round_trips(path):
    odd = dense_tail([[-256, 253, 1]])
    tails.save(odd, path)
    assert difference(tails.load(path), odd) is None


def test_tail_stores_even_weights_in_one_byte_and_odd_ones_in_two(path):
    tails.save(dense_tail(), path)
    assert load_file(path)["only.0.weight"].dtype == np.int8
    tails.save(dense_tail([[1, 2, 3]]), path)
    assert load_file(path)["only.0.weight"].dtype == np.int16


def test_scores_are_the_mean_over_time_and_space():
    # rates 3/4 and 0: 0.5 · 0.75 + 0 and −1 · 0.75 + 1
    spikes = np.array([1, 1, 0, 1, 0, 0, 0, 0]).reshape(2, 4, 1, 1, 1)
    assert dense_tail().scores(spikes).tolist() == [[0.375, 0.25], [0.0, 1.0]]


def test_float32_error_of_scores_is_what_so_many_roundings_may_do():
    # n = 1 channel + 4 steps + 6 roundings; Σ|w|·r + |b| is 0.5 · 0.75 + 0 and 1 · 0.75 + 1
    roundings = 11 * 2.0**-24
    found = dense_tail().float32_error(np.array([[0.75]]), 4)
    assert found == pytest.approx(roundings * np.array([[0.375, 1.75]]), rel=1e-5)


def test_tail_with_delays_is_refused(path):
    with pytest.raises(GraphError, match="no synaptic delays"):
        tails.save(dense_tail(delay=np.array([[0, 1, 0]])), path)


@pytest.mark.parametrize(
    ("weight", "bias"),
    [(np.zeros((2, 2)), np.zeros(2)), (np.zeros((2, 1)), np.zeros(3)), (np.zeros(1), np.zeros(1))],
)
def test_tail_of_readout_that_does_not_fit_raises(weight, bias):
    with pytest.raises(GraphError, match="readout"):
        Tail(dense_tail().graph, weight, bias)


def test_tail_of_readout_with_nan_raises():
    with pytest.raises(GraphError, match="finite"):
        Tail(dense_tail().graph, np.full((2, 1), np.nan), np.zeros(2))


def rewritten(path, change):
    """The file of a good tail with its tensors and structure changed by `change`."""
    tails.save(dense_tail(), path)
    tensors = load_file(path)
    raw = path.read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])["__metadata__"]
    structure = json.loads(header["structure"])
    change(tensors, header, structure)
    header["structure"] = header.get("raw") or json.dumps(structure)
    save_file(tensors, path, metadata=header)
    return path


def refused(path, change, message):
    with pytest.raises(BundleError, match=message) as info:
        tails.load(rewritten(path, change))
    assert str(info.value).startswith(str(path))


def entry(structure):
    return structure["layers"][0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t, h, s: h.update(format="other-9"), "expected format"),
        (lambda t, h, s: h.update(raw="{"), "damaged structure"),
        (lambda t, h, s: h.update(raw="[" * 100_000), "damaged structure"),
        (lambda t, h, s: s.pop("layers"), "damaged structure"),
        (lambda t, h, s: s.update(layers=[]), "readout: expected weight"),
        (lambda t, h, s: s.update(layers=3), "damaged structure"),
        (lambda t, h, s: s["input"].update(shape=[3, 1]), "damaged structure"),
        (lambda t, h, s: s["input"].update(shape=[0, 1, 1]), "input shape"),
        (lambda t, h, s: s["input"].update(shape=[3.0, 1.0, 1.0]), "input shape: .* got 3.0"),
        (lambda t, h, s: entry(s).update(threshold="x"), "layer only: threshold: .* got 'x'"),
        (lambda t, h, s: entry(s).update(threshold=float("inf")), "threshold: .* got inf"),
        (lambda t, h, s: entry(s).update(threshold=10.5), "threshold: .* got 10.5"),
        (lambda t, h, s: entry(s).update(voltage_decay=float("nan")), "voltage_decay: .* got nan"),
        (lambda t, h, s: entry(s).update(current_decay=None), "current_decay: .* got None"),
        (
            lambda t, h, s: entry(s)["currents"][0].update(kind="identity", weight=float("inf")),
            r"only\.0\.weight: identity weight: .* got inf",
        ),
        (lambda t, h, s: entry(s).update(threshold=9999), "threshold"),
        (lambda t, h, s: entry(s)["currents"][0].update(kind="pool"), "unknown synapse kind"),
        (lambda t, h, s: entry(s)["currents"][0].update(source="only"), "is not before it"),
        (lambda t, h, s: t.pop("only.0.weight"), "its weight is missing"),
        (lambda t, h, s: t.pop("only.bias"), "damaged structure"),
        (lambda t, h, s: t.pop("readout.bias"), "damaged structure"),
        (lambda t, h, s: t.update({"only.bias": np.zeros(1, np.float32)}), "expected integers"),
        (
            lambda t, h, s: t.update({"only.0.weight": np.zeros((1, 3), np.float32)}),
            "expected int8 or int16",
        ),
        (lambda t, h, s: t.update({"only.0.weight": np.zeros((1, 4), np.int8)}), "expected 4"),
        (
            lambda t, h, s: t.update({"readout.weight": np.full((2, 1), np.inf, np.float32)}),
            "finite",
        ),
    ],
)
def test_load_of_damaged_tail_names_file_and_reason(path, change, message):
    refused(path, change, message)


def test_load_of_small_tail_that_asks_for_all_memory_is_refused(path):
    def change(tensors, header, structure):
        giant = {"kind": "conv_transpose", "stride": (8192, 8192), "padding": (0, 0)}
        structure["input"]["shape"] = [1, 1, 1]
        entry(structure)["currents"][0].update(giant, output_padding=(8191, 8191))
        tensors["only.0.weight"] = np.ones((1, 1, 1, 1), np.int8)

    refused(path, change, r"network: 1,073,741,840 values in each of 1 steps")
    assert path.stat().st_size < 1000


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"code_shape": (3, 4, 5)}, r"of a code \(3, 4, 4\); the manifest says 5 of \(3, 4, 5\)"),
        ({"classes": tuple("abcd")}, r"makes 5 scores .*; the manifest says 4"),
        ({"steps": 1 << 16}, "values in each of 65536 steps"),
    ],
)
def test_tail_of_a_bundle_that_says_otherwise_is_refused(tmp_path, changes, message):
    made = make_bundle(tmp_path / "bundle")
    tails.of_bundle(made)
    other = made.manifest.model_copy(update=changes)
    with pytest.raises(BundleError, match=message) as info:
        tails.of_bundle(replace(made, manifest=other))
    assert str(info.value).startswith(str(made.cloud_path))


@pytest.mark.parametrize("dtype", ["BF16", "F8_E4M3", "F8_E5M2"])
def test_load_of_numbers_that_numpy_has_not_names_the_tensor(path, dtype):
    save_file({"readout.bias": np.zeros(1, np.int16)}, path, metadata={"format": tails.FORMAT})
    renumber(path, "I16", dtype)
    with pytest.raises(BundleError, match=f"readout.bias: numpy has no numbers of {dtype}"):
        tails.load(path)


@pytest.mark.parametrize("content", [b"", b"\xff" * 64, b"\x08" + bytes(7) + b"not json"])
def test_load_of_no_safetensors_is_refused(path, content):
    path.write_bytes(content)
    with pytest.raises(BundleError, match="no readable safetensors"):
        tails.load(path)


def test_load_of_missing_tail_is_refused(path):
    with pytest.raises(BundleError, match="no readable safetensors"):
        tails.load(path)


def test_identity_needs_no_tensor(path):
    lif = Lif("only", (Current("input", Identity(6)),), np.zeros(3, int), 10, 1024)
    tail = Tail(Graph(Input((3, 2, 2)), (lif,)), np.zeros((2, 3)), np.zeros(2))
    tails.save(tail, path)
    assert set(load_file(path)) == {"readout.weight", "readout.bias", "only.bias"}
    assert difference(tails.load(path), tail) is None
