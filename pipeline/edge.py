"""The edge at work: frames through the simulator, each sample's spikes to the cloud at once."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from lava_edge import netx_file
from lava_edge.runtime import simulate
from lava_edge.uplink import Answer, Uplink
from measure import profile
from measure.counts import Counts, concatenate
from pipeline import images, outcome, results
from pipeline.baseline_rows import edges_at
from pipeline.console import progress_bar
from pipeline.live import LiveRun
from pipeline.live import run as live_run
from splitcore.bundle import Bundle, open_bundle
from splitcore.errors import UsageError
from training.data.dataset import evenly
from training.evaluate import accuracy


@dataclass(frozen=True, eq=False)
class EdgeRun:
    """What the simulator fired and what the cloud answered, sample by sample in order.

    cloud_us: the cloud's mean time for a sample that meets no queue, where it was measured.
    """

    code_ntchw: np.ndarray
    counts: Counts
    answers: tuple[Answer, ...]
    cloud_us: float | None = None

    @property
    def labels_n(self) -> np.ndarray:
        """The cloud's classes."""
        return labels(self.answers)

    def mean(self, field: str) -> float:
        """The mean over samples of a numeric field of the answers."""
        return mean(self.answers, field)


def labels(answers: Sequence[Answer]) -> np.ndarray:
    """The classes that were answered."""
    return np.array([answer.label for answer in answers])


def mean(answers: Sequence[Answer], field: str) -> float:
    """The mean of a numeric field of answers."""
    return float(np.mean([getattr(answer, field) for answer in answers]))


def stream(
    bundle: Bundle,
    frames_ntchw: np.ndarray,
    server: str,
    *,
    model: str = "leaf",
    group: int = 1,
    timed: bool = False,
    spill: Path | None = None,
    advance: Callable[[], object] = lambda: None,
    **security: Any,
) -> EdgeRun:
    """Simulate and send all samples, `group` of them in a packet; `advance` is called for each
    answer. `timed` then sends some again for cloud_us, past the spill: nobody misses those.

    Raises LinkError naming the samples that were lost, SimulationError when the simulator died.
    """
    codes: list[np.ndarray] = []
    counts: list[Counts] = []

    def samples():
        simulated = simulate(bundle.edge_path, frames_ntchw, model=model)
        bundle.require_unchanged()  # its file has been read
        for result in simulated:
            codes.append(result.code_tchw)
            counts.append(result.counts)
            yield result.index, result.code_tchw

    answers: dict[int, Answer] = {}
    with Uplink(server, bundle, group=group, spill=spill, **security) as uplink:
        for answer in uplink.classify(samples()):
            answers[answer.sample] = answer
            advance()
    ordered = tuple(answers[index] for index in range(len(codes)))
    code_ntchw = np.stack(codes)
    cloud_us = cloud_time_us(bundle, code_ntchw, server, **security) if timed else None
    return EdgeRun(code_ntchw, concatenate(counts), ordered, cloud_us)


def deliver(bundle: Bundle, server: str, spill: Path, **security: Any) -> int:
    """Send what earlier runs left in the spill; how many samples were answered.

    Raises LinkError naming those that were lost or stay where they are, and damaged files.
    """
    uplink = Uplink(server, bundle, spill=spill, **security)
    # Where nothing waits no server is needed to say so.
    with uplink if uplink.waiting else contextlib.closing(uplink):
        return sum(1 for _ in uplink.answers())


def cloud_time_us(bundle: Bundle, code_ntchw: np.ndarray, server: str, **security: Any) -> float:
    """The cloud's mean time from a sample's arrival to its answer, by its own clock, without queue.

    Each of some samples is sent when the one before is answered, and nothing is simulated
    meanwhile: where the simulator outruns the cloud, an answer in `stream` waits for all before it.
    """
    times: list[int] = []
    with Uplink(server, bundle, **security) as uplink:
        for place, sample in enumerate(evenly(len(code_ntchw), outcome.TIMED)):
            uplink.send(place, code_ntchw[sample])
            times += [answer.server_us for answer in uplink.answers()]
    return float(np.mean(times))


