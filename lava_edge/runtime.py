"""Run an edge network in Lava's fixed-point simulator, which lives in a process of its own.

    frames ─> feeder thread ─> simulator (Lava) ─> results, in order, as they come

`simulate` takes whole samples, many side by side; `stream` takes a frame a time step and hands out
the spikes of each step as they appear. Frames are never piled up: what is under way is bounded.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lava_edge import layout, stock_limits
from lava_edge.channel import Kind, Record
from lava_edge.edge_source import EdgeSource, edge_source
from lava_edge.feeder import Feeder, checked_sample
from lava_edge.watchdog import Simulator
from measure.counts import FIELDS, Counts, count
from splitcore.errors import DataError, UsageError
from splitcore.graph import Graph

MODELS = ("leaf", "stock")
CONVS = ("lava", "blas")
RECORDS = ("none", "spikes", "states")
STALL_S = 600.0  # a wide stock network may well take minutes a step
MAX_BATCH = 32
BATCH_BYTES = 256 << 20  # state that samples side by side may take
AHEAD_STEPS = 4  # steps under way when streaming

_ARRAYS = {Kind.SPIKES: "spikes", Kind.VOLTAGE: "voltage", Kind.CURRENT: "current"}


@dataclass(frozen=True, eq=False)
class SampleResult:
    """One sample: output spikes uint8 (T, C, H, W), its counts, and what was recorded by layer."""

    index: int
    code_tchw: np.ndarray
    counts: Counts  # of this one sample
    spikes: dict[str, np.ndarray] = field(default_factory=dict)
    voltage: dict[str, np.ndarray] = field(default_factory=dict)  # after reset, int32
    current: dict[str, np.ndarray] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class StepResult:
    """One step of one sample: output spikes (C, H, W) and when the last of them was computed.

    spiked_ns is on the clock of `time.monotonic_ns`.
    """

    sample: int
    step: int
    code_chw: np.ndarray
    spiked_ns: int


def simulate(
    edge: Path | Graph,
    frames_ntchw: np.ndarray | Iterable[np.ndarray],
    *,
    model: str = "leaf",
    conv: str = "lava",
    batch: int | None = None,
    record: str | None = None,
    input_message_bits: int | None = None,
    stall_s: float = STALL_S,
) -> Iterator[SampleResult]:
    """Simulate samples one after the other; yields a result each, in order, as they come.

    edge: a NetX file (the simulator loads its very bytes) or a graph. frames_ntchw: levels
    (N, T, C, H, W), or an iterable of samples (T, C, H, W); a view that repeats one frame over T
    is sent as one frame. model: "leaf" or "stock". conv: the routine of stock convolutions, Lava's
    own or "blas". batch: samples side by side (leaf only); None chooses. record: None, "spikes" of
    every layer, or "states" (spikes, u and v after reset). stall_s: silence after which the run is
    given up.

    Raises GraphError for what stock processes cannot compute, SimulationError when the simulator
    dies, fails or stalls; what was finished before has been yielded. No process, shared memory or
    file outlives the iterator.
    """
    _check("model", model, MODELS)
    _check("conv", conv, CONVS)
    _check("record", record or "none", RECORDS)
    stock = model == "stock"
    if batch is not None and not 1 <= batch <= (1 if stock else 4096):
        raise UsageError(f"batch: expected {'1' if stock else '1 … 4096'}, got {batch}")
    source = edge_source(edge, input_message_bits)
    graph = source.graph
    if stock:
        stock_limits.require(graph)
    frames = iter(frames_ntchw)
    first = next(frames, None)
    if first is None:
        return iter(())
    steps = len(checked_sample(graph, first))
    known = len(frames_ntchw) if isinstance(frames_ntchw, np.ndarray) else MAX_BATCH
    size = batch or (1 if stock else min(known, _fitting_batch(graph)))
    held = _pipeline_samples(graph, steps) if stock else 0
    settings = _settings(
        model, steps, input_message_bits, conv=conv, batch=size, record=record or "none"
    )
    feeder = Feeder(
        graph,
        itertools.chain([first], frames),
        steps=steps,
        batch=size,
        ahead=3 * size + held,
        held=held,
        keep=stock,
    )
    return _simulate(source, feeder, settings, stall_s)


def stream(
    edge: Path | Graph,
    frames_chw: Iterable[np.ndarray],
    steps: int,
    *,
    ahead: int = AHEAD_STEPS,
    input_message_bits: int | None = None,
    stall_s: float = STALL_S,
) -> Iterator[StepResult]:
    """Simulate live: a frame (C, H, W) a time step goes in, its spikes come out at once.

    steps: T, time steps a sample. ahead: steps under way at most; a caller that does not take
    results stops the source. An iterable that ends inside a sample ends the stream there.
    Raises like `simulate`.
    """
    if steps < 1 or ahead < 1:
        raise UsageError(f"stream: expected steps and ahead of at least 1, got {steps}, {ahead}")
    source = edge_source(edge, input_message_bits)
    graph = source.graph
    settings = _settings("leaf", steps, input_message_bits, live=True)
    feeder = Feeder(graph, iter(frames_chw), steps=steps, batch=1, ahead=ahead, live=True)
    return _stream(source, feeder, settings, stall_s)


def run_netx(
    edge: Path | Graph,
    frames_ntchw: np.ndarray,
    *,
    input_message_bits: int | None = None,
    stall_s: float = STALL_S,
) -> Iterator[np.ndarray]:
    """Output spikes (T, C, H, W) of a chain in stock NetX, sample by sample, watched as above."""
    source = edge_source(edge, input_message_bits)
    graph = source.graph
    stock_limits.require_netx(graph)
    if np.ndim(frames_ntchw) != 5:
        shape = ", ".join(map(str, graph.input.shape))
        raise DataError(f"frames: expected (N, T, {shape}), got {np.shape(frames_ntchw)}")
    if not len(frames_ntchw):
        return iter(())
    steps = len(checked_sample(graph, frames_ntchw[0]))
    settings = _settings("netx", steps, input_message_bits)
    held = _pipeline_samples(graph, steps)
    feeder = Feeder(graph, iter(frames_ntchw), steps=steps, batch=1, ahead=3 + held, held=held)
    return _codes(source, feeder, settings, stall_s)


def _settings(model: str, steps: int, bits: int | None, **others: Any) -> dict[str, Any]:
    return {
        "model": model,
        "steps": steps,
        "input_message_bits": bits,
        "conv": "lava",
        "batch": 1,
        "record": "none",
        "live": False,
        **others,
    }


def _pipeline_samples(graph: Graph, steps: int) -> int:
    """Samples that a pipeline of one step a layer holds before the first one leaves it."""
    return -(-max(graph.depth.values()) // steps)


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def _fitting_batch(graph: Graph) -> int:
    return max(1, min(MAX_BATCH, BATCH_BYTES // layout.bytes_a_sample(graph)))


def _simulate(
    source: EdgeSource, feeder: Feeder, settings: dict[str, Any], stall_s: float
) -> Iterator[SampleResult]:
    assembly = _Assembly(source.graph, settings)
    with Simulator(settings, stall_s, source.write) as simulator:
        feeder.start(simulator)
        for record in simulator.records(busy=lambda: feeder.due > assembly.taken):
            if record is not None:
                assembly.add(record)
            while assembly.whole(assembly.taken):
                yield assembly.take(feeder.kept.pop(assembly.taken, None))
                feeder.answered()
            if feeder.ended and assembly.taken == feeder.sent:
                break
        if feeder.failure is not None:
            raise feeder.failure


def _stream(
    source: EdgeSource, feeder: Feeder, settings: dict[str, Any], stall_s: float
) -> Iterator[StepResult]:
    with Simulator(settings, stall_s, source.write) as simulator:
        feeder.start(simulator)
        done = 0

        def busy() -> bool:
            return feeder.due > done

        for record in simulator.records(busy):
            if record is not None:
                done += 1
                code = _unpacked(record.payload, source.graph.output_shape)
                yield StepResult(record.sample, record.step, code, record.time_ns)
                feeder.answered()
            if feeder.ended and done == feeder.sent:
                break
        if feeder.failure is not None:
            raise feeder.failure


def _codes(
    source: EdgeSource, feeder: Feeder, settings: dict[str, Any], stall_s: float
) -> Iterator[np.ndarray]:
    with Simulator(settings, stall_s, source.write) as simulator:
        feeder.start(simulator)
        done = 0

        def busy() -> bool:
            return feeder.due > done

        for record in simulator.records(busy):
            if record is not None and not (feeder.ended and done == feeder.sent):
                done += 1
                yield _unpacked(record.payload, (settings["steps"], *source.graph.output_shape))
                feeder.answered()
            if feeder.ended and done == feeder.sent:
                break
        if feeder.failure is not None:
            raise feeder.failure


def _unpacked(payload: bytes, shape: tuple[int, ...]) -> np.ndarray:
    bits = np.unpackbits(np.frombuffer(payload, dtype=np.uint8))
    return bits[: math.prod(shape)].reshape(shape)


def _counts(names: tuple[str, ...], payload: bytes) -> Counts:
    table = np.frombuffer(payload, dtype=np.int64).reshape(len(FIELDS), 1, len(names))
    return Counts(names, **dict(zip(FIELDS, table, strict=True)))


class _Assembly:
    """Puts records together until all of a sample is there."""

    def __init__(self, graph: Graph, settings: dict[str, Any]) -> None:
        self._graph = graph
        self._names = tuple(layer.name for layer in graph.layers)
        self._steps: int = settings["steps"]
        self._stock = settings["model"] == "stock"
        self._record: str = settings["record"]
        self.taken = 0
        layers = len(self._names)
        spikes = layers if self._stock or self._record != "none" else 1
        states = 2 * layers if self._record == "states" else 0
        counts = 0 if self._stock else 1  # stock processes do not count: their spikes are counted
        self._needed = spikes + states + counts
        self._parts: dict[int, dict[tuple[Kind, int], bytes]] = {}

    def add(self, record: Record) -> None:
        self._parts.setdefault(record.sample, {})[record.kind, record.layer] = record.payload

    def whole(self, index: int) -> bool:
        return len(self._parts.get(index, ())) == self._needed

    def take(self, frames_tchw: np.ndarray | None) -> SampleResult:
        index, self.taken = self.taken, self.taken + 1
        parts = self._parts.pop(index)
        arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in _ARRAYS.values()}
        for (kind, layer), payload in parts.items():
            if kind in _ARRAYS:
                arrays[_ARRAYS[kind]][self._names[layer]] = self._array(kind, layer, payload)
        if self._stock:
            assert frames_tchw is not None
            every = {name: spikes[None] for name, spikes in arrays["spikes"].items()}
            counts = count(self._graph, frames_tchw[None], every)
        else:
            counts = _counts(self._names, parts[Kind.COUNTS, 0])
        code = arrays["spikes"][self._names[-1]]
        if self._record == "none":
            arrays["spikes"] = {}
        return SampleResult(index, code, counts, **arrays)

    def _array(self, kind: Kind, layer: int, payload: bytes) -> np.ndarray:
        shape = (self._steps, *self._graph.shapes[self._names[layer]])
        if kind is Kind.SPIKES:
            return _unpacked(payload, shape)
        return np.frombuffer(payload, dtype=np.int32).reshape(shape)
