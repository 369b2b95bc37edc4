"""Which assumption moves the answer most: one at a time to both ends of its range."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from measure.counts import Counts
from measure.energy import energy
from measure.profile import Profile
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

    def mean_pj(**changes: object) -> float:
        arguments: dict[str, object] = {"profile": profile, "input_events": input_events, **changes}
        return energy(graph, counts, steps=steps, **arguments).mean_pj()[accounting]  # pyright: ignore[reportArgumentType]

    base = mean_pj()
    swings = []

    def add(
        name: str, low_is: str, low: Callable[[], float], high_is: str, high: Callable[[], float]
    ) -> None:
        swings.append(Swing(name, low(), high(), base, low_is, high_is))

    for name in profile.figures:
        bounds = profile.bounds(name)
        if bounds is None:
            continue
        low, high = bounds
        add(
            name.replace("_", " "),
            f"{low:g}",
            lambda name=name, low=low: mean_pj(profile=profile.with_value(name, low)),
            f"{high:g}",
            lambda name=name, high=high: mean_pj(profile=profile.with_value(name, high)),
        )
    add(
        "which neuron updates are active",
        "those that fired",
        lambda: mean_pj(active="fired"),
        "all of them",
        lambda: mean_pj(active="all"),
    )
    if profile.memory is not None:
        add(
            "cost of every buffer",
            "a tenth, as if most data were reused",
            lambda: mean_pj(profile=profile.with_memory_scaled(0.1)),
            "twice",
            lambda: mean_pj(profile=profile.with_memory_scaled(2.0)),
        )
    return sorted((s for s in swings if s.width_pj > 0), key=lambda s: -s.width_pj)
