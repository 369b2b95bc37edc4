"""Energy of an edge network by two accountings side by side, from what really fired.

op_only   synaptic ops and graded MACs, the arithmetic alone, as most papers count
full      the same plus neuron updates active and idle, memory by layer footprint, addressing,
          spike routing, relays, and static power over the run time

Each term is counted, absent (the profile has no figure for it) or included (its cost is part of
another figure, or does not exist on that hardware). An absent term is never zero: it is missing
from the sum and says so. All results are modelled from counts; nothing here is measured.

Memory after Lemaire et al. 2022 (arXiv 2210.13107, equations 5 and 7–15): an operation reads its
weight, and reads and writes the state it changes; an update reads its bias, and reads and writes
its state; an event is written once by its layer and read once by each consumer. Each layer has its
own buffers, and an access costs by the size of the buffer. Operations are the true fan-out at the
borders where the paper multiplies by the whole kernel. Addressing (its equations 16 and 17): one
addition an operation and, before a convolution, two multiply-adds an event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from measure.counts import Counts, fan_out
from measure.profile import Profile
from measure.step_time import Placement
from measure.terms import Active, Term, Terms
from splitcore.errors import DataError
from splitcore.graph import Graph, Shape, Synapse


@dataclass(frozen=True, eq=False)
class EnergyResult:
    """Modelled energy of N samples through L layers under one profile."""

    profile: str
    layers: tuple[str, ...]
    steps: int
    terms: tuple[Term, ...]
    step_us: float | None  # mean time of a step; None where the profile has none

    def _sum(self, op_only: bool) -> np.ndarray:
        counted = [t.energy_pj for t in self.terms if t.op_only or not op_only]
        return np.sum([energy for energy in counted if energy is not None], axis=0)

    @property
    def op_only_pj(self) -> np.ndarray:
        """(N, L) pJ of the arithmetic alone."""
        return self._sum(op_only=True)

    @property
    def full_pj(self) -> np.ndarray:
        """(N, L) pJ of every term that has a figure."""
        return self._sum(op_only=False)

    @property
    def absent(self) -> tuple[str, ...]:
        """Terms that exist on this hardware but have no figure, so are missing from the sum."""
        return tuple(term.name for term in self.terms if term.status == "absent")

    def mean_pj(self) -> dict[str, float]:
        """Mean pJ a sample, by accounting."""
        return {
            "op_only": float(self.op_only_pj.sum(axis=1).mean()),
            "full": float(self.full_pj.sum(axis=1).mean()),
        }

    def as_dict(self) -> dict[str, object]:
        """A JSON-able record: totals, spread over samples, layers, terms with assumptions."""
        return {
            "profile": self.profile,
            "steps": self.steps,
            "step_us": self.step_us,
            "energy_pj": self.mean_pj(),
            "spread_pj": {
                "op_only": spread(self.op_only_pj.sum(axis=1)),
                "full": spread(self.full_pj.sum(axis=1)),
            },
            "layers": {
                name: {"op_only": float(op), "full": float(full)}
                for name, op, full in zip(
                    self.layers,
                    self.op_only_pj.mean(axis=0),
                    self.full_pj.mean(axis=0),
                    strict=True,
                )
            },
            "terms": [
                {
                    "name": term.name,
                    "status": term.status,
                    "accounting": "both" if term.op_only else "full",
                    "assumption": term.assumption,
                    "energy_pj": None
                    if term.energy_pj is None
                    else float(term.energy_pj.sum(axis=1).mean()),
                    "layers_pj": None
                    if term.energy_pj is None
                    else [float(value) for value in term.energy_pj.mean(axis=0)],
                }
                for term in self.terms
            ],
        }


def spread(values: np.ndarray) -> dict[str, float]:
    """Mean, standard deviation, extremes and the 5th and 95th percentile over samples."""
    low, high = np.percentile(values, [5, 95])
    return {
        "mean": float(values.mean()),
        "std": float(values.std()),
        "min": float(values.min()),
        "p5": float(low),
        "p95": float(high),
        "max": float(values.max()),
    }


def connections(synapse: Synapse, source: Shape) -> int:
    """Pairs of a source neuron and a target neuron that this synapse joins, borders left out.

    It is what a dense network computes as MACs in one step, and what one step of a network that
    fires everywhere would do as synaptic operations.
    """
    return int(np.broadcast_to(fan_out(synapse, source), source).sum())


def rate_times_steps(graph: Graph, counts: Counts) -> float:
    """T × firing rate: synaptic ops a sample and spiking connection.

    The rate is that of the spikes that arrive, weighted by the connections they pass, so with
    equal energy an op it is the very ratio of spiking to dense arithmetic. A graded input does
    MACs and is left out.
    """
    dense = sum(
        connections(current.synapse, graph.shapes[current.source])
        for _, current in graph.currents()
        if current.source != graph.input.name or graph.input.message_bits == 0
    )
    if dense == 0:
        return 0.0
    return float(counts.synops.sum(axis=1).mean()) / dense


def energy(
    graph: Graph,
    counts: Counts,
    profile: Profile,
    steps: int,
    input_events: np.ndarray | None = None,
    active: Active = "most",
    activity: float = 1.0,
    mean_only: bool = False,
    placement: Placement = "best",
    alone: bool = False,
) -> EnergyResult:
    """Both accountings of what `counts` (N, L) says has happened in `steps` time steps.

    input_events (N,): nonzero input values a sample, over all steps. Without it every input value
    is taken to send an event each step, which is the most there can be.
    active: which neuron updates are active ones. Counts do not tell in which steps input reached
    a neuron, so "most" takes as many as operations reached its layer, "fired" only as many as
    spiked, "all" every one.
    activity: multiplies every spike and what follows from it, for break-even studies.
    mean_only: the result has one row, the mean of the samples; the same means, in less time.
    placement: see `measure.step_time`; alone: the network runs on for its depth until a sample's
    last spikes are out, where otherwise the next sample's follow at once.
    """
    names = tuple(layer.name for layer in graph.layers)
    if tuple(counts.layers) != names:
        raise DataError(f"counts: expected layers {names}, got {tuple(counts.layers)}")
    if not len(counts):
        raise DataError("counts: expected at least one sample")
    model = Terms(
        graph, counts, profile, steps, input_events, active, activity, mean_only, placement, alone
    )
    step = None if model.step_us is None else float(model.step_us.mean())
    return EnergyResult(profile.name, names, steps, model.all(), step)
