"""Export: the edge half as NetX HDF5 inside a bundle, proved before the bundle appears.

bounds.check ── save ── load = the records? ── reference on the file = the probe's code? ── bundle
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from lava_edge import netx_file, reference
from splitcore import bounds
from splitcore import tail as tail_file
from splitcore.bundle import Bundle, FileRecord, Manifest, Probe, write_bundle
from splitcore.codec import context_model as model_file
from splitcore.codec.context_model import ContextModel
from splitcore.difference import difference
from splitcore.errors import BundleError, NetxError
from splitcore.graph import Graph
from splitcore.tail import Tail


def export_bundle(
    out: Path,
    *,
    graph: Graph,
    tail: Tail,
    probe: Probe,
    describe: Callable[[dict[str, FileRecord]], Manifest],
    context_model: ContextModel | None = None,
    card: Callable[[Manifest], str] | None = None,
) -> Bundle:
    """Write the bundle `out` with both halves and, where given, its context model; or nothing.

    describe gets the file records and returns the manifest; card makes the text for people of it.
    Raises OverflowBoundError where a half could leave 24 bits within the probe's number of steps,
    BundleError where the probe's code or shapes are not those of the graph, NetxError where the
    file does not read back equal.
    """
    _check_shapes(graph, tail, probe)
    for half in (graph, tail.graph):
        bounds.check(half, steps=probe.code_ntchw.shape[1])

    def write_edge(path: Path) -> None:
        netx_file.save(graph, path)
        prove(path, graph, probe)

    def write_context(path: Path) -> None:
        assert context_model is not None
        model_file.save(context_model, path)

    return write_bundle(
        out,
        describe,
        write_edge,
        lambda path: tail_file.save(tail, path),
        probe,
        write_context if context_model is not None else None,
        card,
    )


def prove(path: Path, graph: Graph, probe: Probe) -> None:
    """Raise unless the file holds exactly this graph and gives exactly the probe's code."""
    written = netx_file.load(path)
    if found := difference(graph, written):
        raise NetxError(f"{path}: the file does not hold the network: {found}")
    code = reference.run(written, probe.frames_ntchw).spikes[written.output_name]
    if mismatched := int(np.count_nonzero(code != probe.code_ntchw)):
        raise BundleError(
            f"{path}: {mismatched} of {code.size} code spikes are not those that the trained "
            "model gave; the graph was not lowered from this model"
        )


def _check_shapes(graph: Graph, tail: Tail, probe: Probe) -> None:
    held = () if graph.input.message_bits else probe.code_ntchw.shape[1:2]
    for what, expected, got in (
        ("probe frames", (*held, *graph.input.shape), probe.frames.shape[1:]),
        ("probe code", graph.output_shape, probe.code_ntchw.shape[2:]),
        ("probe codes", len(probe.frames), len(probe.code_ntchw)),
        ("tail input", graph.output_shape, tail.graph.input.shape),
    ):
        if got != expected:
            raise BundleError(f"{what}: expected {expected}, got {got}")
    if probe.frames.dtype != np.uint8:
        raise BundleError(f"probe frames: expected uint8, got {probe.frames.dtype}")
    if not len(probe.frames):
        raise BundleError("probe: expected at least one frame")
