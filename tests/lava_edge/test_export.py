from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from lava_edge import export, netx_file, reference
from splitcore import tail as tail_file
from splitcore.bundle import Manifest, Probe, open_bundle
from splitcore.difference import difference
from splitcore.errors import BundleError, NetxError, OverflowBoundError
from splitcore.graph import Conv, Current, Dense, Graph, Identity, Input, Lif
from splitcore.spikes import direct_code
from splitcore.tail import Tail

STEPS = 5


def edge(scale: int = 1) -> Graph:
    """A residual edge half on graded pixels."""
    rng = np.random.default_rng(2)
    stem = Conv(2 * rng.integers(-6, 12, (3, 1, 3, 3)) * scale, padding=(1, 1))
    stem_lif = Lif("stem", (Current("input", stem),), np.array([5, 0, -5]), 1500, 1024)
    inner = Conv(2 * rng.integers(-30, 60, (3, 3, 3, 3)), padding=(1, 1))
    meeting = (Current("stem", inner), Current("stem", Identity(100)))
    block = Lif("block", meeting, np.zeros(3, int), 700, 1024)
    return Graph(Input((1, 6, 6), 6), (stem_lif, block))


def cloud(shape=(3, 6, 6)) -> Tail:
    lif = Lif("head", (Current("code", Identity(64)),), np.zeros(shape[0], int), 100, 1024)
    graph = Graph(Input(shape, name="code"), (lif,))
    return Tail(graph, np.eye(2, shape[0], dtype=np.float32), np.zeros(2, np.float32))


def probe_of(graph: Graph) -> Probe:
    images = np.random.default_rng(0).integers(0, 256, (4, 1, 6, 6)).astype(np.uint8)
    frames = direct_code(images, graph.input.message_bits, STEPS)
    code = reference.run(graph, frames).spikes[graph.output_name]
    assert 0.05 < code.mean() < 0.95
    return Probe(frames[:, 0], code, cloud().scores(code), np.arange(4))


def describe(graph: Graph):
    def manifest(files):
        return Manifest(
            name="test",
            backbone="none",
            split="block",
            steps=STEPS,
            input_shape=graph.input.shape,
            input_bits=graph.input.message_bits,
            feature_shape=(3, 6, 6),
            code_shape=graph.output_shape,
            code_rates=(0.1,) * graph.output_shape[0],
            classes=("a", "b"),
            data="none",
            accuracy=0.5,
            test_samples=4,
            training={},
            files=files,
        )

    return manifest


def exported(out: Path, graph: Graph, probe: Probe, tail: Tail | None = None):
    return export.export_bundle(
        out, graph=graph, tail=tail or cloud(), probe=probe, describe=describe(graph)
    )


def test_export_writes_a_bundle_that_opens_with_the_same_halves(tmp_path):
    graph = edge()
    exported(tmp_path / "bundle", graph, probe_of(graph))
    bundle = open_bundle(tmp_path / "bundle")
    assert difference(netx_file.load(bundle.edge_path), graph) is None
    assert difference(tail_file.load(bundle.cloud_path), cloud()) is None
    assert difference(bundle.probe(), probe_of(graph)) is None


def test_export_of_a_cloud_half_past_24_bits_raises_and_leaves_nothing(tmp_path):
    driven = Lif(
        "head", (Current("code", Dense(np.full((3, 108), -256))),), np.zeros(3, int), 100, 0
    )
    past = Tail(
        Graph(Input((3, 6, 6), name="code"), (driven,)),
        np.eye(2, 3, dtype=np.float32),
        np.zeros(2, np.float32),
    )
    graph = edge()
    with pytest.raises(OverflowBoundError, match="layer head"):
        exported(tmp_path / "bundle", graph, probe_of(graph), past)
    assert not list(tmp_path.iterdir())


def test_export_of_graph_past_24_bits_raises_and_leaves_nothing(tmp_path):
    graph = replace(edge(scale=10), input=Input((1, 6, 6), 8))
    with pytest.raises(OverflowBoundError, match="layer stem"):
        exported(tmp_path / "bundle", graph, probe_of(edge()))
    assert not list(tmp_path.iterdir())


def test_export_of_code_that_differs_by_one_spike_raises_and_leaves_nothing(tmp_path):
    graph = edge()
    probe = probe_of(graph)
    code = probe.code_ntchw.copy()
    code[1, 2, 0, 3, 3] ^= 1
    with pytest.raises(BundleError, match=r"1 of 2160 code spikes"):
        exported(tmp_path / "bundle", graph, replace(probe, code_ntchw=code))
    assert not list(tmp_path.iterdir())


def test_export_of_file_that_reads_back_differently_raises(tmp_path, monkeypatch):
    graph = edge()
    save = netx_file.save

    def damaging(graph: Graph, path: Path) -> None:
        save(graph, path)
        with h5py.File(path, "r+") as file:
            file["network/layer/1/current/0/weight"][0, 0, 0, 0] += 2

    monkeypatch.setattr(netx_file, "save", damaging)
    with pytest.raises(NetxError, match=r"layers\.1\.currents\.0\.synapse\.weight_oihw: 1 of 81"):
        exported(tmp_path / "bundle", graph, probe_of(graph))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"frames": np.zeros((4, 1, 6, 5), np.uint8)}, "probe frames"),
        ({"frames": np.zeros((3, 1, 6, 6), np.uint8)}, "probe codes"),
        ({"frames": np.zeros((4, 1, 6, 6), np.uint16)}, "expected uint8, got uint16"),
        ({"code_ntchw": np.zeros((4, STEPS, 2, 6, 6), np.uint8)}, "probe code"),
        (
            {
                "frames": np.zeros((0, 1, 6, 6), np.uint8),
                "code_ntchw": np.zeros((0, STEPS, 3, 6, 6), np.uint8),
            },
            "at least one frame",
        ),
    ],
)
def test_export_of_probe_that_does_not_fit_raises(tmp_path, changes, message):
    graph = edge()
    with pytest.raises(BundleError, match=message):
        exported(tmp_path / "bundle", graph, replace(probe_of(graph), **changes))


def test_export_of_tail_for_another_code_raises(tmp_path):
    graph = edge()
    with pytest.raises(BundleError, match="tail input"):
        exported(tmp_path / "bundle", graph, probe_of(graph), cloud((3, 3, 3)))
