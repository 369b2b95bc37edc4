"""The page over several cuts: the decision first, then what it rests on."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from measure import link as links
from measure.interval import wilson_interval
from measure.link import Link
from measure.profile import Profile
from pipeline import cuts_page, decision_figures, plan, run_page, still_figures
from pipeline.baseline_rows import PRICED_BY
from pipeline.candidate import Limits
from pipeline.candidates import Inputs
from pipeline.page import Sheet
from pipeline.plan import told_absent
from pipeline.points import Point, Points
from pipeline.results import ProfileRecord
from pipeline.units import accuracy_text, energy_text


def several(
    page: Sheet,
    inputs: Inputs,
    decided: dict[str, Any],
    link: Link,
    profile: Profile,
    limits: Limits,
) -> None:
    """The decision, and a section for each run that it rests on."""
    decision(page, inputs, decided, link, profile, limits)
    profiles: dict[str, ProfileRecord] = {}
    for index, (_, record) in enumerate(inputs.results):
        assert record.details is not None
        profiles = {**record.details.energy, **profiles}
        page.heading(run_page.title(record))
        for sentence in run_page.sentences(record):
            page.paragraph(sentence)
        run_page.pictures(page, record, record.details, f"r{index}-", profile.name)
    run_page.assumptions(page, profiles, runs=len(inputs.results))


def decision(
    page: Sheet,
    inputs: Inputs,
    decided: dict[str, Any],
    link: Link,
    profile: Profile,
    limits: Limits,
) -> None:
    """The decision as `plan.decide` made it, each cut with its baselines, and the links."""
    rows = decided["candidates"]
    chosen = next((row for row in rows if row["name"] == decided["chosen"]), None)
    limit = "any loss" if limits.max_loss is None else f"at most {limits.max_loss:g} points lost"
    bundles, splits = len(inputs.results), len(inputs.splits)
    page.heading(
        f"Where to cut: {bundles} bundle{'s'[: bundles > 1]} at {splits} split "
        f"point{'s'[: splits > 1]}",
        1,
    )
    page.paragraph(
        f"{inputs.samples:,} test images of {inputs.data}, link {decided['link']}, profile "
        f"{profile.name}, {limit}. Accuracy, bits and bytes are measured; every energy is "
        "modelled. Accuracies stand with their 95 % interval (Wilson).",
        "lead",
    )
    if chosen is None:
        page.paragraph("No cut keeps within the limits; the table says which limit each breaks.")
    else:
        page.cards(
            [
                (chosen["name"], "chosen: the least device energy within the limits"),
                (_loss(chosen), f"accuracy lost against {decided['reference']['what']}"),
                (
                    f"{chosen['message_bytes']:,.0f} bytes",
                    "an image on the link, envelope included",
                ),
                (energy_text(1e6 * chosen["total_uj"]), "an image on the device, edge and radio"),
            ]
        )
    if decided["link_absent"]:
        page.paragraph(f"The {told_absent(decided['link'], decided['link_absent'])}.")
    if decided["beaten_by"]:
        page.paragraph(
            "Baselines that are as accurate as the chosen cut and take less energy, by the models, "
            "each on a digital processor instead of this profile's chip: "
            f"{', '.join(decided['beaten_by'])}."
        )
    page.table(
        "decision",
        [
            "no.",
            "candidate",
            "right, %",
            "lost",
            "payload bits",
            "bytes sent",
            "edge op-only",
            "edge full",
            "radio",
            "ms",
        ],
        [
            [
                number,
                row["name"] + (" ◆" if row["pareto"] else ""),
                accuracy_text(row["accuracy"], row["samples"]),
                _loss(row),
                f"{row['payload_bits']:,.0f}",
                f"{row['message_bytes']:,.0f}",
                energy_text(row["edge_pj"]["op_only"]) + ("*" if row["energy_absent"] else ""),
                energy_text(row["edge_pj"]["full"]) + ("*" if row["energy_absent"] else ""),
                energy_text(1e6 * row["radio_uj"]),
                f"{row['latency_ms']:.3g}" + ("*" if row["latency_absent"] else ""),
            ]
            for number, row in enumerate(rows, 1)
        ],
        numeric=8,
    )
    page.paragraph(
        f"Our edges, and both halves on the edge, are priced by {profile.name}, those of baselines "
        f"by {PRICED_BY[32]} or, in int8, {PRICED_BY[8]}: two kinds of hardware, each by its own "
        "model, so a small difference between them says nothing. What coding takes, of spikes or "
        "of a picture, is in nobody's energy. The time is the edge's steps, each as long as its "
        "busiest core needs by the profile, encoding and the cloud as measured on the host that "
        "ran them, and the link's own; * some part has no figure, so it is a lower bound. "
        "◆ on the Pareto front: nothing else is as good in loss, device energy and, where all of "
        "both times is known, time at once."
    )
    for name, field, axis in (
        (
            "accuracy-bits",
            lambda row: 8 * row["message_bytes"],
            "bits an image on the link (logarithmic)",
        ),
        (
            "accuracy-energy",
            lambda row: row["total_uj"],
            "µJ an image on the device, modelled (logarithmic)",
        ),
    ):
        _scatter(page, name, axis, rows, field)
    page.heading("Why, one by one", 3)
    page.table(
        "why",
        ["no.", "candidate", "why"],
        [
            [number, row["name"], "; ".join(part for part in (row["why"], row["note"]) if part)]
            for number, row in enumerate(rows, 1)
        ],
    )
    page.figure(
        "device-energy",
        decision_figures.device_energy(
            [row["name"] for row in rows],
            [row["edge_pj"]["full"] / 1e6 for row in rows],
            [row["radio_uj"] for row in rows],
        ),
        "Device energy an image: edge by the full accounting, radio while awake.",
    )
    cuts_page.at_each_cut(page, inputs)
    _links(page, inputs, decided, link, profile, limits)


def _scatter(
    page: Sheet,
    name: str,
    axis: str,
    rows: Sequence[dict[str, Any]],
    cost: Callable[[dict[str, Any]], float],
) -> None:
    """Accuracy against a cost, of the candidates where both are known and above zero."""
    shown = tuple(
        Point(
            number,
            row["name"],
            row["kind"].replace("_", " "),
            cost(row),
            row["accuracy"],
            wilson_interval(row["accuracy"], row["samples"]),
        )
        for number, row in enumerate(rows, 1)
        if row["accuracy"] is not None and cost(row) > 0
    )
    if shown:
        points = Points(axis, shown)
        page.figure(
            name,
            decision_figures.scatter(points),
            "Up and to the left is better. Numbers are those of the table, bars 95 % intervals.",
            partial(still_figures.scatter, points),
        )


def _loss(row: dict[str, Any]) -> str:
    return "unknown" if row["loss_points"] is None else f"{row['loss_points']:.2f} points"


def _links(
    page: Sheet,
    inputs: Inputs,
    decided: dict[str, Any],
    link: Link,
    profile: Profile,
    limits: Limits,
) -> None:
    page.heading("How the link decides")
    swept = decided["sweep"]
    own_rate = link.value("uplink_rate")
    page.figure(
        "link-sweep",
        decision_figures.sweep(
            swept["rate_mbit_s"],
            swept["total_uj"],
            [crossing["rate_mbit_s"] for crossing in swept["crossovers"]],
            own_rate or swept["rate_mbit_s"][0],
        ),
        "Device energy with the link's rate swept and its power model kept. "
        + (
            "The best changes at "
            + ", ".join(
                f"{c['rate_mbit_s']:.3g} Mbit/s (from {c['from'] or 'none'} to {c['to'] or 'none'})"
                for c in swept["crossovers"]
            )
            + "."
            if swept["crossovers"]
            else "The best candidate is the same at every rate."
        ),
    )
    rows = []
    for name in links.names():
        other = links.load(name)
        answer = plan.decide(inputs, other, profile, limits)
        row = next((r for r in answer["candidates"] if r["name"] == answer["chosen"]), None)
        bound = "*" if row and row["radio_uj"] and "power_base" in other.absent else ""
        rows.append(
            [
                other.title,
                answer["chosen"] or "none within the limits",
                "–" if row is None else energy_text(1e6 * row["radio_uj"]) + bound,
                "–"
                if row is None or row["radio_lone_uj"] is None
                else energy_text(1e6 * row["radio_lone_uj"]) + bound,
                "–" if row is None else energy_text(1e6 * row["total_uj"]) + bound,
            ]
        )
    page.table(
        "links",
        ["link", "chosen", "radio, awake", "radio, if it slept", "device, awake"],
        rows,
        numeric=3,
    )
    page.paragraph(
        "* nobody has published the base power of this link, so its energies are lower bounds, and "
        "so are those of what is chosen on it. "
        "A message that finds the radio asleep pays for waking it and for its tail; where a link "
        "has a figure for that, it is far more than any cut saves. It is shown apart because it is "
        "the traffic, not the cut, that decides whether it is paid."
    )
