"""`energy`: run a bundle's edge half in the simulator, count what fires, price it twice."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from lava_edge import netx_file
from lava_edge.runtime import simulate
from measure import energy as pricing
from measure import profile
from measure.counts import Counts, concatenate
from measure.dense import break_even
from measure.sensitivity import tornado
from pipeline import images
from pipeline.baseline_rows import edges_at
from pipeline.console import progress_bar
from pipeline.details import dense_twins, layer_means
from pipeline.units import break_even_text, energy_text, times_text
from splitcore.bundle import open_bundle

AT_MOST = 256  # images, where nobody said how many


def run(
    bundle: Path,
    profiles: Sequence[str | Path] | None = None,
    data: str | None = None,
    samples: int | None = None,
    baselines: Sequence[Path] = (),
) -> dict[str, Any]:
    """Counts and modelled energy, per layer and in all, of `samples` test images.

    samples: None takes 256, or all where there are fewer.
    baselines: files of the `baselines` command to be held against, of the same network and cut.
    Raises BundleError, DataError, ResultError or ProfileError before anything is simulated.
    """
    started = time.perf_counter()
    chosen = profile.load_all(profiles or profile.USUAL)
    opened = open_bundle(Path(bundle))
    manifest = opened.manifest
    others = edges_at(baselines, manifest)
    test = images.load(opened, data, samples, at_most=AT_MOST)
    simulating = time.perf_counter()
    with ThreadPoolExecutor(1) as beside:  # this process only waits while the simulator works
        loading = beside.submit(netx_file.of_bundle, opened)
        counts = _simulated(opened.edge_path, test.frames_ntchw)
    simulated_s = time.perf_counter() - simulating
    graph = loading.result()
    opened.require_unchanged()
    steps = manifest.steps
    events = np.count_nonzero(test.frames_ntchw[:, 0], axis=(1, 2, 3)) * steps
    if not manifest.input_bits:  # frames differ from step to step
        events = np.count_nonzero(test.frames_ntchw, axis=(1, 2, 3, 4))
    dense = [*dense_twins(graph), *others]
    priced = {}
    for each in chosen:
        result = pricing.energy(graph, counts, each, steps, events)
        priced[each.name] = {
            **result.as_dict(),
            "title": each.title,
            "sensitivity": [asdict(swing) for swing in tornado(graph, counts, each, steps, events)],
            "break_even": [
                asdict(even)
                for network in dense
                for even in break_even(graph, counts, each, network, steps, events)
            ],
        }
    totals = {name: total / len(counts) for name, total in counts.total().items()}
    return {
        "bundle": manifest.name,
        "data": test.data,
        "samples": len(counts),
        "steps": steps,
        **totals,
        "rate_times_steps": pricing.rate_times_steps(graph, counts),
        "layers": layer_means(graph, counts),
        "dense": [asdict(network) for network in dense],
        "energy_pj": {name: record["energy_pj"] for name, record in priced.items()},
        "profiles": priced,
        "simulation_s": simulated_s,
        "total_s": time.perf_counter() - started,
    }


def _simulated(edge_path: Path, frames_ntchw: np.ndarray) -> Counts:
    with progress_bar() as progress:
        task = progress.add_task("simulate", total=len(frames_ntchw))

        def advancing(found: Iterable[Any]) -> Iterator[Counts]:
            for sample in found:
                progress.update(task, advance=1)
                yield sample.counts

        return concatenate(list(advancing(simulate(edge_path, frames_ntchw))))


def summary(result: dict[str, Any]) -> str:
    """What was found, in plain lines."""
    lines = [
        f"{result['bundle']}: {result['samples']} images of {result['data']}, "
        f"{result['steps']} steps; counted in the simulator, energies modelled",
        f"an image: {result['spikes']:,.0f} spikes, {result['synops']:,.0f} synaptic ops, "
        f"{result['macs']:,.0f} MACs, {result['neuron_updates']:,.0f} neuron updates; "
        f"T × rate {result['rate_times_steps']:.4g}",
    ]
    for name, record in result["profiles"].items():
        energy = record["energy_pj"]
        missing = [t["name"] for t in record["terms"] if t["status"] == "absent"]
        lines.append(
            f"  {name}: op-only {energy_text(energy['op_only'])}, "
            f"full {energy_text(energy['full'])}"
            + (f" (without {', '.join(missing)}: no figure)" if missing else "")
        )
        for even in record["break_even"]:
            rate = break_even_text(even["rate_times_steps"], result["steps"], even["why"])
            said = even["why"]
            if even["ratio"] is not None:
                said = f"{times_text(even['ratio'])}; T × rate of break-even: {rate}"
            lines.append(
                f"    against {even['dense_network']} ({even['dense_profile']}), "
                f"{even['accounting'].replace('_', '-')}: {said}"
            )
    return "\n".join(lines)
