"""What a picture of accuracy against cost shows, whoever draws it."""

from __future__ import annotations

import math
from dataclasses import dataclass

from pipeline.figures import COLOURS

KINDS = ("split", "all edge", "all cloud", "baseline")  # each keeps its colour and symbol
NEAR_X, NEAR_Y = 0.03, 0.04  # of the axes: labels that would lie on each other are joined


@dataclass(frozen=True)
class Point:
    """One candidate. number: its row in the table beside; interval: of the accuracy, 95 %."""

    number: int
    name: str
    kind: str
    cost: float
    accuracy: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class Points:
    """Accuracies against a cost above 0, which the axis shows logarithmically."""

    axis: str
    points: tuple[Point, ...]

    def kinds(self) -> dict[str, list[int]]:
        """The kinds there are, in the house's order, and the places of their points."""
        return {
            kind: places
            for kind in KINDS
            if (places := [i for i, point in enumerate(self.points) if point.kind == kind])
        }

    def labels(self) -> list[str]:
        """What stands at each point: its number, and those of points that lie on it."""
        left, right = self._decades()
        bottom, top = self.heights()
        wide, tall = right - left or 1.0, top - bottom
        groups: dict[int, list[int]] = {}
        for place, point in enumerate(self.points):
            for other in groups:
                there = self.points[other]
                across = abs(math.log10(point.cost / there.cost)) / wide
                if across < NEAR_X and 100 * abs(point.accuracy - there.accuracy) / tall < NEAR_Y:
                    groups[other].append(place)
                    break
            else:
                groups[place] = [place]
        return [
            ", ".join(str(self.points[each].number) for each in groups.get(place, ()))
            for place in range(len(self.points))
        ]

    def _decades(self) -> tuple[float, float]:
        powers = [math.log10(point.cost) for point in self.points]
        return min(powers), max(powers)

    def widths(self) -> tuple[float, float]:
        """The cost axis from end to end, as powers of ten."""
        low, high = self._decades()
        room = 0.06 * max(high - low, 0.5)
        return low - room, high + room

    def heights(self) -> tuple[float, float]:
        """The accuracy axis from end to end, in per cent."""
        low = 100 * min(point.interval[0] for point in self.points)
        high = 100 * max(point.interval[1] for point in self.points)
        room = max(high - low, 1.0)
        return low - 0.1 * room, high + 0.15 * room


def colour(kind: str) -> str:
    """The colour of a kind, the same in every picture."""
    return COLOURS[KINDS.index(kind)]
