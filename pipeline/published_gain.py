"""How far an edge half is from the gain published for this method, and what keeps it there.

SpikeBottleNet (arXiv 2410.08673 v2) states 144 times less edge energy than BottleNet.
"""

from __future__ import annotations

from measure.dense import TWIN, DenseEnergy
from pipeline.results import DenseRecord, Details
from pipeline.units import times_text

CLAIM, RIVAL, PROFILE = 144.0, "BottleNet", "cmos45_fp32"


def is_rival(network: str) -> bool:
    """Whether it is BottleNet, whatever else its name says of it, such as its width."""
    return f"{network},".startswith(f"{RIVAL},")


def rival_of(detail: Details) -> DenseRecord | None:
    """Whom a result alone can be held against: the first BottleNet it knows, else its own twin."""
    priced = [each for each in detail.dense if each.profile == PROFILE]
    rivals = [each for each in priced if is_rival(each.network)]
    twins = [each for each in priced if each.network == TWIN]
    return next(iter(rivals + twins), None)


def distance(detail: Details, rival: DenseRecord | DenseEnergy) -> str | None:
    """The gain over `rival` by the paper's rule, and the terms that bound it.

    None where the result holds no energies of the rule's profile, or nothing fires.
    """
    priced = detail.energy.get(PROFILE)
    if priced is None or not priced.energy_pj.op_only:
        return None
    spent = {term.name: term.energy_pj for term in priced.terms if term.energy_pj}
    if not spent:
        return None
    graded, largest = spent.get("macs", 0.0), max(spent, key=lambda name: spent[name])
    text = (
        f"The published gain of this method is {CLAIM:g} times, op-only with 4.6 pJ a MAC and "
        f"0.9 pJ an accumulate. By the same rule, against {rival.network}, this edge takes "
        f"{times_text(rival.op_only_pj / priced.energy_pj.op_only)}, and "
        f"{times_text(rival.full_pj / priced.energy_pj.full)} in full. Of the "
        f"arithmetic, {100 * graded / priced.energy_pj.op_only:.0f} % is pixels entering as graded "
        f"events in each step"
    )
    if graded:
        cap = rival.op_only_pj / graded
        caps = f"caps the gain at {cap:.3g} times" if cap > 1 else f"takes {times_text(cap)}"
        text += f", which alone {caps}"
    share = 100 * spent[largest] / priced.energy_pj.full
    text += (
        f"; the rest is spikes. In full, the largest term is {largest.replace('_', ' ')} "
        f"with {share:.0f} %."
    )
    if rival.network == TWIN:
        text += (
            " The network compared with is this edge half without spikes, encoder included; it is "
            "not BottleNet's own."
        )
    return text
