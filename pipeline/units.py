"""Energies for people: in the unit that suits them."""

from __future__ import annotations


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
