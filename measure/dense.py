"""The same edge network as an ordinary one: MACs, the same memory model, and the break-even rate.

Each connection is one MAC, once; there are no time steps. Memory and addresses after Lemaire et
al. 2022 (arXiv 2210.13107, equations 3, 4, 6, 11 and 12): a MAC reads its weight and its input, an
output reads its bias and is written once; addresses are counted up, not computed from events. No
data is reused between MACs, exactly as none is reused between spikes in `measure.energy`: a real
accelerator reuses both, so compare the two sides, not either with a chip.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache, partial

import numpy as np

from measure.counts import Counts
from measure.energy import EnergyResult, connections, energy, rate_times_steps
from measure.profile import Profile
from measure.terms import weight_count
from splitcore.errors import ProfileError
from splitcore.graph import Conv, ConvTranspose, Dense, Graph, Synapse

TWIN = "the same without spikes"
ROUNDS, PRECISION = 60, 1e-12
DEARER_SILENT = "even silent it costs more"
NO_RATE = "no spike passes a synapse, so there is no rate"


@dataclass(frozen=True)
class DenseEnergy:
    """pJ an image of an ordinary network, and its MACs."""

    network: str
    profile: str
    macs: int
    op_only_pj: float
    full_pj: float


@dataclass(frozen=True)
class DenseLayer:
    """What one layer of an ordinary network does for one image, and the sizes of its buffers.

    macs, outputs and addresses are operations; weights, inputs, outputs and biases are the words
    that its buffers hold. The inputs of all its connections lie in one buffer.
    """

    name: str
    macs: int
    weights: int
    inputs: int
    outputs: int
    biases: int
    addresses: int


@dataclass(frozen=True)
class BreakEven:
    """Where the spiking network costs as much as an ordinary one.

    rate_times_steps is the T × rate at which both are equal: T where spikes are cheaper at every
    rate, None where even a silent network costs more and where there is no rate to scale. ratio is
    dense over spiking energy as it is now: above 1 the spiking network wins. Both are None where
    the profile has no figure for something that the spiking network does: its sum is too small to
    be held against another. why: in a few words why one of them is None, else empty.
    """

    accounting: str
    dense_network: str
    dense_profile: str
    ratio: float | None
    rate_times_steps: float | None
    why: str = ""


def dense_energy(graph: Graph, profile: Profile) -> DenseEnergy:
    """Cost of the graph's dense twin on a digital profile. Raises ProfileError without MACs."""
    return layers_energy(TWIN, dense_layers(graph), profile)


def layers_energy(network: str, layers: Sequence[DenseLayer], profile: Profile) -> DenseEnergy:
    """Cost of any ordinary network, layer by layer. Raises ProfileError without MACs."""
    mac_pj = profile.value("mac_energy")
    if mac_pj is None:
        raise ProfileError(f"profile {profile.name}: figures.mac_energy: missing")
    add_pj = profile.value("address_add_energy") or 0.0
    macs = sum(layer.macs for layer in layers)
    extra = 0.0
    for layer in layers:
        extra += add_pj * layer.addresses
        if profile.memory is not None:
            memory = profile.memory
            extra += layer.macs * profile.word_pj(layer.weights, memory.weight_bits)
            extra += layer.macs * profile.word_pj(layer.inputs, memory.activation_bits)
            extra += layer.outputs * profile.word_pj(layer.biases, memory.bias_bits)
            extra += layer.outputs * profile.word_pj(layer.outputs, memory.activation_bits)
    op_only = macs * mac_pj
    return DenseEnergy(network, profile.name, macs, op_only, op_only + extra)


