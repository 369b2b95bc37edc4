import json

import pytest

from measure import profile
from splitcore.errors import ProfileError


def own(**changes):
    base = json.loads((profile.FOLDER / "cmos45_int8.json").read_text())
    base.update(changes)
    return base


def written(tmp_path, content):
    path = tmp_path / "mine.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


@pytest.mark.parametrize("name", profile.names())
def test_profile_that_ships_loads_and_is_named_as_its_file(name):
    loaded = profile.load(name)
    assert loaded.name == name
    assert all(figure.source for figure in loaded.figures.values())


def test_load_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(ProfileError, match="loihi1"):
        profile.load("loihi9")


def test_load_own_profile_by_path_gives_its_values(tmp_path):
    path = written(tmp_path, own(name="mine"))
    assert profile.load(path).value("mac_energy") == 0.23
    assert profile.load(str(path)).name == "mine"


def test_value_in_another_unit_is_canonical(tmp_path):
    figure = {"value": 2.5, "unit": "nJ", "status": "estimate", "source": "a data sheet"}
    loaded = profile.load(written(tmp_path, own(figures={"synop_energy": figure})))
    assert loaded.value("synop_energy") == 2500
    assert loaded.value("mac_energy") is None


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"value": -1}, "figures.synop_energy.value"),
        ({"unit": "mW"}, "figures.synop_energy.unit"),
        ({"unit": None}, "figures.synop_energy.unit"),
        ({"source": ""}, "figures.synop_energy.source"),
        ({"status": "measured"}, "figures.synop_energy.status"),
        ({"value": float("nan")}, ""),
        ({"value": "0.1"}, "figures.synop_energy.value"),
        ({"low": 3.0}, "figures.synop_energy"),
        ({"colour": 1}, "figures.synop_energy.colour"),
    ],
)
def test_load_bad_figure_names_file_and_field(tmp_path, change, field):
    figure = {"value": 0.1, "unit": "pJ", "status": "published", "source": "a data sheet"}
    path = written(tmp_path, own(figures={"synop_energy": {**figure, **change}}))
    with pytest.raises(ProfileError) as caught:
        profile.load(path)
    assert str(path) in str(caught.value)
    assert field in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("field", ["value", "unit", "status", "source"])
def test_load_figure_without_a_field_names_it(tmp_path, field):
    figure = {"value": 0.1, "unit": "pJ", "status": "published", "source": "a data sheet"}
    del figure[field]
    path = written(tmp_path, own(figures={"mac_energy": figure}))
    with pytest.raises(ProfileError, match=f"mine.json: figures.mac_energy.{field}"):
        profile.load(path)


def test_load_without_the_synaptic_operation_is_refused(tmp_path):
    figures = {name: each for name, each in own()["figures"].items() if name != "synop_energy"}
    with pytest.raises(ProfileError, match=r"mine\.json: figures\.synop_energy: missing"):
        profile.load(written(tmp_path, own(figures=figures)))


def test_load_all_takes_each_once_and_refuses_two_of_one_name(tmp_path):
    mine = written(tmp_path, own(name="mine"))
    loaded = profile.load_all(["loihi1", mine, "loihi1"])
    assert [each.name for each in loaded] == ["loihi1", "mine"]
    with pytest.raises(
        ProfileError, match=r"mine\.json: name: 'cmos45_int8' is that of cmos45_int8"
    ):
        profile.load_all(["cmos45_int8", written(tmp_path, own())])


def test_load_unknown_figure_is_refused(tmp_path):
    figure = {"value": 0.1, "unit": "pJ", "status": "published", "source": "a data sheet"}
    with pytest.raises(ProfileError, match=r"figures\.warp_energy"):
        profile.load(written(tmp_path, own(figures={"warp_energy": figure})))


@pytest.mark.parametrize("content", ["", "[]", "{", "\x00", "null"])
def test_load_file_that_is_no_profile_is_one_line(tmp_path, content):
    with pytest.raises(ProfileError, match=r"mine\.json") as caught:
        profile.load(written(tmp_path, content))
    assert "\n" not in str(caught.value)


def test_load_static_power_without_step_time_is_refused(tmp_path):
    power = {"value": 10, "unit": "mW", "status": "estimate", "source": "a data sheet"}
    with pytest.raises(ProfileError, match="step_time"):
        profile.load(written(tmp_path, own(figures={"static_power": power})))


@pytest.mark.parametrize("missing", ["step_time", "neurons_per_chip", "neurons_per_core"])
def test_load_the_time_of_an_operation_without_the_cores_that_take_it_is_refused(tmp_path, missing):
    figures = json.loads((profile.FOLDER / "loihi1.json").read_text())["figures"]
    del figures[missing], figures["static_power"]
    with pytest.raises(ProfileError, match=rf"figures\.{missing}: missing; the time"):
        profile.load(written(tmp_path, own(figures=figures)))


@pytest.mark.parametrize("change", [{"value": 0}, {"value": 1e-310}, {"low": 0, "high": 9e5}])
def test_load_a_chip_without_neurons_is_refused(tmp_path, change):
    figures = json.loads((profile.FOLDER / "loihi1.json").read_text())["figures"]
    figures["neurons_per_chip"].update(change)
    with pytest.raises(ProfileError, match=r"figures\.neurons_per_chip: expected at least 1"):
        profile.load(written(tmp_path, own(figures=figures)))


def test_load_with_the_synaptic_operation_in_another_figure_is_refused(tmp_path):
    with pytest.raises(ProfileError, match=r"included\.synops"):
        profile.load(written(tmp_path, own(included={"synops": "in the MACs"})))


def test_load_buffers_out_of_order_are_refused(tmp_path):
    memory = own()["memory"]
    memory["points"].reverse()
    with pytest.raises(ProfileError, match=r"memory\.points"):
        profile.load(written(tmp_path, own(memory=memory)))


def test_load_a_buffer_beyond_any_size_is_refused(tmp_path):
    memory = own()["memory"]
    memory["points"][-1]["bytes"] = 10**400
    with pytest.raises(ProfileError, match=r"memory\.points\.2\.bytes") as caught:
        profile.load(written(tmp_path, own(memory=memory)))
    assert "\n" not in str(caught.value)


def test_load_a_larger_buffer_that_costs_less_is_refused(tmp_path):
    memory = own()["memory"]
    memory["points"][-1]["energy"].update(value=0.0199, unit="nJ")  # the smaller one: 20 pJ
    with pytest.raises(
        ProfileError,
        match=r"memory\.points\.2\.energy: expected at least the 20 pJ .* got 19\.9 pJ",
    ):
        profile.load(written(tmp_path, own(memory=memory)))
