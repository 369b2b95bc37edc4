"""Radio links: what it takes to send so many bytes, from JSON files with sourced figures.

    power = power_slope · rate + power_base      while it sends (Huang 2012)
    energy = power · bits / rate = (power_slope + power_base / rate) · bits

A message that finds the radio asleep pays `lone_message_energy` as well: waking it, and the tail
that it stays awake afterwards. Whether it does is the traffic's doing, so both are always told.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import ValidationError

from measure.profile import Figure, Strict, Text, check_unit, first_problem, read_text
from splitcore.errors import ProfileError

FOLDER = Path(__file__).parent / "links"

UNITS: dict[str, tuple[str, float]] = {
    "bit/s": ("rate", 1e-6),
    "kbit/s": ("rate", 1e-3),
    "Mbit/s": ("rate", 1.0),
    "Gbit/s": ("rate", 1e3),
    "mW/(Mbit/s)": ("slope", 1.0),
    "nJ/bit": ("slope", 1.0),
    "uW": ("power", 1e-3),
    "mW": ("power", 1.0),
    "W": ("power", 1e3),
    "uJ": ("energy", 1.0),
    "mJ": ("energy", 1e3),
    "J": ("energy", 1e6),
    "us": ("time", 1e-3),
    "ms": ("time", 1.0),
    "s": ("time", 1e3),
}

# every figure of a link, its dimension and what it is; canonical: Mbit/s, mW, uJ, ms
FIGURES: dict[str, tuple[str, str]] = {
    "uplink_rate": ("rate", "bits a second, as the application sees them"),
    "power_slope": ("slope", "more power for each Mbit/s"),
    "power_base": ("power", "power while sending at no rate at all"),
    "lone_message_energy": ("energy", "what one message costs that finds the radio asleep"),
    "round_trip_time": ("time", "there and back of an empty message"),
}
REQUIRED = ("uplink_rate", "power_slope")
MIN_RATE_MBIT_S = 1e-6  # one bit a second: below it is no link, and its energies leave the floats


@dataclass(frozen=True)
class Transfer:
    """Sending one message. energy_uj on an awake radio, lone_energy_uj on one that slept."""

    time_ms: float
    energy_uj: float
    lone_energy_uj: float | None


class Link(Strict):
    """One kind of uplink; figures as in `measure.profile`."""

    format: Literal["spikebottlenet-link-1"]
    name: Text
    title: Text
    about: Text
    figures: dict[str, Figure]

    def value(self, figure: str) -> float | None:
        """A figure in its canonical unit, or None where the link has none."""
        entry = self.figures.get(figure)
        return None if entry is None else entry.value * UNITS[entry.unit][1]

    @property
    def absent(self) -> tuple[str, ...]:
        """What nobody has given a figure for: times or energies of messages are lower bounds."""
        return tuple(name for name in ("power_base", "round_trip_time") if self.value(name) is None)

    def send(self, message_bytes: float, rate_mbit_s: float | None = None) -> Transfer:
        """Time and energy of one message; at another rate than the link's own where given."""
        rate = self.value("uplink_rate") if rate_mbit_s is None else rate_mbit_s
        slope, base = self.value("power_slope"), self.value("power_base")
        assert rate
        assert slope is not None
        bits = 8 * message_bytes
        time_ms = bits / rate / 1e3  # bits / (Mbit/s) are microseconds
        energy_uj = (slope * rate + (base or 0.0)) * time_ms  # mW · ms
        lone = self.value("lone_message_energy")
        half_trip = (self.value("round_trip_time") or 0.0) / 2
        return Transfer(
            time_ms=time_ms + half_trip,
            energy_uj=energy_uj,
            lone_energy_uj=None if lone is None else lone + energy_uj,
        )


def names() -> tuple[str, ...]:
    """The links that come with the project."""
    return tuple(sorted(path.stem for path in FOLDER.glob("*.json")))


def load(name_or_path: str | Path) -> Link:
    """A link by its name, or a user's own by the path of its JSON file. Raises ProfileError."""
    path = FOLDER / f"{name_or_path}.json"
    if str(name_or_path) not in names():
        path = Path(name_or_path)
        if not path.is_file():
            raise ProfileError(
                f"no link {str(name_or_path)!r}: expected one of {', '.join(names())}, "
                "or the path of a link file"
            )
    return parse(read_text(path), str(path))


def parse(text: str, where: str) -> Link:
    """A link from JSON text; `where` names it in errors."""
    try:
        link = Link.model_validate_json(text)
    except ValidationError as error:
        raise ProfileError(f"{where}: {first_problem(error)}") from None
    for name, figure in link.figures.items():
        if name not in FIGURES:
            raise ProfileError(
                f"{where}: figures.{name}: unknown figure, expected one of {', '.join(FIGURES)}"
            )
        check_unit(f"{where}: figures.{name}", figure, FIGURES[name][0], UNITS)
    for name in REQUIRED:
        if link.value(name) is None:
            raise ProfileError(f"{where}: figures.{name}: missing")
    if (link.value("uplink_rate") or 0.0) < MIN_RATE_MBIT_S:
        raise ProfileError(f"{where}: figures.uplink_rate.value: expected at least 1 bit/s")
    return link
