"""The whole walk on scikit-learn's digits: train, export, simulate, send, classify, measure."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from cloud_server.tail import TailEngine
from lava_edge import netx_file
from measure import profile
from pipeline import images, outcome, report, results, verify
from pipeline.console import progress_bar
from pipeline.edge import EdgeRun, stream
from pipeline.export import export
from splitcore import tail as tail_file
from splitcore.bundle import Bundle, open_bundle
from splitcore.errors import LinkError, UsageError
from training import checkpoint, config, evaluate, loop
from training.data import sources

RESULT, REPORT = "result.json", "report.html"
STOP_S = 10


def run(out: Path) -> dict[str, Any]:
    """Everything into the folder `out`; result.json and report.html appear last."""
    if out.exists() and any(out.iterdir()) and not (out / "run").is_dir():
        raise UsageError(f"{out}: is not empty and no demo's folder; choose another --out")
    settings = config.load(config.shipped("digits"))
    dataset = sources.load(settings.data.source, settings.data.seed)
    with progress_bar() as progress:
        found = out / "run" / checkpoint.FILE
        trained = loop.fit(settings, dataset, out / "run", resume=found.exists(), progress=progress)
        export(checkpoint.load(trained.path), dataset, out / "bundle", progress)
        bundle = open_bundle(out / "bundle")
        test = images.load(bundle, None, None)
        task = progress.add_task("simulate, send, classify", total=len(test))
        with served(out / "bundle") as address:
            done = stream(
                bundle,
                test.frames_ntchw,
                address,
                timed=True,
                advance=lambda: progress.update(task, advance=1),
            )
    comparison = compare(bundle, test.frames_ntchw)
    expected = evaluate.answers(trained.model, test.images)
    result = measured(bundle, test, done, expected, comparison)
    results.save(json.dumps(result, indent=2, allow_nan=False) + "\n", out / RESULT)
    report.write(result, out / REPORT)
    return {**result, "report": str(out / REPORT), "result": str(out / RESULT)}


@contextmanager
def served(bundle: Path) -> Iterator[str]:
    """A cloud server in a process of its own on a free loopback port; yields its address."""
    command = [sys.executable, "-m", "pipeline.cli", "serve", str(bundle)]
    with subprocess.Popen(
        [*command, "--listen", "127.0.0.1:0", "--json"],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    ) as server:
        try:
            assert server.stdout is not None
            line = server.stdout.readline()
            if not line:
                raise LinkError(f"server: ended with code {server.wait()} before it listened")
            yield json.loads(line)["listening"]
        finally:
            server.terminate()
            try:
                server.wait(STOP_S)
            except subprocess.TimeoutExpired:
                server.kill()


def compare(bundle: Bundle, frames_ntchw: np.ndarray) -> dict[str, Any]:
    """Every layer of SLAYER, reference and leaf; stock Lava is left to `verify`, being slow."""
    graph = netx_file.of_bundle(bundle)
    tail = TailEngine(tail_file.of_bundle(bundle), bundle.manifest.steps)
    return verify.compare(
        bundle, graph, frames_ntchw, tail, lava=("leaf",), at_once=len(frames_ntchw)
    )


def measured(
    bundle: Bundle,
    test: images.Images,
    done: EdgeRun,
    expected: evaluate.Answers,
    comparison: dict[str, Any],
) -> dict[str, Any]:
    """The outcome of the run, held against the trained model itself and against SLAYER."""
    profiles = profile.load_all(profile.USUAL)
    found = outcome.outcome(bundle, test, done, profiles, expected=expected)
    for name in ("mismatched_spikes", "prediction_mismatches"):
        found[name] += comparison[name]
    return {**found, "spikes": comparison["spikes"]}


def summary(result: dict[str, Any]) -> str:
    """What was found, in plain lines."""
    raw, payload = result["raw_spike_bits"], result["payload_bits_mean"]
    lines = [
        f"{result['samples']} test images through Lava and a server of its own: "
        f"{100 * result['accuracy_pipeline']:.2f} % right "
        f"(the trained model alone: {100 * result['accuracy_model']:.2f} %)",
        f"{result['spikes']:,} spikes of all layers compared between SLAYER, reference and Lava: "
        f"{result['mismatched_spikes']} mismatches, "
        f"{result['prediction_mismatches']} predictions differ",
        f"sent: {payload:.0f} bits an image of payload ({raw} raw), "
        f"{result['wire_bytes_mean']:.0f} bytes on the wire; fp32 features would be "
        f"{result['feature_bits_fp32']:,} bits"
        + (f", {result['compression_ratio']:.0f} times as many" if payload else ""),
    ]
    lines += [
        f"modelled edge energy on {name}: {pair['op_only'] / 1e3:,.1f} nJ op-only, "
        f"{pair['full'] / 1e3:,.1f} nJ full"
        for name, pair in result["energy_pj"].items()
    ]
    return "\n".join([*lines, f"report: {result['report']}"])
