"""`bench serve`: the same tail offline in batches and behind the network, in one run."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cloud_server.server import running
from cloud_server.tail import TailEngine
from pipeline.bench.load import Load, Outcome
from pipeline.console import progress_bar
from splitcore import tail
from splitcore.bundle import Bundle, open_bundle
from splitcore.codec import context
from splitcore.codec.registry import encode_best
from splitcore.errors import LinkError

SAMPLES = 512  # different ones, from the probe, over and over
BATCH = 64
BATCHES, MAX_SECONDS = 10, 10.0  # a slow tail gets more time than asked for, to be measured at all
CLIENTS = (1, 8, 64)
LOADS = (0.1, 0.5, 0.9)  # of capacity
CAPACITY_CLIENTS = 16
HEADLINE = (8, 0.5)  # of the table above: clients and load of p50_ms and p99_ms
RAY_REPLICAS = 2


def run(
    bundle: Path, *, engine: str = "local", seconds: float = 3.0, threads: int | None = None
) -> dict[str, Any]:
    """Measure one bundle. `seconds` is spent on each of some fourteen measurements.

    offline: TailEngine on spikes that are ready in memory, batches of 64, one thread a core.
    served: from the clients of another process on this machine, codes encoded beforehand, through
    gRPC, decoding and batching, 16 streams that always have a full window. p50 and p99 are at half
    that rate with 8 clients. With engine ray both engines are measured on the same load.
    """
    opened = open_bundle(bundle)
    threads = threads or os.cpu_count() or 1
    offline, labels = _offline(opened, threads, seconds)
    seconds = max(seconds, min(MAX_SECONDS, BATCHES * BATCH / offline))
    with tempfile.TemporaryDirectory() as folder, progress_bar() as progress:
        samples = Path(folder) / "samples.npz"
        _write_samples(opened, labels, samples)
        engines = ["local"] if engine == "local" else ["local", engine]
        task = progress.add_task(
            "bench serve", total=1 + 2 * len(engines) + len(LOADS) * len(CLIENTS)
        )

        def load(address: str, clients: int, rate_per_s: float | None) -> Outcome:
            outcome = _load(Load(address, str(samples), clients, seconds, rate_per_s))
            progress.update(task, advance=1)
            return outcome

        capacities: dict[str, Outcome] = {}
        for name in engines[:-1]:
            with running([bundle], engine=name, threads=threads) as server:
                load(server.address, CAPACITY_CLIENTS, None)
                capacities[name] = load(server.address, CAPACITY_CLIENTS, None)
        with running(
            [bundle],
            engine=engine,
            threads=threads,
            ray_replicas=(RAY_REPLICAS, RAY_REPLICAS),
        ) as server:
            warm = load(server.address, CAPACITY_CLIENTS, None)
            capacity = load(server.address, CAPACITY_CLIENTS, None)
            served = capacity.answered_per_s
            table = [
                {"clients": clients, "load": part, **_times(load(server.address, clients, r))}
                for clients in CLIENTS
                for part in LOADS
                for r in [part * served]
            ]
            before = _resident_mib()
            over = load(server.address, CAPACITY_CLIENTS, 3 * served)
            overload = {
                "offered_per_s": over.offered / seconds,
                "goodput_per_s": over.answered_per_s,
                "goodput_of_capacity": over.answered_per_s / served,
                "lost": over.sent - over.answered,
                "grown_mib": _resident_mib() - before,
            }
    half = next(row for row in table if (row["clients"], row["load"]) == HEADLINE)
    outcomes = [warm, capacity, over]
    result = {
        "bundle": str(bundle),
        "engine": engine,
        "threads": threads,
        "offline_images_per_s": offline,
        "served_images_per_s": served,
        "ratio": served / offline,
        "p50_ms": half["p50_ms"],
        "p99_ms": half["p99_ms"],
        "errors": sum(o.errors + o.wrong for o in outcomes) + sum(row["errors"] for row in table),
        "latency": table,
        "overload": overload,
    }
    if capacities:
        local = capacities["local"].answered_per_s
        result |= {"local_images_per_s": local, "ratio_to_local": served / local}
    return result


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    lines = [
        f"{result['engine']}: {result['served_images_per_s']:.0f} images/s served, "
        f"{result['offline_images_per_s']:.0f} offline, ratio {result['ratio']:.2f}, "
        f"{result['errors']} errors",
        *(
            f"{row['clients']:>3} clients at {100 * row['load']:.0f} %: "
            f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms"
            for row in result["latency"]
        ),
        f"3 times the capacity offered: {100 * result['overload']['goodput_of_capacity']:.0f} % "
        f"of it answered, {result['overload']['lost']} lost, "
        f"memory {result['overload']['grown_mib']:+.0f} MiB",
    ]
    if "ratio_to_local" in result:
        lines.append(f"{result['ratio_to_local']:.2f} of the local engine")
    return "\n".join(lines)


def _times(outcome: Outcome) -> dict[str, Any]:
    return {
        "p50_ms": outcome.p50_ms,
        "p99_ms": outcome.p99_ms,
        "answered_per_s": outcome.answered_per_s,
        "errors": outcome.errors + outcome.wrong,
    }


def _codes(bundle: Bundle) -> np.ndarray:
    code = bundle.probe().code_ntchw
    return np.resize(code, (SAMPLES, *code.shape[1:]))


def _offline(bundle: Bundle, threads: int, seconds: float) -> tuple[float, np.ndarray]:
    engine = TailEngine(tail.load(bundle.cloud_path), bundle.manifest.steps)
    code = _codes(bundle)
    batches = [code[start : start + BATCH] for start in range(0, SAMPLES, BATCH)]
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        labels = np.concatenate(list(pool.map(engine, batches))).argmax(axis=1)
        done, started = 0, time.perf_counter()
        while time.perf_counter() < started + seconds:
            done += sum(map(len, pool.map(engine, batches)))
        return done / (time.perf_counter() - started), labels


def _write_samples(bundle: Bundle, labels: np.ndarray, path: Path) -> None:
    known = context.of_bundle(bundle)
    distinct = [encode_best(code, known) for code in bundle.probe().code_ntchw]
    encoded = [distinct[k % len(distinct)] for k in range(SAMPLES)]
    np.savez(
        path,
        digest=np.frombuffer(bytes.fromhex(bundle.digest), np.uint8),
        codecs=np.array([codec for codec, _ in encoded]),
        offsets=np.cumsum([0, *(len(payload) for _, payload in encoded)]),
        payloads=np.frombuffer(b"".join(payload for _, payload in encoded), np.uint8),
        labels=labels,
    )


def _load(load: Load) -> Outcome:
    done = subprocess.run(
        [sys.executable, "-m", "pipeline.bench.load"],
        input=json.dumps(asdict(load)),
        capture_output=True,
        text=True,
        timeout=60 + 4 * load.seconds,
    )
    if done.returncode != 0:
        raise LinkError(f"bench: the clients failed: {done.stderr.strip()[-500:]}")
    return Outcome(**json.loads(done.stdout))


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
