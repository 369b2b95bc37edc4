"""Energy profiles: JSON files in which every figure has a value, a unit, a source and a status.

A profile is what an accounting (`measure.energy`) multiplies counts by. A figure that nobody has
published is simply not in the file, and its term is then reported as absent, never as zero; only
that of a synaptic operation has to be there. Where sources disagree a figure carries the range
`low` … `high`, which the sensitivity study walks.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from splitcore.errors import ProfileError

FOLDER = Path(__file__).parent / "profiles"
USUAL = ("loihi1", "cmos45_int8", "cmos45_fp32")  # what is priced where nobody chose
MAX_FILE_BYTES = 1 << 20
MAX_BUFFER_BYTES = 1 << 50

# unit: (dimension, how many of the canonical unit). Canonical: pJ, mW, us, and plain numbers.
UNITS: dict[str, tuple[str, float]] = {
    "fJ": ("energy", 1e-3),
    "pJ": ("energy", 1.0),
    "nJ": ("energy", 1e3),
    "uJ": ("energy", 1e6),
    "uW": ("power", 1e-3),
    "mW": ("power", 1.0),
    "W": ("power", 1e3),
    "ns": ("time", 1e-3),
    "us": ("time", 1.0),
    "ms": ("time", 1e3),
    "hops": ("hops", 1.0),
    "neurons": ("neurons", 1.0),
}

# every figure that a profile may hold, its dimension and what it prices
FIGURES: dict[str, tuple[str, str]] = {
    "synop_energy": ("energy", "one synaptic operation: a binary spike through one synapse"),
    "mac_energy": ("energy", "one multiply-accumulate: a graded event through one synapse"),
    "neuron_update_active_energy": ("energy", "one update of a neuron that received input"),
    "neuron_update_idle_energy": ("energy", "one update of a neuron that received nothing"),
    "message_energy": ("energy", "one spike message to one consumer, inside its tile"),
    "hop_energy": ("energy", "one spike message across one tile border"),
    "hops_per_message": ("hops", "tile borders that a message crosses"),
    "address_add_energy": ("energy", "one addition while computing an address"),
    "address_mac_energy": ("energy", "one multiply-add while computing an address"),
    "static_power": ("power", "power of a chip that is on, whatever it does"),
    "neurons_per_chip": ("neurons", "neurons that one chip holds"),
    "neurons_per_core": ("neurons", "neurons that one core of a chip holds"),
    "step_time": ("time", "wall-clock time of one time step in which no core has anything to do"),
    "synop_time": ("time", "what one synaptic operation or MAC keeps its core busy for"),
    "neuron_update_active_time": ("time", "what one active update keeps its core busy for"),
    "neuron_update_idle_time": ("time", "what one idle update keeps its core busy for"),
}

ESSENTIAL = "synop_energy"
BUSY = (  # what keeps a core busy: operations, updates of each kind
    "synop_time",
    "neuron_update_active_time",
    "neuron_update_idle_time",
)

TERMS = (
    "synops",
    "macs",
    "neuron_updates_active",
    "neuron_updates_idle",
    "memory_weights",
    "memory_states",
    "memory_events",
    "addressing",
    "routing",
    "relays",
    "static",
)

Text = Annotated[str, Field(min_length=1, max_length=2000)]
Amount = Annotated[float, Field(ge=0, le=1e15)]
Bits = Annotated[int, Field(ge=1, le=1024)]


class Strict(BaseModel):
    """Nothing unknown, nothing converted, no infinities, no changes."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class Figure(Strict):
    """One figure in its own unit; `low` and `high` where sources or circumstances differ."""

    value: Amount
    unit: Text
    status: Literal["published", "derived", "estimate"]
    source: Annotated[str, Field(min_length=8, max_length=2000)]
    low: Amount | None = None
    high: Amount | None = None
    note: str = ""

    @model_validator(mode="after")
    def _ordered(self) -> Figure:
        low = self.value if self.low is None else self.low
        high = self.value if self.high is None else self.high
        if not low <= self.value <= high:
            raise ValueError(f"expected low <= value <= high, got {low}, {self.value}, {high}")
        return self


