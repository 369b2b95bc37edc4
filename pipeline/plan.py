"""Where to cut: results of several cuts and codes, one link, one profile, limits; one answer.

What is compared is the device's energy an image, edge computing (full accounting) plus radio for
the bytes really sent, envelope included. Beside the cuts stand all in the cloud (the image itself
is sent) and all on the edge (nothing is), where the results hold what that takes. Baselines are
shown and never chosen: they need another chip. Energies and edge time are modelled; accuracy, bits
and bytes are what the runs measured. What coding takes, of spikes or of a picture, has no figure
and is in nobody's energy.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from measure import link as links
from measure import profile as profiles
from measure.latency import Latency
from measure.link import Link
from measure.profile import Profile
from pipeline.candidate import Candidate, Limits
from pipeline.candidates import Inputs, candidates, load
from pipeline.units import energy_text

SWEEP_MBIT_S = tuple(float(rate) for rate in np.logspace(-3, 3, 61))
BISECTIONS = 50
MOST_CHANGES = 64  # between two rates of the sweep


class Crossover(NamedTuple):
    """The rate from which on another candidate is the best; None where none is allowed."""

    rate_mbit_s: float
    before: str | None
    after: str | None


def plan(
    results: Sequence[Path],
    link: str | Path,
    profile: str | Path,
    max_loss: float | None = None,
    max_energy_pj: float | None = None,
    max_latency_ms: float | None = None,
) -> dict[str, Any]:
    """The chosen cut, the Pareto front, why the others lost, and where the link's rate matters.

    results: result files and, beside them, files of the `baselines` command.
    Raises ResultError naming the file and field, ProfileError for link or profile.
    """
    return decide(
        load(results),
        links.load(link),
        profiles.load(profile),
        Limits(max_loss, max_energy_pj, max_latency_ms),
    )


def decide(inputs: Inputs, link: Link, profile: Profile, limits: Limits) -> dict[str, Any]:
    """What `plan` returns, from files already loaded."""
    found = candidates(inputs, profile)
    times = {c.name: c.latency(link) for c in found}
    broken = {c.name: limits.broken(c, times[c.name]) for c in found}
    eligible = [c for c in found if c.kind != "baseline"]
    allowed = [c for c in eligible if broken[c.name] is None]
    chosen = min(allowed, key=lambda c: c.total_uj(link), default=None)
    front = _pareto(found, link, times)
    rows = []
    for candidate in found:
        time, transfer = times[candidate.name], link.send(candidate.message_bytes)
        asleep = transfer.lone_energy_uj if candidate.message_bytes else 0.0
        rows.append(
            {
                "name": candidate.name,
                "kind": candidate.kind,
                "samples": candidate.samples,
                "accuracy": candidate.accuracy,
                "loss_points": candidate.loss_points,
                "payload_bits": candidate.payload_bits,
                "message_bytes": candidate.message_bytes,
                "edge_pj": {
                    "op_only": candidate.edge_op_only_pj,
                    "full": candidate.edge_full_pj,
                },
                "radio_uj": candidate.radio_uj(link),
                "radio_lone_uj": asleep,
                "total_uj": candidate.total_uj(link),
                "energy_absent": list(candidate.energy_absent),
                "latency_ms": time.total_ms,
                "latency_parts_ms": {
                    part: getattr(time, f"{part}_ms")
                    for part in ("edge", "encode", "link", "cloud")
                },
                "latency_absent": list(time.absent),
                "pareto": candidate.name in front,
                "why": _why(candidate, chosen, broken[candidate.name], link),
                "note": candidate.note,
            }
        )
    return {
        "link": link.name,
        "profile": profile.name,
        "accounting": "full",
        "link_absent": list(link.absent),
        "reference": asdict(inputs.reference()),
        "limits": {
            "max_loss": limits.max_loss,
            "max_energy_pj": limits.max_energy_pj,
            "max_latency_ms": limits.max_latency_ms,
        },
        "chosen": None if chosen is None else chosen.name,
        "pareto": front,
        "beaten_by": [] if chosen is None else _better(found, chosen, link),
        "candidates": rows,
        "sweep": _sweep(eligible, link, limits),
    }


def _pareto(found: Sequence[Candidate], link: Link, times: dict[str, Latency]) -> list[str]:
    """Names that no other candidate beats or equals in loss, energy and time at once.

    Times of which some part is unknown are left out of it.
    """

    def cost(candidate: Candidate) -> tuple[float, float, float | None]:
        loss = math.inf if candidate.loss_points is None else candidate.loss_points
        time = times[candidate.name]
        return loss, candidate.total_uj(link), None if time.absent else time.total_ms

    costs = {candidate.name: cost(candidate) for candidate in found}
    return [
        name
        for name, own in costs.items()
        if math.isfinite(own[0]) and not any(_dominates(other, own) for other in costs.values())
    ]


def _dominates(one: tuple[float | None, ...], other: tuple[float | None, ...]) -> bool:
    known = [(a, b) for a, b in zip(one, other, strict=True) if a is not None and b is not None]
    return all(a <= b for a, b in known) and any(a < b for a, b in known)


def _better(found: Sequence[Candidate], chosen: Candidate, link: Link) -> list[str]:
    """Baselines that are at least as accurate as the chosen one and take less device energy."""
    assert chosen.accuracy is not None
    return [
        candidate.name
        for candidate in found
        if candidate.kind == "baseline"
        and (candidate.accuracy or 0.0) >= chosen.accuracy
        and candidate.total_uj(link) < chosen.total_uj(link)
    ]


def _why(candidate: Candidate, chosen: Candidate | None, broken: str | None, link: Link) -> str:
    if broken is not None:
        return broken
    if candidate.kind == "baseline" and chosen is None:
        return "a baseline, to compare with"
    assert chosen is not None
    if candidate is chosen:
        return "chosen: the least device energy within the limits"
    ratio = candidate.total_uj(link) / max(chosen.total_uj(link), 1e-30)
    text = f"takes {ratio:.3g} times the device energy of {chosen.name}"
    return f"a baseline; {text}" if candidate.kind == "baseline" else text


def _best(found: Sequence[Candidate], link: Link, limits: Limits, rate: float) -> str | None:
    allowed = [c for c in found if limits.broken(c, c.latency(link, rate)) is None]
    best = min(allowed, key=lambda c: c.total_uj(link, rate), default=None)
    return None if best is None else best.name


def _crossovers(best: Callable[[float], str | None], low: float, high: float) -> list[Crossover]:
    """Where the best changes between two rates, each change found by bisection from below."""
    found: list[Crossover] = []
    now, last = best(low), best(high)
    while now != last and len(found) < MOST_CHANGES:
        same, other = low, high
        for _ in range(BISECTIONS):
            middle = math.sqrt(same * other)
            same, other = (middle, other) if best(middle) == now else (same, middle)
        found.append(Crossover(other, now, best(other)))
        low, now = other, best(other)
    return found


def _sweep(found: Sequence[Candidate], link: Link, limits: Limits) -> dict[str, Any]:
    """Device energy over the link's rate, who is best, and the rates at which that changes."""

    def best(rate: float) -> str | None:
        return _best(found, link, limits, rate)

    changes = [
        change for low, high in pairwise(SWEEP_MBIT_S) for change in _crossovers(best, low, high)
    ]
    return {
        "rate_mbit_s": list(SWEEP_MBIT_S),
        "total_uj": {c.name: [c.total_uj(link, rate) for rate in SWEEP_MBIT_S] for c in found},
        "best": [best(rate) for rate in SWEEP_MBIT_S],
        "crossovers": [
            {"rate_mbit_s": change.rate_mbit_s, "from": change.before, "to": change.after}
            for change in changes
        ],
    }


