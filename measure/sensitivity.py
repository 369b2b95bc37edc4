"""Which assumption moves the answer most: one at a time to both ends of its range."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from measure.counts import Counts
from measure.energy import energy
from measure.profile import Profile
from measure.step_time import Placement
from measure.terms import Active
from splitcore.graph import Graph


@dataclass(frozen=True)
class Swing:
    """Mean pJ an image at both ends of one assumption, and as it is assumed."""

    assumption: str
    low_pj: float
    high_pj: float
    base_pj: float
    low_is: str
    high_is: str

    @property
    def width_pj(self) -> float:
        """How far this assumption alone can move the answer."""
        return abs(self.high_pj - self.low_pj)


def tornado(
    graph: Graph,
    counts: Counts,
    profile: Profile,
    steps: int,
    input_events: np.ndarray | None = None,
    accounting: str = "full",
) -> list[Swing]:
    """Swings of every figure that has a range and of every free choice, widest first."""

    def mean_pj(
        priced: Profile = profile,
        active: Active = "most",
        placement: Placement = "best",
        alone: bool = False,
    ) -> float:
        result = energy(
            graph,
            counts,
            priced,
            steps,
            input_events,
            active,
            mean_only=True,
            placement=placement,
            alone=alone,
        )
        return result.mean_pj()[accounting]

    base = mean_pj()
    swings = [
        Swing(
            name.replace("_", " "),
            mean_pj(profile.with_value(name, bounds[0])),
            mean_pj(profile.with_value(name, bounds[1])),
            base,
            f"{bounds[0]:g}",
            f"{bounds[1]:g}",
        )
        for name in profile.figures
        if (bounds := profile.bounds(name)) is not None
    ]
    swings += [
        Swing(
            "which neuron updates are active",
            mean_pj(active="fired"),
            mean_pj(active="all"),
            base,
            "those that fired",
            "all of them",
        ),
        Swing(
            "what each core holds",
            base,
            mean_pj(placement="packed"),
            base,
            "as even a share of the work as fits",
            "as many neurons as fit",
        ),
        Swing(
            "how samples follow one another",
            base,
            mean_pj(alone=True),
            base,
            f"without a gap, {steps} steps each",
            f"alone, {steps + graph.depth[graph.output_name]} steps each",
        ),
    ]
    if profile.memory is not None:
        for index, point in enumerate(profile.memory.points):
            figure = point.energy
            ends = [figure.value if end is None else end for end in (figure.low, figure.high)]
            low_pj, high_pj = (mean_pj(profile.with_point(index, end)) for end in ends)
            low_is, high_is = (f"{end:g} {figure.unit}" for end in ends)
            name = f"access to a buffer of {point.bytes:,} bytes"
            swings.append(Swing(name, low_pj, high_pj, base, low_is, high_is))
        swings.append(
            Swing(
                "cost of every buffer",
                mean_pj(profile.with_memory_scaled(0.1)),
                mean_pj(profile.with_memory_scaled(2.0)),
                base,
                "a tenth, as if most data were reused",
                "twice",
            )
        )
    moving = [swing for swing in swings if swing.width_pj > 0]
    return sorted(moving, key=lambda swing: -swing.width_pj)