def run(
    path: Path,
    *,
    server: str,
    samples: int | None = None,
    data: str | None = None,
    model: str = "leaf",
    live: bool = False,
    group: int = 1,
    spill: Path | None = None,
    result: Path | None = None,
    profiles: Sequence[str] = (),
    baselines: Sequence[Path] = (),
    **security: Any,
) -> dict[str, Any]:
    """The edge command; `result` is a file for what `plan` and `report` read.

    spill: a folder that keeps each sample until it is answered. What earlier runs left
    there is delivered before anything of this one is simulated, and counted apart.
    profiles: what the result is priced by beside the usual.
    baselines: files of the `baselines` command that the result's energy is held against.
    """
    bundle = open_bundle(path)
    if result is not None:
        results.require_place(result)
    priced = profile.load_all((*profile.USUAL, *profiles))
    others = edges_at(baselines, bundle.manifest)
    netx_file.of_bundle(bundle)  # refused here in one line, not by a simulator that is under way
    chosen = images.load(bundle, data, samples)
    access = {name: value for name, value in security.items() if value is not None}
    if live and (result is not None or model != "leaf"):
        raise UsageError("--live runs the leaf and counts no operations: leave --result out")
    if group > 1 and (live or result is not None):
        raise UsageError(
            "--group lets samples wait for each other: leave out --live, which sends each step as "
            "it appears, and --result, which prices a sample sent alone"
        )
    earlier = 0 if spill is None else deliver(bundle, server, spill, **access)
    with progress_bar() as progress:
        task = progress.add_task("edge", total=len(chosen))

        def advance() -> None:
            progress.update(task, advance=1)

        frames = chosen.frames_ntchw
        if live:
            done = live_run(bundle, frames, server, advance=advance, spill=spill, **access)
        else:
            done = stream(
                bundle,
                frames,
                server,
                model=model,
                group=group,
                timed=result is not None,
                spill=spill,
                advance=advance,
                **access,
            )
    if result is not None and isinstance(done, EdgeRun):
        found = outcome.outcome(bundle, chosen, done, priced, others)
        results.save(json.dumps(found, indent=2, allow_nan=False) + "\n", result)
    answers = done.answers
    found = {
        "bundle": str(path),
        "server": server,
        "model": model,
        "group": group,
        "data": chosen.data,
        "samples": len(chosen),
        "answered": len(answers),
        "answered_of_earlier_runs": earlier,
        "accuracy": accuracy(labels(answers), chosen.labels_n),
        "code_spikes": int(done.code_ntchw.sum()),
        "payload_bits_mean": mean(answers, "payload_bits"),
        "envelope_bits_mean": mean(answers, "envelope_bits"),
        "wire_bytes_mean": mean(answers, "wire_bytes"),
        "server_us_mean": mean(answers, "server_us"),
        "round_trip_us_mean": mean(answers, "round_trip_us"),
    }
    if isinstance(done, LiveRun):
        waits = done.to_wire_percentiles_us
        found["to_wire_us"] = waits and {"median": waits[0], "p95": waits[1]}
    return found


def summary(result: dict[str, Any]) -> str:
    """The result in plain lines."""
    text = (
        f"{result['answered']} of {result['samples']} samples of {result['data']} answered by "
        f"{result['server']}, {100 * result['accuracy']:.2f} % right\n"
        f"a sample: {result['payload_bits_mean']:.0f} bits of payload, "
        f"{result['wire_bytes_mean']:.0f} bytes on the wire, "
        f"{result['round_trip_us_mean'] / 1000:.1f} ms there and back"
    )
    if earlier := result["answered_of_earlier_runs"]:
        text += f"\nbefore them: {earlier} samples that earlier runs had left in the spill"
    if wait := result.get("to_wire_us"):
        text += (
            f"\nfrom a step's last spike to its bytes written by gRPC: "
            f"median {wait['median']:.0f} µs, 95 % within {wait['p95']:.0f} µs"
        )
    return text
