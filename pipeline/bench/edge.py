"""`bench edge`: stock NetX, the leaf, the batched leaf and SLAYER in torch on one HDF5 file.

All sides run in turn, several rounds, in one call; ratios are medians over rounds, because absolute
times change with the machine and with what else it does. Every timed run's spikes are compared with
the reference. Rates count from the end of the first batch to that of the last, start-up left out.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lava_edge import compiled_stepper, netx_file, reference, stepper
from lava_edge.runtime import run_netx, simulate, stream
from pipeline.bench.edge_heads import (
    STEPS,
    BenchHead,
    chain,
    mobilenet_head,
    resnet18_head,
    single_neuron,
)
from pipeline.console import progress_bar
from splitcore.graph import Conv, Current, Graph, Input, Lif
from training import slayer_twin

BATCH = 32
STOCK_SAMPLES, LEAF_SAMPLES, BATCHED_SAMPLES, TORCH_SAMPLES = 5, 150, 640, 16
ROUNDS = 3


def run(*, quick: bool = False, rounds: int = ROUNDS) -> dict[str, Any]:
    """The main comparison; unless quick, also how the cost grows and with what."""
    with tempfile.TemporaryDirectory(prefix="spikebottlenet-") as folder, progress_bar() as bar:
        bench = _Bench(Path(folder))
        parts: dict[str, Callable[[], Any]] = {"main": lambda: bench.main(rounds)}
        if not quick:
            parts |= {
                "by_layers": lambda: [bench.both(chain(layers)) for layers in (3, 10, 20)],
                "by_rate": lambda: [bench.leaf(chain(rate=rate)) for rate in (0.01, 0.1, 0.5)],
                "by_channels": lambda: [
                    bench.leaf(chain(channels=channels)) for channels in (8, 16, 32, 64)
                ],
                "by_batch": lambda: bench.by_batch(chain()),
                "messaging": bench.messaging,
                "hand_over": bench.hand_over,
                "heads": lambda: [
                    bench.beside_torch(head) for head in (resnet18_head(), mobilenet_head())
                ],
                "sums": sums,
            }
        results = {}
        task = bar.add_task("bench edge", total=len(parts))
        for name, part in parts.items():
            bar.update(task, description=f"bench edge: {name}")
            results[name] = part()
            bar.advance(task)
    return {**results.pop("main"), **results, "threads": stepper.available_threads()}


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    lines = [
        f"stock NetX {result['stock_netx_steps_per_s']:.1f} steps/s, leaf "
        f"{result['leaf_steps_per_s']:.0f} steps/s at batch 1: {result['ratio']:.0f} times",
        f"leaf at batch {BATCH}: {result['leaf_batched_images_per_s']:.0f} images/s, "
        f"{result['batched_ratio']:.0f} times stock NetX and {result['torch_ratio']:.1f} times "
        f"SLAYER in torch ({result['torch_images_per_s']:.0f} images/s)",
        f"mismatched spikes: {result['mismatched_spikes']} of {result['spikes']:,}; layers fire at "
        f"{min(result['rates']):.1%} to {max(result['rates']):.1%}",
    ]
    lines += [
        f"  {row['head']}: leaf {row['ratio']:.0f} times stock"
        for row in result.get("by_layers", ())
    ]
    lines += [
        f"  {row['head']}: {row['leaf_batched_images_per_s']:.0f} images/s"
        for name in ("by_rate", "by_channels", "heads")
        for row in result.get(name, ())
    ]
    if "messaging" in result:
        lines.append(f"  Lava's messaging: {result['messaging']['share']:.0%} of a step at batch 1")
    return "\n".join(lines)


def _codes_rate(
    codes: Iterator[np.ndarray], expected: np.ndarray, batch: int = 1
) -> tuple[float, int]:
    """Samples a second, and spikes that differ from `expected`.

    A batch arrives in a burst when all its work is done: the clock runs from the end of the first
    burst to that of the last whole one.
    """
    wrong, ends = 0, []
    for seen, code in enumerate(codes, 1):
        if seen % batch == 0:
            ends.append(time.perf_counter())
        wrong += int((code != expected[(seen - 1) % len(expected)]).sum())
    return batch * (len(ends) - 1) / (ends[-1] - ends[0]), wrong


class _Bench:
    """Measures heads through files in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _file(self, head: BenchHead) -> Path:
        path = self._folder / "edge.net"
        netx_file.save(head.graph, path)
        return path

    def _frames(self, head: BenchHead, samples: int) -> Iterator[np.ndarray]:
        return (head.frames_ntchw[index % len(head.frames_ntchw)] for index in range(samples))

    def _leaf_rate(self, head: BenchHead, samples: int, batch: int) -> tuple[float, int]:
        results = simulate(self._file(head), self._frames(head, samples), batch=batch)
        codes = (result.code_tchw for result in results)
        return _codes_rate(codes, head.spikes[head.graph.output_name], batch)

    def _stock_rate(self, head: BenchHead) -> tuple[float, int]:
        frames = np.stack(list(self._frames(head, STOCK_SAMPLES)))
        codes = run_netx(self._file(head), frames)
        return _codes_rate(codes, head.spikes[head.graph.output_name])

    def main(self, rounds: int) -> dict[str, Any]:
        """Ten 3×3 layers of 32×32×16, all sides, and every layer's spikes."""
        head = chain()
        rows = []
        wrong = self._inner_mismatches(head)
        for _ in range(rounds):
            stock, wrong_stock = self._stock_rate(head)
            leaf, wrong_leaf = self._leaf_rate(head, LEAF_SAMPLES, 1)
            batched, wrong_batched = self._leaf_rate(head, BATCHED_SAMPLES, BATCH)
            rows.append((stock, leaf, batched, torch_images_per_s(head)))
            wrong += wrong_stock + wrong_leaf + wrong_batched
        stock, leaf, batched, in_torch = (
            statistics.median(column) for column in zip(*rows, strict=True)
        )
        return {
            "head": head.name,
            "steps_per_image": STEPS,
            "rates": head.rates,
            "stock_netx_steps_per_s": stock * STEPS,
            "leaf_steps_per_s": leaf * STEPS,
            "ratio": statistics.median(row[1] / row[0] for row in rows),
            "leaf_batched_images_per_s": batched,
            "batched_ratio": statistics.median(row[2] / row[0] for row in rows),
            "torch_images_per_s": in_torch,
            "torch_ratio": statistics.median(row[2] / row[3] for row in rows),
            "mismatched_spikes": wrong,
            "spikes": sum(int(head.spikes[layer.name].sum()) for layer in head.graph.layers),
            "rounds": rounds,
        }

    def _inner_mismatches(self, head: BenchHead) -> int:
        """Spikes of any layer that leaf or SLAYER get differently from the reference."""
        wrong = 0
        for result in simulate(self._file(head), head.frames_ntchw, record="spikes"):
            for name, spikes in result.spikes.items():
                wrong += int((spikes != head.spikes[name][result.index]).sum())
        in_torch = slayer_twin.run(head.graph, head.frames_ntchw)
        return wrong + sum(int((s != head.spikes[name]).sum()) for name, s in in_torch.items())

    def leaf(self, head: BenchHead) -> dict[str, Any]:
        """What a step costs at batch 1, and images a second side by side."""
        one, wrong = self._leaf_rate(head, LEAF_SAMPLES, 1)
        many, wrong_many = self._leaf_rate(head, BATCHED_SAMPLES // 2, BATCH)
        return {
            "head": head.name,
            "rates": head.rates,
            "leaf_ms_per_step": 1000 / (one * STEPS),
            "leaf_batched_images_per_s": many,
            "mismatched_spikes": wrong + wrong_many,
        }

    def both(self, head: BenchHead) -> dict[str, Any]:
        """Leaf beside stock NetX."""
        stock, wrong = self._stock_rate(head)
        row = self.leaf(head)
        row["mismatched_spikes"] += wrong
        milliseconds = 1000 / (stock * STEPS)
        ratio = milliseconds / row["leaf_ms_per_step"]
        return {**row, "stock_ms_per_step": milliseconds, "ratio": ratio}

    def by_batch(self, head: BenchHead) -> list[dict[str, Any]]:
        """Images a second at growing batches."""
        return [
            {"batch": batch, "images_per_s": self._leaf_rate(head, 8 * max(batch, 16), batch)[0]}
            for batch in (1, 4, 16, 64)
        ]

    def messaging(self) -> dict[str, Any]:
        """A network of one neuron costs what Lava's messages cost: its share of a full step."""
        idle, _ = self._leaf_rate(single_neuron(), 4 * LEAF_SAMPLES, 1)
        full, _ = self._leaf_rate(chain(), LEAF_SAMPLES, 1)
        return {
            "ms_per_step": 1000 / (idle * STEPS),
            "leaf_ms_per_step": 1000 / (full * STEPS),
            "share": full / idle,
        }

    def hand_over(self) -> dict[str, Any]:
        """Live: from a step's last spike in the simulator to its spikes in the caller's hands."""
        head = chain()
        frames = (frame for sample in self._frames(head, 40) for frame in sample)
        waits = [
            (time.monotonic_ns() - step.spiked_ns) / 1000
            for step in stream(self._file(head), frames, STEPS)
        ]
        median, late = statistics.median(waits), statistics.quantiles(waits, n=20)[-1]
        return {"steps": len(waits), "median_us": median, "p95_us": late}

    def beside_torch(self, head: BenchHead) -> dict[str, Any]:
        """Leaf and SLAYER in torch on a head that stock NetX cannot say."""
        row = self.leaf(head)
        in_torch = torch_images_per_s(head)
        ratio = row["leaf_batched_images_per_s"] / in_torch
        return {**row, "torch_images_per_s": in_torch, "torch_ratio": ratio}


def torch_images_per_s(head: BenchHead) -> float:
    """SLAYER's own quantised forward on all cores, best of two passes."""
    before = torch.get_num_threads()
    torch.set_num_threads(stepper.available_threads())
    try:
        twin = slayer_twin.build(head.graph)
        samples = np.arange(TORCH_SAMPLES) % len(head.frames_ntchw)
        frames = head.frames_ntchw[samples]
        inputs = torch.tensor(np.moveaxis(frames, 1, -1), dtype=torch.float32)
        best = np.inf
        with torch.no_grad():
            for _ in range(2):
                started = time.perf_counter()
                twin(inputs)
                best = min(best, time.perf_counter() - started)
        return len(frames) / best
    finally:
        torch.set_num_threads(before)


def sums() -> list[dict[str, Any]]:
    """Microseconds of one layer's synaptic sum a sample and step, one core, by who does it."""
    return [
        _sum_row(channels, size, rate)
        for channels, size in ((16, 32), (64, 16))
        for rate in (0.01, 0.1, 0.5, 1.0)
    ]


def _sum_row(channels: int, size: int, rate: float) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    conv = Conv(2 * rng.integers(-22, 24, (channels, channels, 3, 3)), padding=(1, 1))
    layer = Lif("a", (Current("input", conv),), np.zeros(channels, int), 4000, 4096)
    graph = Graph(Input((channels, size, size)), (layer,))
    frames = (rng.random((4, channels, size, size)) < rate).astype(np.uint8)
    events = frames[:, None]
    weight = torch.tensor(conv.weight_oihw, dtype=torch.float32)
    images = torch.tensor(frames, dtype=torch.float32).to(memory_format=torch.channels_last)
    engine = compiled_stepper.CompiledStepper(graph, 4)

    def ours() -> None:
        engine.sum_input(4)

    def blas() -> None:
        reference.synaptic_sum(conv, events, graph.input.shape, 1)

    def onednn() -> None:
        torch.nn.functional.conv2d(images, weight, padding=1)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        engine.reset(4)
        engine.step(frames)
        with torch.no_grad():
            times = {f.__name__: _microseconds(f) / 4 for f in (ours, blas, onednn)}
    finally:
        torch.set_num_threads(before)
    return {"channels": channels, "size": size, "rate": rate, "microseconds": times}


def _microseconds(work: Callable[[], object]) -> float:
    """The best of several repetitions, on the clock of this process's own time."""
    best = np.inf
    for _ in range(8):
        started = time.process_time()
        for _ in range(5):
            work()
        best = min(best, (time.process_time() - started) / 5)
    return best * 1e6
