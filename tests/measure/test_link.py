import json

import pytest

from measure import link
from splitcore.errors import ProfileError


def own(tmp_path, **changes):
    content = json.loads((link.FOLDER / "wifi.json").read_text())
    content.update(changes)
    path = tmp_path / "mine.json"
    path.write_text(json.dumps(content))
    return path


@pytest.mark.parametrize("name", link.names())
def test_link_that_ships_loads_and_sends(name):
    loaded = link.load(name)
    assert loaded.name == name
    assert loaded.send(512).energy_uj > 0


# nJ a bit = slope + base / rate:
#   3G    868.98 + 817.88 / 1.1    = 868.98 + 743.5273 = 1612.5073
#   4G    438.39 + 1288.04 / 5.85  = 438.39 + 220.1778 = 658.5678
#   Wi-Fi 283.17 + 132.86 / 18.88  = 283.17 +   7.0371 = 290.2071
@pytest.mark.parametrize(
    ("name", "nanojoule_a_bit"), [("3g", 1612.5073), ("4g", 658.5678), ("wifi", 290.2071)]
)
def test_send_on_bottlenets_links_costs_what_their_power_model_says(name, nanojoule_a_bit):
    energy_uj = link.load(name).send(1e6 / 8).energy_uj  # a million bits: uJ are nJ a bit / 1000
    assert f"{energy_uj / 1e3:.4f}" == f"{nanojoule_a_bit:.4f}"


def test_send_takes_bits_over_rate():
    # 4,096 bits at 5.85 Mbit/s are 700.17 us
    assert f"{link.load('4g').send(512).time_ms:.5f}" == "0.70017"


def test_send_alone_on_lte_costs_thousands_of_times_the_bits():
    transfer = link.load("4g").send(512)
    assert transfer.lone_energy_uj > 4000 * transfer.energy_uj


def test_send_without_base_power_says_so():
    assert link.load("5g_mmwave").absent == ("power_base", "round_trip_time")
    assert link.load("4g").absent == ("round_trip_time",)


def test_send_at_another_rate_keeps_the_power_model():
    # at 1 Mbit/s Wi-Fi takes 283.17 + 132.86 = 416.03 nJ a bit
    assert f"{link.load('wifi').send(1e6 / 8, 1.0).energy_uj / 1e3:.2f}" == "416.03"


def test_load_unknown_link_lists_the_known():
    with pytest.raises(ProfileError, match="wifi"):
        link.load("6g")


@pytest.mark.parametrize(
    ("figure", "change", "field"),
    [
        ("uplink_rate", {"value": 0}, "figures.uplink_rate.value"),
        ("uplink_rate", {"value": 1e-310}, "figures.uplink_rate.value: expected at least 1 bit/s"),
        ("uplink_rate", {"value": 0.9, "unit": "bit/s"}, "figures.uplink_rate.value"),
        ("uplink_rate", {"value": -1}, "figures.uplink_rate.value"),
        ("power_base", {"unit": "pJ"}, "figures.power_base.unit"),
        ("power_slope", {"unit": ""}, "figures.power_slope.unit"),
        ("power_slope", None, "figures.power_slope: missing"),
    ],
)
def test_load_bad_link_names_file_and_field(tmp_path, figure, change, field):
    figures = json.loads((link.FOLDER / "wifi.json").read_text())["figures"]
    if change is None:
        del figures[figure]
    else:
        figures[figure].update(change)
    with pytest.raises(ProfileError) as caught:
        link.load(own(tmp_path, figures=figures))
    assert "mine.json" in str(caught.value)
    assert field in str(caught.value)