class BufferPoint(Strict):
    """What one access to a buffer of this many bytes costs."""

    bytes: Annotated[int, Field(ge=1, le=MAX_BUFFER_BYTES)]
    energy: Figure


class Memory(Strict):
    """Buffers that cost by their size, and the width of what is kept in them.

    One access moves word_bits; narrower words cost their share. Between the points the cost is
    interpolated linearly, beyond the last it goes on at the last slope, below the first it is flat.
    No buffer costs less than a smaller one: a falling slope would end below nothing.
    """

    word_bits: Bits
    weight_bits: Bits
    state_bits: Bits
    bias_bits: Bits
    event_bits: Bits
    activation_bits: Bits
    points: Annotated[list[BufferPoint], Field(min_length=2, max_length=16)]
    assumption: Text


class Profile(Strict):
    """Everything an accounting needs of one kind of hardware."""

    format: Literal["spikebottlenet-profile-1"]
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    title: Text
    kind: Literal["neuromorphic", "digital"]
    about: Text
    figures: dict[str, Figure]
    memory: Memory | None = None
    included: dict[str, Text] = {}

    def value(self, figure: str) -> float | None:
        """A figure in its canonical unit (pJ, mW, us), or None where the profile has none."""
        if figure not in FIGURES:
            raise KeyError(figure)
        entry = self.figures.get(figure)
        return None if entry is None else entry.value * UNITS[entry.unit][1]

    def bounds(self, figure: str) -> tuple[float, float] | None:
        """(low, high) of a figure in its canonical unit, or None where it has no range."""
        entry = self.figures.get(figure)
        if entry is None or (entry.low is None and entry.high is None):
            return None
        scale = UNITS[entry.unit][1]
        low = entry.value if entry.low is None else entry.low
        high = entry.value if entry.high is None else entry.high
        return low * scale, high * scale

    def with_value(self, figure: str, canonical: float) -> Profile:
        """The same profile with one figure moved to another value (in its canonical unit)."""
        entry = self.figures[figure]
        moved = entry.model_copy(
            update={"value": canonical / UNITS[entry.unit][1], "low": None, "high": None}
        )
        return self.model_copy(update={"figures": {**self.figures, figure: moved}})

    def with_point(self, index: int, energy: float) -> Profile:
        """The same profile with one buffer's access at another cost, in its own unit."""
        assert self.memory is not None
        points = list(self.memory.points)
        moved = {"value": energy, "low": None, "high": None}
        figure = points[index].energy.model_copy(update=moved)
        points[index] = points[index].model_copy(update={"energy": figure})
        return self.model_copy(update={"memory": self.memory.model_copy(update={"points": points})})

    def with_memory_scaled(self, factor: float) -> Profile:
        """The same profile with every buffer access at `factor` times its cost. Needs `memory`."""
        assert self.memory is not None
        points = [
            point.model_copy(
                update={
                    "energy": point.energy.model_copy(
                        update={"value": factor * point.energy.value, "low": None, "high": None}
                    )
                }
            )
            for point in self.memory.points
        ]
        return self.model_copy(update={"memory": self.memory.model_copy(update={"points": points})})

    def word_pj(self, words: int, bits: int) -> float:
        """pJ of one access to a word of so many bits in a buffer of so many words."""
        assert self.memory is not None
        return self.access_energy_pj(words * bits / 8) * bits / self.memory.word_bits

    def access_energy_pj(self, footprint_bytes: float) -> float:
        """pJ of one access of word_bits to a buffer of this size. Needs `memory`."""
        assert self.memory is not None
        points = [
            (point.bytes, point.energy.value * UNITS[point.energy.unit][1])
            for point in self.memory.points
        ]
        if footprint_bytes <= points[0][0]:
            return points[0][1]
        for (left, low), (right, high) in pairwise(points):
            if footprint_bytes <= right or right == points[-1][0]:
                return low + (high - low) * (footprint_bytes - left) / (right - left)
        raise AssertionError("unreachable: the last segment takes all")


