"""How long a time step takes: the chip waits for its busiest core, then synchronises.

    step = step_time + max over cores of (synops + MACs) · synop_time
               + active updates · neuron_update_active_time + idle ones · neuron_update_idle_time

It is the compute side of a max-affine model as Timcheck et al. (arXiv 2601.10035) fit one to
Loihi 2; messages on their way, and steps that are busier than the mean of a sample's, are left out,
so it is a lower bound. A profile without `synop_time` has steps of one length.

Which core holds what is nobody's measurement: "best" spreads the mean sample's work over all cores
of the chips as evenly as their room for neurons allows, "packed" gives each layer as few cores as
its neurons need.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from measure.profile import BUSY, Profile

Placement = Literal["best", "packed"]
EXACT = 1e-9  # below it two shares are one


@dataclass(frozen=True, eq=False)
class Work:
    """What N samples make L layers do in all their steps; places (L,): neurons, relays included."""

    operations: np.ndarray
    active_updates: np.ndarray
    idle_updates: np.ndarray
    places: np.ndarray


def chips(profile: Profile, places: np.ndarray) -> int | None:
    """Whole chips that hold so many neurons, or None where no figure says."""
    held = profile.value("neurons_per_chip")
    return None if held is None else math.ceil(places.sum() / held)


def step_us(
    profile: Profile, work: Work, steps: int, placement: Placement = "best"
) -> np.ndarray | None:
    """Mean time of a step of each sample (N,), or None where the profile has no step_time."""
    fixed = profile.value("step_time")
    if fixed is None:
        return None
    times = [profile.value(name) or 0.0 for name in BUSY]
    counts = (work.operations, work.active_updates, work.idle_updates)
    busy = np.tensordot(times, np.stack(counts), axes=1) / steps
    if not np.any(busy):
        return np.full(len(work.operations), fixed)
    per_core, per_chip = profile.value("neurons_per_core"), profile.value("neurons_per_chip")
    count = chips(profile, work.places)
    assert per_core is not None  # the profile's checks say so
    assert per_chip is not None
    assert count is not None
    least = work.places / per_core
    if placement == "best":
        cores = _spread(busy.mean(axis=0), least, work.places, count * per_chip / per_core)
    else:
        cores = np.ceil(least)
    return fixed + (busy / cores).max(axis=1)


def _spread(work: np.ndarray, least: np.ndarray, most: np.ndarray, cores: float) -> np.ndarray:
    """Cores of each layer (L,), in fractions, for which the busiest has least to do.

    least: what a layer's neurons need; most: with one neuron each.
    """
    held = np.zeros(len(work), bool)  # layers whose neurons need more than their share by work
    while True:
        time = work[~held].sum() / (cores - least[held].sum())
        short = ~held & (work < time * least * (1 - EXACT))
        if not short.any():
            break
        held |= short
    return np.maximum(least, work / max(time, (work / most).max()))