def dense_layers(graph: Graph) -> list[DenseLayer]:
    """The layers of the graph's dense twin."""
    found = []
    for layer in graph.layers:
        outputs = math.prod(graph.shapes[layer.name])
        sources = [(current, graph.shapes[current.source]) for current in layer.currents]
        found.append(
            DenseLayer(
                name=layer.name,
                macs=sum(connections(current.synapse, shape) for current, shape in sources),
                weights=sum(weight_count(current.synapse) for current in layer.currents),
                inputs=sum(math.prod(shape) for _, shape in sources),
                outputs=outputs,
                biases=int(layer.bias.size),
                addresses=sum(
                    _address_additions(current.synapse, math.prod(shape), outputs)
                    for current, shape in sources
                ),
            )
        )
    return found


def _address_additions(synapse: Synapse, inputs: int, outputs: int) -> int:
    """Lemaire: inputs + outputs + kernel places of a convolution; a counter a weight if dense."""
    match synapse:
        case Dense(weight_oi=weight):
            return int(weight.size)
        case Conv(weight_oihw=weight):
            return inputs + outputs + int(weight.shape[0] * weight.shape[2] * weight.shape[3])
        case ConvTranspose(weight_iohw=weight):
            return inputs + outputs + int(weight.shape[1] * weight.shape[2] * weight.shape[3])
        case _:
            return inputs + outputs


def break_even(
    graph: Graph,
    counts: Counts,
    spiking: Profile,
    dense: DenseEnergy,
    steps: int,
    input_events: np.ndarray | None = None,
) -> tuple[BreakEven, BreakEven]:
    """For both accountings, the T × rate below which spikes cost less than an ordinary network.

    Spikes of all layers are scaled together; what does not follow from spikes (graded MACs, idle
    updates, static power) stays. A profile without static power is compared all the same: an
    ordinary network is charged none either.
    """
    now = rate_times_steps(graph, counts)

    @cache
    def spends(activity: float) -> EnergyResult:
        return energy(
            graph, counts, spiking, steps, input_events, activity=activity, mean_only=True
        )

    def excess_pj(accounting: str, dense_pj: float, activity: float) -> float:
        return spends(activity).mean_pj()[accounting] - dense_pj

    found = []
    for accounting, dense_pj in (("op_only", dense.op_only_pj), ("full", dense.full_pj)):
        excess = partial(excess_pj, accounting, dense_pj)
        spent = spends(1.0).mean_pj()[accounting]
        ratio = dense_pj / spent if spent else None
        rate: float | None = None
        why = "" if spent else "it costs nothing"
        if unpriced := _unpriced(spends(1.0), accounting):
            ratio, why = None, f"no figure for {', '.join(unpriced)}"
        elif excess(0.0) >= 0:
            why = DEARER_SILENT
        elif now == 0:
            why = NO_RATE
        else:
            every_step = steps / now  # times as active: every neuron fires in every step
            cheaper = excess(every_step) < 0
            rate = float(steps) if cheaper else now * _root(excess, every_step)
        found.append(BreakEven(accounting, dense.network, dense.profile, ratio, rate, why))
    return found[0], found[1]


def _unpriced(result: EnergyResult, accounting: str) -> list[str]:
    """What the network does and the accounting should hold, but has no figure for."""
    return [
        term.name.replace("_", " ")
        for term in result.terms
        if term.status == "absent"
        and (term.op_only or (accounting == "full" and term.name != "static"))
    ]


def _root(excess: Callable[[float], float], high: float) -> float:
    """Where a rising, piecewise linear function passes zero between 0 and `high` (Illinois)."""
    low, at_low, at_high = 0.0, excess(0.0), excess(high)
    close_enough = PRECISION * (at_high - at_low)
    middle, moved_low = low, None
    for _ in range(ROUNDS):
        middle = low - at_low * (high - low) / (at_high - at_low)
        value = excess(middle)
        if abs(value) <= close_enough:
            break
        if value < 0:
            low, at_low = middle, value
            at_high = at_high / 2 if moved_low is True else at_high
        else:
            high, at_high = middle, value
            at_low = at_low / 2 if moved_low is False else at_low
        moved_low = value < 0
    return middle