def told_absent(link: str, figures: Sequence[str]) -> str:
    """What follows from figures that a link lacks, in words."""
    bound = {"power_base": "energies", "round_trip_time": "times"}
    names = " and ".join(name.replace("_", " ") for name in figures)
    return (
        f"link {link} has no figure for {names}: "
        f"{' and '.join(bound[name] for name in figures)} on it are lower bounds"
    )


def summary(result: dict[str, Any]) -> str:
    """The decision in plain lines."""
    reference = result["reference"]
    lines = [
        f"link {result['link']}, profile {result['profile']}; "
        "device energy = edge (full accounting, modelled) + radio; coding is not in it",
        f"losses against {100 * reference['accuracy']:.2f} %, {reference['what']}",
    ]
    if result["link_absent"]:
        lines.append(f"{told_absent(result['link'], result['link_absent'])}")
    lines += [
        f"chosen: {result['chosen'] or 'none within the limits'}",
        f"Pareto front: {', '.join(result['pareto']) or 'empty'}",
    ]
    if result["beaten_by"]:
        better = ", ".join(result["beaten_by"])
        lines.append(f"baselines as accurate for less energy, by the models: {better}")
    for row in result["candidates"]:
        energy = energy_text(1e6 * row["total_uj"])
        if row["energy_absent"]:
            energy += f" and what is not counted ({', '.join(row['energy_absent'])})"
        loss = "unknown" if row["loss_points"] is None else f"{row['loss_points']:.2f} points"
        lines.append(
            f"  {row['name']}: loses {loss}, sends {row['message_bytes']:,.0f} bytes, "
            f"{energy}, {row['latency_ms']:.3g} ms "
            f"({'nothing' if not row['latency_absent'] else ', '.join(row['latency_absent'])} "
            f"not counted); {row['why']}"
        )
    lines += [
        f"at {crossing['rate_mbit_s']:.3g} Mbit/s the best changes from "
        f"{crossing['from'] or 'none'} to {crossing['to'] or 'none'}"
        for crossing in result["sweep"]["crossovers"]
    ]
    return "\n".join(lines)
