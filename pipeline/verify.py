"""Trained = exported = simulated, checked by anyone on any bundle.

Four engines run the very edge.net of the bundle on the same frames: stock SLAYER, the numpy
reference, our Lava leaf and stock Lava processes. Every layer's spikes are compared, and the
integer membrane state where an engine shows it. On the frames that the bundle carries, code and
scores are compared with what the trained model gave at export: spikes one by one, scores within
what float32 sums in another order may differ by, which `splitcore.tail` derives.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from cloud_server.tail import TailEngine
from lava_edge import netx_file, reference
from lava_edge.runtime import simulate
from pipeline import images
from pipeline.console import progress_bar
from splitcore import tail as tail_file
from splitcore.bundle import Bundle, Probe, open_bundle
from splitcore.graph import Graph
from training import slayer_twin

LAVA_ENGINES = ("leaf", "stock")
ENGINES = ("slayer", "reference", *LAVA_ENGINES)
CHUNK = 16
# Stock Lava's conv loops over channel pairs; beyond this many an image step takes seconds.
LAVA_CONV_PAIRS = 20_000


def run(
    path: Path, *, samples: int | None = None, data: str | None = None, conv: str = "auto"
) -> dict[str, Any]:
    """Compare all engines; without `data` and `samples` on the frames in the bundle."""
    bundle = open_bundle(path)
    graph = netx_file.of_bundle(bundle)
    if conv == "auto":
        conv = "lava" if _channel_pairs(graph) <= LAVA_CONV_PAIRS else "blas"
    tail = TailEngine(tail_file.of_bundle(bundle), bundle.manifest.steps)
    stored = bundle.probe()
    probe = against_export(stored, graph, tail)
    if samples is None and data is None:
        source, frames = "probe", stored.frames_ntchw
    else:
        chosen = images.load(bundle, data, samples)
        source, frames = chosen.data, chosen.frames_ntchw
    comparison = compare(bundle, graph, frames, tail, conv=conv)
    bundle.require_unchanged()
    return {
        "bundle": str(path),
        "data": source,
        "samples": len(frames),
        "engines": list(ENGINES),
        "stock_conv_routine": conv,
        **comparison,
        "probe": probe,
    }


def _channel_pairs(graph: Graph) -> int:
    pairs = 0
    for _, current in graph.currents():
        weight = getattr(current.synapse, "weight_oihw", None)
        if weight is not None:
            pairs += weight.shape[0] * weight.shape[1]
    return pairs


def against_export(stored: Probe, graph: Graph, tail: TailEngine) -> dict[str, float]:
    """Reference and tail against what the trained model gave at export."""
    code = reference.run(graph, stored.frames_ntchw).spikes[graph.output_name]
    rates = tail.rates(code)
    scores = tail.tail.scores_of_rates(rates)
    apart = np.abs(scores.astype(np.float64) - stored.scores_nk)
    return {
        "samples": len(stored.frames),
        "mismatched_spikes": int((code != stored.code_ntchw).sum()),
        "prediction_mismatches": int(
            (scores.argmax(axis=1) != stored.scores_nk.argmax(axis=1)).sum()
        ),
        "mismatched_scores": int((apart > tail.tail.float32_error(rates, tail.steps)).sum()),
        "score_difference_max": float(apart.max()),
    }


def compare(
    bundle: Bundle,
    graph: Graph,
    frames: np.ndarray,
    tail: TailEngine,
    *,
    lava: Sequence[str] = LAVA_ENGINES,
    conv: str = "lava",
    at_once: int = CHUNK,
) -> dict[str, Any]:
    """Spikes and states of every layer, and predictions, of SLAYER and these Lava engines.

    All are held against the reference, predictions against SLAYER's. at_once: frames that go
    through an engine side by side.
    """
    names = [layer.name for layer in graph.layers]
    spikes = dict.fromkeys(names, 0)
    mismatched = dict.fromkeys(("slayer", *lava), 0)
    states = dict.fromkeys(lava, 0)
    predictions = 0
    with progress_bar() as progress:
        task = progress.add_task("verify", total=len(frames))
        for start in range(0, len(frames), at_once):
            chunk = frames[start : start + at_once]
            truth = reference.run(graph, chunk, states=True)
            slayer = slayer_twin.run(graph, chunk)
            for name in names:
                spikes[name] += int(truth.spikes[name].sum())
                mismatched["slayer"] += int((slayer[name] != truth.spikes[name]).sum())
            expected = tail(slayer[graph.output_name]).argmax(axis=1)
            for engine in lava:
                results = simulate(
                    bundle.edge_path, chunk, model=engine, conv=conv, record="states"
                )
                for index, result in zip(range(len(chunk)), results, strict=True):
                    for name in names:
                        mismatched[engine] += int(
                            (result.spikes[name] != truth.spikes[name][index]).sum()
                        )
                        states[engine] += int(
                            (result.voltage[name] != truth.voltage[name][index]).sum()
                        )
                    label = tail(result.code_tchw[None]).argmax(axis=1)[0]
                    predictions += int(label != expected[index])
            progress.update(task, advance=len(chunk))
    return {
        "spikes": sum(spikes.values()),
        "spikes_by_layer": spikes,
        "silent_layers": [name for name, count in spikes.items() if count == 0],
        "mismatched_spikes": sum(mismatched.values()),
        "mismatched_spikes_by_engine": mismatched,
        "mismatched_states": sum(states.values()),
        "mismatched_states_by_engine": states,
        "prediction_mismatches": predictions,
    }


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    lines = [
        f"{result['samples']} samples of {result['data']}: {result['spikes']:,} spikes in "
        f"{len(result['spikes_by_layer'])} layers; stock Lava convolved by "
        f"{result['stock_conv_routine']}",
    ]
    lines += [
        f"  {engine} against reference: {count} mismatched spikes"
        for engine, count in result["mismatched_spikes_by_engine"].items()
    ]
    lines += [
        f"  {engine} against reference: {count} mismatched membrane states"
        for engine, count in result["mismatched_states_by_engine"].items()
    ]
    probe = result["probe"]
    lines.append(
        f"  trained model at export, {probe['samples']} frames: {probe['mismatched_spikes']} "
        f"mismatched spikes, {probe['prediction_mismatches']} predictions differ, "
        f"{probe['mismatched_scores']} scores by more than float32 may "
        f"({probe['score_difference_max']:.1g} at most)"
    )
    if result["silent_layers"]:
        lines.append(f"  silent layers, which prove nothing: {', '.join(result['silent_layers'])}")
    return "\n".join(lines)
