"""BottleNet's tables 4 and 5 against its own link model (arXiv 1902.01000).

A row's computing is the same whatever the radio, so what is left of its figures once sending is
taken off must be one number for all three links, but for the rounding of the table.
"""

import pytest

from measure import link
from tests.conftest import ROOT

LINKS = ("3g", "4g", "wifi")
ROUNDING = 0.1  # each published figure is good to 0.05 either way

# Bytes sent, latency (ms) and energy (mJ) on each link after residual block 1 ... 16 of ResNet-50.
BLOCKS = (
    (316, (3.1, 1.8, 1.6), (6.6, 4.1, 3.5)),
    (317, (4.1, 2.5, 2.4), (7.6, 6.8, 5.6)),
    (314, (4.9, 3.3, 3.0), (8.1, 7.0, 6.1)),
    (166, (5.2, 4.2, 4.1), (9.7, 8.9, 7.4)),
    (171, (6.3, 5.0, 4.9), (10.8, 10.6, 9.5)),
    (168, (7.5, 5.9, 5.8), (11.9, 11.3, 10.8)),
    (170, (8.2, 6.9, 6.8), (12.6, 12.9, 12.3)),
    (96, (9.6, 8.6, 8.5), (13.9, 13.1, 12.5)),
    (90, (10.7, 9.4, 9.3), (14.1, 14.0, 13.8)),
    (98, (11.6, 10.3, 10.1), (15.8, 15.6, 14.9)),
    (101, (12.8, 11.9, 11.8), (16.1, 16.0, 15.6)),
    (101, (13.4, 12.7, 12.6), (17.6, 17.1, 16.9)),
    (95, (14.8, 14.1, 14.0), (18.5, 18.3, 18.1)),
    (52, (15.1, 15.0, 14.9), (19.8, 19.1, 19.0)),
    (52, (16.0, 15.7, 15.7), (20.7, 20.3, 20.1)),
    (53, (17.1, 16.9, 16.9), (21.9, 21.2, 21.0)),
)
# All in the cloud: the image as JPEG.
CLOUD = (26_766, (196.2, 37.9, 13.1), (310.1, 168.3, 110.7))


def rows() -> list[tuple[str, int, list[float], list[float]]]:
    """Name, bytes, time left (ms) and energy left (mJ) on each link."""
    named = [(f"block {number}", row) for number, row in enumerate(BLOCKS, 1)]
    found = []
    for name, (sent, times_ms, energies_mj) in [*named, ("all in the cloud", CLOUD)]:
        transfers = [link.load(one).send(sent) for one in LINKS]
        radio_ms = [transfer.time_ms for transfer in transfers]
        radio_mj = [transfer.energy_uj / 1e3 for transfer in transfers]
        times = [all_ms - sending for all_ms, sending in zip(times_ms, radio_ms, strict=True)]
        energies = [all_mj - sending for all_mj, sending in zip(energies_mj, radio_mj, strict=True)]
        found.append((name, sent, times, energies))
    return found


def spread(values: list[float]) -> float:
    return max(values) - min(values)


def joined(values: list[float]) -> str:
    return " / ".join(f"{value:.2f}".replace("-", "\N{MINUS SIGN}") for value in values)


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_page_says_what_is_left_of_each_row(row):
    name, sent, times, energies = row
    line = (
        f"| {name} | {sent:,} | {joined(times)} | {spread(times):.2f} "
        f"| {joined(energies)} | {spread(energies):.2f} |"
    )
    assert line in (ROOT / "docs" / "energy.md").read_text()


def test_page_counts_the_rows_that_do_not_follow():
    times = sum(spread(times) > ROUNDING for _, _, times, _ in rows()[:-1])
    energies = sum(spread(energies) > ROUNDING for _, _, _, energies in rows()[:-1])
    text = " ".join((ROOT / "docs" / "energy.md").read_text().split())
    assert f"in time {times} of 16 rows and in energy {energies} of 16" in text


def test_cloud_only_on_3g_is_said_to_cost_less_than_its_own_radio():
    radio_mj = link.load("3g").send(CLOUD[0]).energy_uj / 1e3
    assert f"{radio_mj:.1f}" == "345.3"  # 214,128 bits x 1612.5073 nJ
    assert radio_mj > 1.1 * CLOUD[2][0]
