"""`bench serve`: the same tail offline in batches and behind the network, in one run."""

from __future__ import annotations

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from cloud_server.server import running
from cloud_server.service import ServiceLimits
from cloud_server.tail import TailEngine
from pipeline.bench.load import Load, Outcome, Pool
from pipeline.console import progress_bar
from splitcore import tail
from splitcore.bundle import Bundle, open_bundle
from splitcore.codec import context
from splitcore.codec.registry import encode_best
from splitcore.errors import LinkError

SAMPLES = 512  # a round of the offline side, from the probe, over and over
BATCH = 64
POOL = 2 * ServiceLimits().remembered  # so that no answer comes from the server's memory
BATCHES, MAX_SECONDS = 10, 10.0  # a slow tail gets more time than asked for, to be measured at all
REPEATS = 5  # of offline and served by turns; odd: the median is one of them
CLIENTS = (1, 2, 4, 8, 16, 32, 64)
LOADS = (0.1, 0.5, 0.9)  # of capacity
CAPACITY_CLIENTS = 16
HEADLINE = (8, 0.5)  # of the table above: clients and load of p50_ms and p99_ms
OVERLOAD = 3  # times the capacity
RAY_REPLICAS = 2


def run(
    bundle: Path, *, engine: str = "local", seconds: float = 3.0, threads: int | None = None
) -> dict[str, Any]:
    """Measure one bundle. `seconds` is spent on each of some forty measurements.

    offline: TailEngine on spikes that are ready in memory, batches of 64, one thread a core.
    served: from the clients of another process on this machine, packets encoded beforehand, through
    gRPC, decoding and batching, 16 streams that always have a full window. Both take turns, five
    times; offline, served and ratio are those of the turn with the median ratio. p50 and p99 are at
    half that rate with 8 clients. With engine ray the local engine takes its turns as well.
    """
    opened = open_bundle(bundle)
    threads = threads or os.cpu_count() or 1
    offline = _Offline(opened, threads)
    seconds = max(seconds, min(MAX_SECONDS, BATCHES * BATCH / offline.images_per_s(0.5)))
    engines = list(dict.fromkeys(("local", engine)))
    with contextlib.ExitStack() as stack:
        pool = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "pool.npz"
        _pool(opened, offline.labels).save(pool)
        replicas = (RAY_REPLICAS, RAY_REPLICAS)
        servers = {
            name: stack.enter_context(
                running([bundle], engine=name, threads=threads, ray_replicas=replicas)
            ).address
            for name in engines
        }
        progress = stack.enter_context(progress_bar())
        bench = _Bench(offline, servers, str(pool), seconds, progress)
        turns = bench.turns()
        middle = sorted(turns, key=lambda turn: turn.ratio(engine))[len(turns) // 2]
        served = middle.served[engine].answered_per_s
        latency = bench.latency(engine, served)
        overload = bench.overload(engine)
    half = next(row for row in latency if (row["clients"], row["load"]) == HEADLINE)
    result = {
        "bundle": str(bundle),
        "engine": engine,
        "threads": threads,
        "cores": os.cpu_count(),
        "clients_on_the_same_cores": True,
        "offline_images_per_s": middle.offline,
        "served_images_per_s": served,
        "ratio": middle.ratio(engine),
        "ratios": [turn.ratio(engine) for turn in turns],
        "server_cpu_us_per_image": middle.server_cpu_us.get(engine),
        "client_cpu_us_per_image": middle.client_cpu_us(engine),
        "p50_ms": half["p50_ms"],
        "p99_ms": half["p99_ms"],
        "errors": sum(outcome.errors + outcome.wrong for outcome in bench.outcomes),
        "latency": latency,
        "overload": overload,
    }
    if engine != "local":
        ratios = [t.served[engine].answered_per_s / t.served["local"].answered_per_s for t in turns]
        result |= {
            "local_images_per_s": middle.served["local"].answered_per_s,
            "ratio_to_local": statistics.median(ratios),
            "ratios_to_local": ratios,
        }
    return result


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    ratios, over, server = result["ratios"], result["overload"], result["server_cpu_us_per_image"]
    lines = [
        f"{result['engine']}: {result['served_images_per_s']:.0f} images/s served, "
        f"{result['offline_images_per_s']:.0f} offline, ratio {result['ratio']:.2f} "
        f"({min(ratios):.2f} … {max(ratios):.2f} in {len(ratios)} turns), "
        f"{result['errors']} errors",
        f"clients and server share {result['cores']} cores: of a core's time the clients used "
        f"{result['client_cpu_us_per_image']:.0f} µs an image"
        + ("" if server is None else f", the server {server:.0f} µs"),
        *(
            f"{row['clients']:>3} clients at {100 * row['load']:.0f} %: "
            f"p50 {row['p50_ms']:.1f} ms, p99 {row['p99_ms']:.1f} ms"
            for row in result["latency"]
        ),
        f"{OVERLOAD} times the capacity offered: {100 * over['goodput_of_capacity']:.0f} % "
        f"of it answered, {over['lost']} lost, "
        f"memory {over['rss_before_mib']:.0f} → {over['rss_after_mib']:.0f} MiB",
    ]
    if "ratio_to_local" in result:
        to_local = result["ratios_to_local"]
        lines.append(
            f"{result['ratio_to_local']:.2f} of the local engine "
            f"({min(to_local):.2f} … {max(to_local):.2f})"
        )
    return "\n".join(lines)


@dataclass(frozen=True)
class _Turn:
    """Offline and every engine, one right after the other; images/s, and µs of a core an image."""

    offline: float
    served: dict[str, Outcome]
    server_cpu_us: dict[str, float]

    def ratio(self, engine: str) -> float:
        return self.served[engine].answered_per_s / self.offline

    def client_cpu_us(self, engine: str) -> float:
        outcome = self.served[engine]
        return 1e6 * outcome.cpu_s / max(1, outcome.answered)


@dataclass(eq=False)
class _Bench:
    """The measurements. servers: addresses by engine; pool: the file of a Pool."""

    offline: _Offline
    servers: dict[str, str]
    pool: str
    seconds: float
    progress: Progress
    outcomes: list[Outcome] = field(default_factory=list)

    def __post_init__(self) -> None:
        loads = len(self.servers) * (1 + REPEATS) + len(CLIENTS) * len(LOADS) + 3
        self._task = self.progress.add_task("bench serve", total=loads)

    def turns(self) -> list[_Turn]:
        for engine in self.servers:
            self._capacity(engine)  # to warm up
        return [self._turn() for _ in range(REPEATS)]

    def latency(self, engine: str, capacity_per_s: float) -> list[dict[str, Any]]:
        table = []
        for clients in CLIENTS:
            for part in LOADS:
                outcome = self._load(engine, clients, part * capacity_per_s)
                row = {"clients": clients, "load": part}
                for name in ("p50_ms", "p99_ms", "answered_per_s", "errors"):
                    row[name] = getattr(outcome, name)
                table.append(row)
        return table

    def overload(self, engine: str) -> dict[str, Any]:
        before = self._capacity(engine).answered_per_s
        rss_before = _resident_mib()
        over = self._load(engine, CAPACITY_CLIENTS, OVERLOAD * before)
        rss_after = _resident_mib()
        after = self._capacity(engine).answered_per_s
        return {
            "offered_per_s": over.offered / self.seconds,
            "capacity_before_per_s": before,
            "capacity_after_per_s": after,
            "goodput_per_s": over.answered_per_s,
            "goodput_of_capacity": 2 * over.answered_per_s / (before + after),
            "lost": over.lost,
            "rss_before_mib": rss_before,
            "rss_after_mib": rss_after,
        }

    def _turn(self) -> _Turn:
        offline = self.offline.images_per_s(self.seconds)
        served: dict[str, Outcome] = {}
        server_cpu_us: dict[str, float] = {}
        for engine in self.servers:
            began = time.process_time()  # of this process, where the servers run
            served[engine] = self._capacity(engine)
            used = time.process_time() - began
            if engine == "local":  # replicas of Ray are processes of their own
                server_cpu_us[engine] = 1e6 * used / max(1, served[engine].answered)
        return _Turn(offline, served, server_cpu_us)

    def _capacity(self, engine: str) -> Outcome:
        return self._load(engine, CAPACITY_CLIENTS, None)

    def _load(self, engine: str, clients: int, rate_per_s: float | None) -> Outcome:
        load = Load(self.servers[engine], self.pool, clients, self.seconds, rate_per_s)
        done = subprocess.run(
            [sys.executable, "-m", "pipeline.bench.load"],
            input=json.dumps(asdict(load)),
            capture_output=True,
            text=True,
            timeout=60 + 4 * load.seconds,
        )
        if done.returncode != 0:
            raise LinkError(f"bench: the clients failed: {done.stderr.strip()[-500:]}")
        outcome = Outcome(**json.loads(done.stdout))
        self.outcomes.append(outcome)
        self.progress.update(self._task, advance=1)
        return outcome


class _Offline:
    """The tail on spikes in memory, one batch a thread at a time."""

    def __init__(self, bundle: Bundle, threads: int) -> None:
        self._engine = TailEngine(tail.of_bundle(bundle), bundle.manifest.steps)
        code = bundle.probe().code_ntchw
        self.labels = self._engine(code).argmax(axis=1).tolist()  # of the probe's samples
        code = np.resize(code, (SAMPLES, *code.shape[1:]))
        self._batches = [code[start : start + BATCH] for start in range(0, SAMPLES, BATCH)]
        self._threads = threads

    def images_per_s(self, seconds: float) -> float:
        one_core = {"initializer": torch.set_num_threads, "initargs": (1,)}
        with ThreadPoolExecutor(self._threads, **one_core) as pool:
            list(pool.map(self._engine, self._batches))  # to warm up
            done, started = 0, time.perf_counter()
            while time.perf_counter() < started + seconds:
                done += sum(map(len, pool.map(self._engine, self._batches)))
            return done / (time.perf_counter() - started)


def _pool(bundle: Bundle, labels: list[int]) -> Pool:
    known = context.of_bundle(bundle)
    distinct = [encode_best(code, known) for code in bundle.probe().code_ntchw]
    places = [k % len(distinct) for k in range(POOL)]
    digest = bytes.fromhex(bundle.digest)
    return Pool.of([distinct[k] for k in places], [labels[k] for k in places], digest)


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)
