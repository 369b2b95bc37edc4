"""Run an edge network in Lava's fixed-point simulator, sample by sample, in a process of its own.

    frames ─> feeder thread ─> simulator (Lava) ─> results, in order, as they come

Frames are streamed, never piled up: at most `batch` samples and what two pipes hold are under way.
"""

from __future__ import annotations

import itertools
import tempfile
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from lava_edge import netx_file
from lava_edge.channel import Kind, Record, Spread, pack_batch
from lava_edge.watchdog import Simulator
from measure.counts import FIELDS, Counts, count
from splitcore.errors import DataError, UsageError
from splitcore.graph import Graph

MODELS = ("leaf", "stock")
CONVS = ("lava", "blas")
RECORDS = ("none", "spikes", "states")
STALL_S = 600.0
_ARRAY = {Kind.SPIKES: "spikes", Kind.VOLTAGE: "voltage", Kind.CURRENT: "current"}


@dataclass(frozen=True, eq=False)
class SampleResult:
    """One sample: output spikes uint8 (T, C, H, W), its counts, and what was recorded by layer."""

    index: int
    code_tchw: np.ndarray
    counts: Counts
    spikes: dict[str, np.ndarray] = field(default_factory=dict)
    voltage: dict[str, np.ndarray] = field(default_factory=dict)
    current: dict[str, np.ndarray] = field(default_factory=dict)


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

    edge: a NetX file (the simulator loads that very file) or a graph. frames_ntchw: levels
    (N, T, C, H, W), or an iterable of samples (T, C, H, W); a view that repeats one frame over T
    is sent as one frame. model: "leaf" or "stock". conv: the routine of stock convolutions, Lava's
    own or "blas". batch: samples side by side (leaf only). record: None, "spikes" of every layer,
    or "states" (spikes, u and v after reset). stall_s: silence after which the run is given up.

    Raises SimulationError when the simulator dies, fails or stalls; what was finished before has
    been yielded. No process, shared memory or file outlives the iterator.
    """
    _check("model", model, MODELS)
    _check("conv", conv, CONVS)
    _check("record", record or "none", RECORDS)
    size = batch or (1 if model == "stock" else DEFAULT_BATCH)
    if size < 1 or (model == "stock" and size != 1):
        raise UsageError(f"batch: expected {'1' if model == 'stock' else 'at least 1'}, got {size}")
    samples = iter(frames_ntchw)
    first = next(samples, None)
    graph = edge if isinstance(edge, Graph) else netx_file.load(edge, input_message_bits)
    if first is None:
        return iter(())
    steps = _check_sample(graph, np.asarray(first))
    settings = {
        "model": model,
        "conv": conv,
        "batch": size,
        "steps": steps,
        "record": record or "none",
        "live": False,
        "input_message_bits": input_message_bits,
    }
    samples = itertools.chain([first], samples)
    return _simulate(edge, graph, samples, settings, stall_s)


DEFAULT_BATCH = 16


def _check(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise UsageError(f"{name}: expected one of {', '.join(known)}, got {value!r}")


def _check_sample(graph: Graph, frames_tchw: np.ndarray, steps: int | None = None) -> int:
    if frames_tchw.ndim != 4 or frames_tchw.shape[1:] != graph.input.shape or not len(frames_tchw):
        raise DataError(f"frames: expected (T, *{graph.input.shape}), got {frames_tchw.shape}")
    if steps is not None and len(frames_tchw) != steps:
        raise DataError(f"frames: expected {steps} steps as before, got {len(frames_tchw)}")
    if frames_tchw.dtype.kind not in "iub":
        raise DataError(f"frames: expected integers, got {frames_tchw.dtype}")
    if frames_tchw.min() < 0 or frames_tchw.max() > graph.input.max_value:
        raise DataError(
            f"frames: expected values in [0, {graph.input.max_value}], "
            f"got [{frames_tchw.min()}, {frames_tchw.max()}]"
        )
    return len(frames_tchw)


class _Feeder:
    """Packs samples into batches and writes them, from a thread of its own."""

    def __init__(
        self, graph: Graph, samples: Iterator[np.ndarray], settings: dict[str, Any], keep: bool
    ) -> None:
        self._graph, self._samples, self._settings = graph, samples, settings
        self._keep = keep
        self.kept: dict[int, np.ndarray] = {}  # frames of unfinished samples, for counting
        self.sent = 0
        self.ended = False
        self.failure: BaseException | None = None

    def run(self, simulator: Simulator) -> None:
        try:
            while batch := list(itertools.islice(self._samples, self._settings["batch"])):
                if not self._send(simulator, batch):
                    return
        except BaseException as error:
            self.failure = error
        finally:
            self.ended = True
            simulator.end_of_frames()

    def _send(self, simulator: Simulator, batch: list[np.ndarray]) -> bool:
        dtype = np.uint8 if self._graph.input.message_bits <= 8 else np.uint16
        arrays = [np.asarray(sample) for sample in batch]
        for array in arrays:
            _check_sample(self._graph, array, self._settings["steps"])
        static = all(array.strides[0] == 0 or len(array) == 1 for array in arrays)
        if static:
            frames = np.stack([array[0] for array in arrays]).astype(dtype)
        else:
            frames = np.stack(arrays).astype(dtype)
        for place, array in enumerate(arrays):
            if self._keep:
                self.kept[self.sent + place] = array
        self.sent += len(arrays)
        return simulator.send(
            pack_batch(frames, len(arrays), Spread.STATIC if static else Spread.SAMPLES)
        )


def _simulate(
    edge: Path | Graph,
    graph: Graph,
    samples: Iterator[np.ndarray],
    settings: dict[str, Any],
    stall_s: float,
) -> Iterator[SampleResult]:
    with tempfile.TemporaryDirectory(prefix="spikebottlenet-") as folder:
        path = edge
        if isinstance(path, Graph):
            path = Path(folder) / "edge.net"
            netx_file.save(graph, path)
        stock = settings["model"] == "stock"
        feeder = _Feeder(graph, samples, settings, keep=stock)
        settings = {**settings, "path": str(Path(path).resolve())}
        with Simulator(settings, stall_s) as simulator:
            thread = threading.Thread(target=feeder.run, args=(simulator,), daemon=True)
            thread.start()
            yield from _collect(graph, settings, feeder, simulator)


def _collect(
    graph: Graph, settings: dict[str, Any], feeder: _Feeder, simulator: Simulator
) -> Iterator[SampleResult]:
    assembly = _Assembly(graph, settings)
    done = 0
    for record in simulator.records(busy=lambda: feeder.sent > done):
        if record.kind is not Kind.READY:
            assembly.add(record)
        while (result := assembly.take(done, feeder.kept.get(done))) is not None:
            feeder.kept.pop(done, None)
            yield result
            done += 1
        if feeder.ended and done == feeder.sent:
            if feeder.failure is not None:
                raise feeder.failure
            return


class _Assembly:
    """Puts records together until all of a sample is there."""

    def __init__(self, graph: Graph, settings: dict[str, Any]) -> None:
        self._graph = graph
        self._names = tuple(layer.name for layer in graph.layers)
        self._steps: int = settings["steps"]
        self._stock = settings["model"] == "stock"
        self._record: str = settings["record"]
        layers = len(self._names)
        spikes = layers if self._stock or self._record != "none" else 1
        states = 2 * layers if self._record == "states" else 0
        self._needed = spikes + states + (0 if self._stock else 1)
        self._parts: dict[int, dict[tuple[Kind, int], bytes]] = {}

    def add(self, record: Record) -> None:
        self._parts.setdefault(record.sample, {})[record.kind, record.layer] = record.payload

    def take(self, index: int, frames_tchw: np.ndarray | None) -> SampleResult | None:
        if len(self._parts.get(index, ())) < self._needed:
            return None
        parts = self._parts.pop(index)
        arrays: dict[str, dict[str, np.ndarray]] = {name: {} for name in _ARRAY.values()}
        for (kind, layer), payload in parts.items():
            if kind in _ARRAY:
                arrays[_ARRAY[kind]][self._names[layer]] = self._array(kind, layer, payload)
        code = arrays["spikes"][self._names[-1]]
        if self._stock:
            assert frames_tchw is not None
            counts = count(
                self._graph,
                frames_tchw[None],
                {name: spikes[None] for name, spikes in arrays["spikes"].items()},
            )
        else:
            table = np.frombuffer(parts[Kind.COUNTS, 0], dtype=np.int64)
            counts = Counts(self._names, *table.reshape(len(FIELDS), 1, len(self._names)))
        if self._record == "none":
            arrays["spikes"] = {}
        return SampleResult(index, code, counts, **arrays)

    def _array(self, kind: Kind, layer: int, payload: bytes) -> np.ndarray:
        shape = (self._steps, *self._graph.shapes[self._names[layer]])
        if kind is Kind.SPIKES:
            size = int(np.prod(shape))
            return np.unpackbits(np.frombuffer(payload, dtype=np.uint8))[:size].reshape(shape)
        return np.frombuffer(payload, dtype=np.int32).reshape(shape)