def names() -> tuple[str, ...]:
    """The profiles that come with the project."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load(name_or_path: str | Path) -> Profile:
    """A profile by its name, or a user's own by the path of its JSON file.

    Raises ProfileError naming the file and the field.
    """
    path = FOLDER / f"{name_or_path}.json"
    if str(name_or_path) not in names():
        path = Path(name_or_path)
        if not path.is_file():
            raise ProfileError(
                f"no energy profile {str(name_or_path)!r}: expected one of {', '.join(names())}, "
                "or the path of a profile file"
            )
    return parse(read_text(path), str(path))


def load_all(names_or_paths: Iterable[str | Path]) -> list[Profile]:
    """Several profiles, each once. Raises ProfileError where two files bear one name."""
    found: dict[str, str | Path] = {}
    loaded = []
    for each in dict.fromkeys(names_or_paths):
        one = load(each)
        if one.name in found:
            raise ProfileError(
                f"{each}: name: {one.name!r} is that of {found[one.name]}, too; give it its own"
            )
        found[one.name] = each
        loaded.append(one)
    return loaded


def read_text(path: Path) -> str:
    """A small text file, or ProfileError."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise ProfileError(f"{path}: larger than {MAX_FILE_BYTES} bytes, no profile")
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ProfileError(f"{path}: cannot be read ({error})") from None


def first_problem(error: ValidationError) -> str:
    """One line of a validation error: the field's path and what is wrong with it."""
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"]) or "file"
    return f"{where}: {first['msg']}"


def check_unit(where: str, figure: Figure, dimension: str, units: dict[str, Any]) -> None:
    """ProfileError unless the figure's unit measures this dimension."""
    if figure.unit not in units or units[figure.unit][0] != dimension:
        allowed = ", ".join(unit for unit, (kind, _) in units.items() if kind == dimension)
        raise ProfileError(f"{where}.unit: expected one of {allowed}, got {figure.unit!r}")


def parse(text: str, where: str) -> Profile:
    """A profile from JSON text; `where` names it in errors."""
    try:
        profile = Profile.model_validate_json(text)
    except ValidationError as error:
        raise ProfileError(f"{where}: {first_problem(error)}") from None
    for name, figure in profile.figures.items():
        if name not in FIGURES:
            raise ProfileError(
                f"{where}: figures.{name}: unknown figure, expected one of {', '.join(FIGURES)}"
            )
        check_unit(f"{where}: figures.{name}", figure, FIGURES[name][0], UNITS)
    for term in profile.included:
        if term not in TERMS:
            raise ProfileError(f"{where}: included.{term}: expected one of {', '.join(TERMS)}")
        if term == "synops":
            raise ProfileError(f"{where}: included.synops: it is what all else is held against")
    if profile.memory is not None:
        sizes = [point.bytes for point in profile.memory.points]
        if sizes != sorted(set(sizes)):
            raise ProfileError(f"{where}: memory.points: expected sizes in rising order")
        for index, point in enumerate(profile.memory.points):
            check_unit(f"{where}: memory.points.{index}.energy", point.energy, "energy", UNITS)
        costs = [
            point.energy.value * UNITS[point.energy.unit][1] for point in profile.memory.points
        ]
        for index, (smaller, larger) in enumerate(pairwise(costs), 1):
            if larger < smaller:
                raise ProfileError(
                    f"{where}: memory.points.{index}.energy: expected at least the {smaller:g} pJ "
                    f"of the smaller buffer, got {larger:g} pJ"
                )
    for name in ("neurons_per_chip", "neurons_per_core"):
        held = profile.figures.get(name)
        if held is not None and min(held.value, held.value if held.low is None else held.low) < 1:
            raise ProfileError(f"{where}: figures.{name}: expected at least 1")
    if any(name in profile.figures for name in BUSY):
        for name in ("step_time", "neurons_per_chip", "neurons_per_core"):
            if name not in profile.figures:
                raise ProfileError(
                    f"{where}: figures.{name}: missing; the time of an operation or update needs "
                    "it: a step waits for its busiest core"
                )
    if profile.value("static_power") and not profile.value("step_time"):
        raise ProfileError(f"{where}: figures.step_time: static_power needs a positive step_time")
    if ESSENTIAL not in profile.figures:
        raise ProfileError(f"{where}: figures.{ESSENTIAL}: missing; there is no accounting without")
    return profile
