"""The terms of the full accounting, each priced or said to be absent or included.

The equations and their source are in `measure.energy`, which is where callers begin.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from measure.counts import Counts
from measure.profile import Profile
from measure.step_time import Placement, Work, chips, step_us
from splitcore.errors import GraphError
from splitcore.graph import Conv, ConvTranspose, Dense, Graph, Identity, Lif, Synapse

US_MW_TO_PJ = 1e3  # 1 µs · 1 mW = 1 nJ
OP_ONLY = ("synops", "macs")
MESSAGE = ("message_energy", "hop_energy", "hops_per_message")
MEANS = (
    "spikes",
    "synops",
    "macs",
    "updates",
    "relays",
    "relay_idle",
    "operations",
    "active",
)
RELAY = (
    "synop_energy",
    "neuron_update_active_energy",
    "neuron_update_idle_energy",
    *MESSAGE,
)

Status = Literal["counted", "absent", "included"]
Active = Literal["fired", "most", "all"]  # which updates count as active: see `energy`


@dataclass(frozen=True, eq=False)
class Term:
    """One line of the accounting: pJ (N, L) when counted, else why it is not."""

    name: str
    status: Status
    assumption: str
    energy_pj: np.ndarray | None = None

    @property
    def op_only(self) -> bool:
        """Whether the term belongs to both accountings, or to the full one alone."""
        return self.name in OP_ONLY


class Terms:
    """The counts of one run as float arrays (N, L), and the terms that price them."""

    def __init__(
        self,
        graph: Graph,
        counts: Counts,
        profile: Profile,
        steps: int,
        input_events: np.ndarray | None,
        active: Active,
        activity: float,
        mean_only: bool,
        placement: Placement,
        alone: bool,
    ) -> None:
        self.graph, self.profile = graph, profile
        self.steps = steps + (graph.depth[graph.output_name] if alone else 0)
        self.spikes = counts.spikes * activity
        self.synops = counts.synops * activity
        self.macs = counts.macs.astype(np.float64)
        self.updates = counts.neuron_updates * (self.steps / steps)
        self.relays = counts.relay_events * activity
        self.operations = self.synops + self.macs
        reached = {"fired": self.spikes, "most": self.operations, "all": self.updates}
        self.active = np.minimum(self.updates, reached[active])
        self.active_text = {
            "fired": "only updates in which a neuron fired are active",
            "most": "a neuron is active in at most as many steps as operations reached its layer "
            "(the most that the counts allow)",
            "all": "every update is active",
        }[active]
        self.neurons = np.array([math.prod(graph.shapes[layer.name]) for layer in graph.layers])
        self.relay_neurons = np.array(
            [
                sum(
                    graph.relays(layer, current) * math.prod(graph.shapes[current.source])
                    for current in layer.currents
                )
                for layer in graph.layers
            ]
        )
        self.input_known = input_events is not None
        dense_events = np.full(len(self.spikes), math.prod(graph.input.shape) * steps)
        self.input_events = (dense_events if input_events is None else np.asarray(input_events)) * (
            1.0 if graph.input.message_bits else activity
        )  # binary events are spikes
        self.places = self.neurons + self.relay_neurons
        relay_updates = (self.relay_neurons * self.steps).astype(np.float64)
        self.relay_idle = relay_updates[None, :] - self.relays
        work = Work(
            self.operations + self.relays,
            self.active + self.relays,
            self.updates - self.active + self.relay_idle,
            self.places,
        )
        self.step_us = step_us(profile, work, self.steps, placement)
        if mean_only:  # every term is linear in these
            for name in MEANS:
                setattr(self, name, getattr(self, name).mean(axis=0, keepdims=True))
            self.input_events = self.input_events.mean(keepdims=True)
            if self.step_us is not None:
                self.step_us = self.step_us.mean(keepdims=True)

    def all(self) -> tuple[Term, ...]:
        """Every term, in the order of the assumptions table."""
        input_text = (
            "input events as counted"
            if self.input_known
            else "every input value taken as an event in each step"
        )
        return (
            self._priced(
                "synops",
                "each spike through each synapse it really has, borders counted out",
                (self.synops, "synop_energy"),
            ),
            self._priced(
                "macs",
                "each nonzero graded input through each synapse it really has, in each step",
                (self.macs, "mac_energy"),
            ),
            self._priced(
                "neuron_updates_active",
                self.active_text,
                (self.active, "neuron_update_active_energy"),
            ),
            self._priced(
                "neuron_updates_idle",
                "every neuron is updated in each step; those not active are idle; samples follow "
                "one another without a gap",
                (self.updates - self.active, "neuron_update_idle_energy"),
            ),
            self._memory("memory_weights", "one weight read an operation, one bias read an update"),
            self._memory("memory_states", "state read and written by each operation and update"),
            self._memory(
                "memory_events", f"each event written once and read by each consumer; {input_text}"
            ),
            self._priced(
                "addressing",
                "one addition an operation, two multiply-adds an event before a convolution; "
                + input_text,
                (self.operations, "address_add_energy"),
                (2 * self._events_before_convolutions(), "address_mac_energy"),
            ),
            self._routing(input_text),
            self._relays(),
            self._static(),
        )

    def _missing(self, name: str, *figures: str) -> Term | None:
        """The term when it cannot be counted: part of another, or without a figure it needs.

        Nobody needs the figure of what never happened.
        """
        if name in self.profile.included:
            return Term(name, "included", self.profile.included[name])
        missing = [figure for figure in figures if self.profile.value(figure) is None]
        if missing:
            return Term(name, "absent", f"no figure: {', '.join(missing)}")
        return None

    def _figure(self, name: str) -> float:
        value = self.profile.value(name)
        assert value is not None, name
        return value

    def _priced(self, name: str, assumption: str, *parts: tuple[np.ndarray, str]) -> Term:
        needed = [(count, figure) for count, figure in parts if np.any(count)]
        missing = self._missing(name, *(figure for _, figure in needed))
        if missing:
            return missing
        total = np.zeros(self.spikes.shape)
        for count, figure in needed:
            total = total + count * self._figure(figure)
        return Term(name, "counted", assumption, total)

    def _events_in(self, layer: Lif) -> Sequence[tuple[str, Synapse, np.ndarray]]:
        """(source, synapse, events (N,)) of each current of a layer."""
        return [
            (current.source, current.synapse, self._events_of(current.source))
            for current in layer.currents
        ]

    def _events_of(self, source: str) -> np.ndarray:
        if source == self.graph.input.name:
            return self.input_events
        return self.spikes[:, [layer.name for layer in self.graph.layers].index(source)]

    def _events_before_convolutions(self) -> np.ndarray:
        total = np.zeros(self.spikes.shape)
        for index, layer in enumerate(self.graph.layers):
            for _, synapse, events in self._events_in(layer):
                if isinstance(synapse, Conv | ConvTranspose):
                    total[:, index] += events
        return total

    def _memory(self, name: str, assumption: str) -> Term:
        memory = self.profile.memory
        if name in self.profile.included or memory is None:
            return self._missing(name) or Term(name, "absent", "no figure: memory")
        energy_pj = np.zeros_like(self.spikes)
        for index, layer in enumerate(self.graph.layers):
            operations, updates = self.operations[:, index], self.updates[:, index]
            match name:
                case "memory_weights":
                    weights = sum(weight_count(current.synapse) for current in layer.currents)
                    column = operations * self.profile.word_pj(
                        weights, memory.weight_bits
                    ) + updates * self.profile.word_pj(layer.bias.size, memory.bias_bits)
                case "memory_states":
                    word = self.profile.word_pj(int(self.neurons[index]), memory.state_bits)
                    column = 2 * (operations + updates) * word
                case "memory_events":
                    column = self.spikes[:, index] * self.profile.word_pj(
                        int(self.neurons[index]), memory.event_bits
                    )
                    for source, _, events in self._events_in(layer):
                        graded = source == self.graph.input.name and self.graph.input.message_bits
                        bits = memory.activation_bits if graded else memory.event_bits
                        size = math.prod(self.graph.shapes[source])
                        column = column + events * self.profile.word_pj(size, bits)
                case _:
                    raise AssertionError(name)
            energy_pj[:, index] = column
        return Term(name, "counted", f"{assumption}; {memory.assumption}", energy_pj)

    def _message_pj(self) -> float:
        return self._figure("message_energy") + self._figure("hops_per_message") * self._figure(
            "hop_energy"
        )

    def _routing(self, input_text: str) -> Term:
        messages = np.zeros_like(self.spikes)
        for index, layer in enumerate(self.graph.layers):
            consumers = sum(current.source == layer.name for _, current in self.graph.currents())
            consumers += layer.name == self.graph.output_name  # the link
            messages[:, index] = consumers * self.spikes[:, index] + self.input_events * sum(
                current.source == self.graph.input.name for current in layer.currents
            )
        sent = bool(messages.any())
        missing = self._missing("routing", *(MESSAGE if sent else ()))
        if missing:
            return missing
        borders = f"{self._figure('hops_per_message'):g} tile borders each" if sent else "none here"
        return Term(
            "routing",
            "counted",
            f"one message an event and consuming layer (the link consumes the output), {borders}; "
            f"{input_text}",
            messages * (self._message_pj() if sent else 0.0),
        )

    def _relays(self) -> Term:
        some = bool(self.relay_neurons.any())
        missing = self._missing("relays", *(RELAY if some else ()))
        if missing:
            return missing
        if not some:
            return Term("relays", "counted", "no shortcut waits here", np.zeros_like(self.spikes))
        event_pj = (
            self._figure("synop_energy")
            + self._figure("neuron_update_active_energy")
            + self._message_pj()
        )
        idle_pj = self._figure("neuron_update_idle_energy")
        return Term(
            "relays",
            "counted",
            "a relay is a neuron: one synaptic op, one active update and one message an event it "
            "passes on, an idle update in every other step",
            self.relays * event_pj + self.relay_idle * idle_pj,
        )

    def _static(self) -> Term:
        figures = ("static_power", "step_time", "neurons_per_chip")
        missing = self._missing("static", *figures)
        if missing:
            return missing
        count = chips(self.profile, self.places)
        assert count is not None
        assert self.step_us is not None
        total_pj = count * self._figure("static_power") * self.steps * self.step_us * US_MW_TO_PJ
        share = self.places / self.places.sum()
        return Term(
            "static",
            "counted",
            f"{count} whole chip(s) by neuron count, relays among them, on for {self.steps} steps "
            f"of {float(self.step_us.mean()):.4g} us on average, each as long as its busiest core "
            "needs; nothing between samples; shared out by neurons",
            total_pj[:, None] * share,
        )


def weight_count(synapse: Synapse) -> int:
    """Weights that the synapse stores."""
    match synapse:
        case Identity():
            return 1
        case Dense(weight_oi=weight):
            return int(weight.size)
        case Conv(weight_oihw=weight):
            return int(weight.size)
        case ConvTranspose(weight_iohw=weight):
            return int(weight.size)
        case _:
            raise GraphError(f"energy: no such synapse {type(synapse).__name__}")
