"""Figures for people: energies in the unit that suits them, shares with what is known of them."""

from __future__ import annotations

from measure.interval import wilson_interval


def energy_unit(largest_pj: float) -> tuple[float, str]:
    """(pJ in one unit, unit) that shows an energy of this size in few digits."""
    for scale, unit in ((1e12, "J"), (1e9, "mJ"), (1e6, "µJ"), (1e3, "nJ")):
        if largest_pj >= scale:
            return scale, unit
    return 1.0, "pJ"


def energy_text(energy_pj: float) -> str:
    """An energy in the unit that suits it, three digits."""
    scale, unit = energy_unit(energy_pj)
    return f"{energy_pj / scale:.3g} {unit}"


def times_text(ratio: float) -> str:
    """Theirs over ours, in words about ours: "4.82 times less", "6.94 times more", "as much".

    Just "more" where theirs is nothing.
    """
    if not ratio:
        return "more"
    times = f"{max(ratio, 1 / ratio):.3g}"
    if times == "1":
        return "as much"
    return f"{times} times {'less' if ratio > 1 else 'more'}"


def break_even_text(rate_times_steps: float | None, steps: int, why_none: str) -> str:
    """The T × rate at which both sides cost the same, or in words that there is none."""
    if rate_times_steps is None:
        return f"no rate ({why_none})"
    if rate_times_steps >= steps:
        return "no rate (it costs less at any)"
    return f"{rate_times_steps:.3g}"


def accuracy_text(accuracy: float | None, samples: int) -> str:
    """Per cent with the 95 % interval that so many samples allow."""
    if accuracy is None:
        return "unknown"
    low, high = wilson_interval(accuracy, samples)
    return f"{100 * accuracy:.2f} ({100 * low:.1f} – {100 * high:.1f})"
