import copy
import json
import re

import pytest

from measure import link
from measure.profile import FOLDER
from pipeline import decision_figures, plan, report
from splitcore.errors import ProfileError, ResultError, UsageError
from tests.pipeline import browser, example


def written(tmp_path, name, accuracy, wire_bytes, full_pj, **details):
    """A result file of a cut: how accurate, how many bytes, how much edge energy."""
    result = copy.deepcopy(example.result())
    result["accuracy_pipeline"] = accuracy
    result["wire_bytes_mean"] = wire_bytes
    result["payload_bits_mean"] = max(8 * (wire_bytes - 50), 1)
    result["energy_pj"]["loihi1"] = {"op_only": full_pj / 4, "full": full_pj}
    result["details"]["bundle"]["name"] = name
    result["details"].update(details)
    path = tmp_path / f"{name}.json"
    path.write_text(json.dumps(result))
    return path


# Wi-Fi takes 290.2071 nJ a bit, 2.321657 uJ a byte. Device energy in uJ:
#   early   1 + 800 × 2.321657 = 1858.3        94.0 %, 2 points lost
#   middle 40 + 200 × 2.321657 =  504.3        95.5 %, 0.5 points lost
#   late  300 +  60 × 2.321657 =  439.3        93.0 %, 3 points lost
#   cloud   0 + 950 × 2.321657 = 2205.6        96.0 %, the reference; 50 bytes are the envelope
@pytest.fixture
def files(tmp_path):
    known = {"accuracy_uncut": 0.96, "input_bytes_mean": 900.0}
    return [
        written(tmp_path, "early", 0.94, 800, 1e6, **known),
        written(tmp_path, "middle", 0.955, 200, 40e6, **known),
        written(tmp_path, "late", 0.93, 60, 300e6, **known),
    ]


def rows(result):
    return {row["name"]: row for row in result["candidates"]}


def test_plan_with_two_points_to_lose_chooses_the_middle(files):
    result = plan.plan(files, link="wifi", profile="loihi1", max_loss=2.0)
    assert result["chosen"] == "middle"
    table = rows(result)
    assert f"{table['early']['total_uj']:.1f}" == "1858.3"
    assert f"{table['middle']['total_uj']:.1f}" == "504.3"
    assert f"{table['all in the cloud']['total_uj']:.1f}" == "2205.6"
    assert table["all in the cloud"]["latency_absent"] == ["encode", "cloud"]
    assert table["late"]["why"] == "loses 3.00 points, 2 allowed"
    assert "3.68 times" in table["early"]["why"]


def test_plan_with_another_profile_of_the_same_name_is_refused(files, tmp_path):
    other = json.loads((FOLDER / "loihi1.json").read_text())
    assert other["figures"]["synop_energy"]["value"] == 23.6
    other["figures"]["synop_energy"]["value"] = 30
    mine = tmp_path / "mine.profile"
    mine.write_text(json.dumps(other))
    told = (
        r"early\.json: details\.energy\.loihi1\.figures\.synop_energy: was priced with 23\.6 pJ, "
    )
    with pytest.raises(ResultError, match=told + "the profile has 30 pJ"):
        plan.plan(files, link="wifi", profile=str(mine))
    del other["figures"]["hop_energy"]
    other["figures"]["synop_energy"]["value"] = 23.6
    mine.write_text(json.dumps(other))
    with pytest.raises(ResultError, match=r"figures\.hop_energy: .* the profile has none"):
        plan.plan(files, link="wifi", profile=str(mine))


def test_plan_with_other_word_widths_of_the_same_name_is_refused(files, tmp_path):
    other = json.loads((FOLDER / "cmos45_fp32.json").read_text())
    other["memory"]["state_bits"] = 8
    mine = tmp_path / "mine.profile"
    mine.write_text(json.dumps(other))
    told = r"cmos45_fp32\.widths\.state_bits: was priced with 32 bits, the profile has 8 bits"
    with pytest.raises(ResultError, match=told):
        plan.plan(files, link="wifi", profile=str(mine))


def test_plan_with_another_term_included_under_the_same_name_is_refused(files, tmp_path):
    other = json.loads((FOLDER / "cmos45_fp32.json").read_text())
    other["included"]["memory_states"] = "no state is ever kept"
    mine = tmp_path / "mine.profile"
    mine.write_text(json.dumps(other))
    told = (
        r"cmos45_fp32\.terms\.memory_states: was priced with a cost of its own, the profile has no"
    )
    with pytest.raises(ResultError, match=told):
        plan.plan(files, link="wifi", profile=str(mine))


def test_plan_takes_a_result_that_does_not_say_its_word_widths(files):
    for file in files:
        older = json.loads(file.read_text())
        for priced in older["details"]["energy"].values():
            del priced["widths"]
        file.write_text(json.dumps(older))
    assert plan.plan(files, link="wifi", profile="cmos45_fp32")["chosen"]


def test_plan_without_limits_chooses_the_least_energy(files):
    assert plan.plan(files, link="wifi", profile="loihi1")["chosen"] == "late"


def test_plan_pareto_front_leaves_out_what_is_worse_in_all(files):
    # early loses more than middle, costs more and takes longer
    result = plan.plan(files, link="wifi", profile="loihi1")
    assert result["pareto"] == ["middle", "late", "all in the cloud"]


def test_plan_limit_on_edge_energy_excludes_later_cuts(files):
    result = plan.plan(files, link="wifi", profile="loihi1", max_loss=2.5, max_energy_pj=2e6)
    assert result["chosen"] == "early"
    assert "2 µJ allowed" in rows(result)["middle"]["why"]


def test_plan_limit_on_latency_excludes_large_messages_and_unknown_times(tmp_path):
    timed = {"encode_us": 100, "cloud_us": 100}
    files = [
        written(tmp_path, "early", 0.94, 800, 1e6, **timed),
        written(tmp_path, "late", 0.93, 60, 300e6, **timed),
        written(tmp_path, "untimed", 0.93, 60, 1e6, cloud_us=100),
    ]
    result = plan.plan(files, link="3g", profile="loihi1", max_latency_ms=2.0)
    # 60 bytes at 1.1 Mbit/s take 0.44 ms, 800 bytes 5.8 ms
    assert result["chosen"] == "late"
    table = rows(result)
    assert "ms, 2 allowed" in table["early"]["why"]
    assert table["untimed"]["why"] == "its time is not known (encode), so no limit holds it"
    assert plan.plan(files, link="3g", profile="loihi1")["chosen"] == "untimed"
    slow = plan.plan(files[1:2], link="3g", profile="cmos45_fp32", max_latency_ms=2.0)
    assert slow["chosen"] is None  # a processor without a step time


def test_plan_edge_time_is_that_of_the_busiest_cores_steps(tmp_path):
    path = written(tmp_path, "only", 0.93, 60, 1e6)
    result = json.loads(path.read_text())["details"]
    (row, _) = plan.plan([path], link="3g", profile="loihi1")["candidates"]
    step_us = result["energy"]["loihi1"]["step_us"]
    assert step_us > 0.465
    steps = 4 + result["depth"]
    assert row["latency_parts_ms"]["edge"] == pytest.approx(steps * step_us / 1e3)


def test_plan_says_what_is_in_no_sum(tmp_path, files):
    result = plan.plan(files, link="4g_2021", profile="loihi1")
    assert result["link_absent"] == ["power_base", "round_trip_time"]
    told = plan.summary(result)
    assert "no figure for power base and round trip time: energies and times on it are low" in told
    path = written(tmp_path, "small", 0.93, 60, 1e6)
    content = json.loads(path.read_text())
    for term in content["details"]["energy"]["loihi1"]["terms"]:
        if term["name"] in ("macs", "static"):
            term.update(status="absent", energy_pj=None, layers_pj=None)
    path.write_text(json.dumps(content))
    result = plan.plan([path], link="wifi", profile="loihi1")
    assert rows(result)["small"]["energy_absent"] == ["macs", "static"]
    assert "and what is not counted (macs, static)" in plan.summary(result)


def test_plan_tells_what_losses_are_counted_from(tmp_path, files):
    known = plan.plan(files, link="wifi", profile="loihi1")
    assert known["reference"] == {"accuracy": 0.96, "what": "the uncut network"}
    alone = plan.plan([written(tmp_path, "alone", 0.9, 60, 1e6)], link="wifi", profile="loihi1")
    assert alone["reference"]["accuracy"] == 0.9
    assert "losses against 90.00 %, the best of these results, as none" in plan.summary(alone)


def test_plan_a_bundle_called_like_another_way_keeps_its_own_row(tmp_path):
    path = written(tmp_path, "all in the cloud", 0.93, 60, 1e6)
    result = plan.plan([path], link="wifi", profile="loihi1")
    names = [row["name"] for row in result["candidates"]]
    assert names == ["all in the cloud", "all in the cloud (2)"]
    assert set(result["sweep"]["total_uj"]) == set(names)


def test_a_result_of_another_accounting_is_refused(tmp_path):
    path = written(tmp_path, "old", 0.93, 60, 1e6, accounting=1)
    with pytest.raises(ResultError, match=r"old\.json: details\.accounting: expected 2; other ver"):
        plan.plan([path], link="wifi", profile="loihi1")


def test_plan_no_cut_within_the_limits_says_so(files):
    result = plan.plan(files, link="wifi", profile="loihi1", max_loss=-1)
    assert result["chosen"] is None
    assert "none within the limits" in plan.summary(result)


def test_plan_sweep_crosses_where_both_energies_are_equal(files):
    result = plan.plan(files, link="wifi", profile="loihi1", max_loss=2.5)
    # from middle to early: 40 + 1600 bits × e = 1 + 6400 bits × e -> e = 39 uJ / 4800 bits
    # = 8.125 nJ a bit, below Wi-Fi's slope of 283.17: never; so middle is best at every rate
    assert result["sweep"]["crossovers"] == []
    assert set(result["sweep"]["best"]) == {"middle"}
    result = plan.plan(files, link="wifi", profile="loihi1")
    # middle or late: 40 + 1600 e = 300 + 480 e -> e = 232.14 nJ a bit, below the slope as well
    assert set(result["sweep"]["best"]) == {"late"}


def test_plan_sweep_finds_the_rate_at_which_the_best_changes(tmp_path):
    near = written(tmp_path, "near", 0.95, 400, 50e6)
    far = written(tmp_path, "far", 0.95, 100, 1050e6)
    result = plan.plan([near, far], link="wifi", profile="loihi1", max_loss=1.0)
    # 50 + 3200 e = 1050 + 800 e -> e = 416.67 nJ a bit = 283.17 + 132.86 / rate
    # -> rate = 132.86 / 133.4967 = 0.99523 Mbit/s
    (crossing,) = result["sweep"]["crossovers"]
    assert f"{crossing['rate_mbit_s']:.5f}" == "0.99523"
    assert (crossing["from"], crossing["to"]) == ("far", "near")


def test_plan_sweep_finds_a_best_between_two_of_its_rates(tmp_path):
    # uJ at e nJ a bit: A 1 + 1 e, B 80 + 0.8 e, C 162 + 0.6 e (thousand bits); A and B meet at
    # e = 395, which is 1.18805 Mbit/s, B and C at e = 410, 1.0475: within one step of the sweep
    files = [
        written(tmp_path, name, 0.9, size / 8, pj)
        for name, size, pj in (("A", 1000, 1e6), ("B", 800, 80e6), ("C", 600, 162e6))
    ]
    result = plan.plan(files, link="wifi", profile="loihi1")
    found = [
        (round(each["rate_mbit_s"], 4), each["from"], each["to"])
        for each in result["sweep"]["crossovers"]
    ]
    assert found == [(1.0475, "C", "B"), (1.1881, "B", "A")]


def test_plan_all_on_the_edge_adds_the_cloud_half_and_sends_nothing(tmp_path):
    path = written(
        tmp_path,
        "late",
        0.93,
        60,
        300e6,
        whole={"loihi1": {"energy_pj": {"op_only": 76e6, "full": 1000e6}, "step_us": 2.0}},
    )
    table = rows(plan.plan([path], link="3g", profile="loihi1"))
    assert table["late, all on the edge"]["total_uj"] == 1000.0
    assert table["late, all on the edge"]["message_bytes"] == 0
    steps = 4 + json.loads(path.read_text())["details"]["depth"]
    parts = table["late, all on the edge"]["latency_parts_ms"]
    assert parts["edge"] == pytest.approx(steps * 2.0 / 1e3)


def test_plan_cloud_of_unknown_accuracy_cannot_be_chosen(tmp_path):
    path = written(tmp_path, "only", 0.93, 10_000, 1e6)
    result = plan.plan([path], link="wifi", profile="loihi1")
    assert result["chosen"] == "only"
    assert rows(result)["all in the cloud"]["note"].startswith("sends raw pixels")


def test_plan_json_round_trips(files):
    result = plan.plan(files, link="wifi", profile="loihi1")
    assert json.loads(json.dumps(result, allow_nan=False)) == result


def test_plan_results_of_different_data_name_file_and_field(files):
    other = json.loads(files[1].read_text())
    other["details"]["bundle"]["data"] = "something else"
    files[1].write_text(json.dumps(other))
    with pytest.raises(ResultError, match=r"middle\.json: details\.bundle\.data: 'something else'"):
        plan.plan(files, link="wifi", profile="loihi1")


def test_plan_results_of_different_samples_name_file_and_field(files):
    other = json.loads(files[2].read_text())
    other["samples"] = 7
    files[2].write_text(json.dumps(other))
    with pytest.raises(ResultError, match=r"late\.json: samples: 7 does not match"):
        plan.plan(files, link="wifi", profile="loihi1")


def test_plan_profile_that_a_result_lacks_names_file_and_field(files):
    with pytest.raises(ResultError, match=r"early\.json: energy_pj\.seneca: missing"):
        plan.plan(files, link="wifi", profile="seneca")


def test_plan_without_details_names_file_and_field(files):
    bare = json.loads(files[0].read_text())
    del bare["details"]
    files[0].write_text(json.dumps(bare))
    with pytest.raises(ResultError, match=r"early\.json: details: missing"):
        plan.plan(files, link="wifi", profile="loihi1")


def test_plan_unknown_link_or_profile_is_refused(files):
    with pytest.raises(ProfileError, match="no link"):
        plan.plan(files, link="pigeon", profile="loihi1")
    with pytest.raises(ProfileError, match="no energy profile"):
        plan.plan(files, link="wifi", profile="abacus")
    with pytest.raises(UsageError):
        plan.plan([], link="wifi", profile="loihi1")


def test_report_of_several_results_draws_the_decision_without_error(files, tmp_path, chromium):
    out = tmp_path / "page" / "cuts.html"
    answer = report.run(files, out)
    assert answer["chosen"] == "middle"
    seen = browser.probe(chromium, out, tmp_path)
    assert seen["problems"] == []
    assert seen["overflow"] <= 0
    drawn = {picture["id"] for picture in seen["pictures"]}
    assert {"accuracy-bits", "accuracy-energy", "device-energy", "link-sweep"} <= drawn
    assert all(picture["svg"] for picture in seen["pictures"])
    assert "loses 3.00 points, 2 allowed" in seen["text"]


def test_report_of_one_result_file_is_the_page_of_that_result(files, tmp_path):
    answer = report.run(files[:1], tmp_path / "one.html")
    assert answer == {
        "report": str(tmp_path / "one.html"),
        "results": 1,
        "baselines": 0,
        "chosen": None,
    }
    assert 'id="raster"' in (tmp_path / "one.html").read_text()


@pytest.mark.parametrize("runs", [1, 2])
def test_report_tells_every_assumption_once(files, tmp_path, runs):
    out = tmp_path / "page.html"
    report.run(files[:runs], out)
    text = out.read_text()
    text = text[: text.index("<script")]
    assert text.count("<h2>Assumptions</h2>") == 1
    ids = re.findall(r' id="([^"]+)"', text)
    assert len(ids) == len(set(ids)) > 5
    assert ("pJ an image</th>" in text) == (runs == 1)


def test_report_draws_the_rate_of_the_users_own_link(files, tmp_path, monkeypatch):
    mine = json.loads((link.FOLDER / "wifi.json").read_text())
    mine["figures"]["uplink_rate"]["value"] = 2.0
    path = tmp_path / "mine.link"
    path.write_text(json.dumps(mine))
    drawn, whole = [], decision_figures.sweep
    monkeypatch.setattr(decision_figures, "sweep", lambda *a: drawn.append(a[-1]) or whole(*a))
    report.run(files, tmp_path / "report.html", link=path)
    assert drawn == [2.0]


def test_report_of_one_result_is_a_decision_too_where_markdown_is_asked_for(files, tmp_path):
    report.run(files[:1], tmp_path / "one.md")
    assert (
        (tmp_path / "one.md").read_text().startswith("# Where to cut: 1 bundle at 1 split point\n")
    )


@pytest.mark.parametrize("given", [{"link": "wifi"}, {"profile": "loihi1"}, {"max_loss": 2.0}])
def test_report_page_of_one_result_refuses_what_only_a_decision_uses(files, tmp_path, given):
    (option,) = given
    with pytest.raises(UsageError, match=f"--{option.replace('_', '-')}: .* decides nothing"):
        report.run(files[:1], tmp_path / "one.html", **given)
    assert not (tmp_path / "one.html").exists()


def test_report_decides_by_the_limit_that_it_is_given(files, tmp_path):
    assert report.run(files, tmp_path / "cuts.md")["chosen"] == "middle"
    assert report.run(files, tmp_path / "cuts.md", max_loss=0.1)["chosen"] == "all in the cloud"


@pytest.mark.parametrize("wrong", [{"link": "nosuch"}, {"profile": "nosuch"}])
def test_report_refuses_links_and_profiles_that_are_not(files, tmp_path, wrong):
    with pytest.raises(ProfileError, match="nosuch"):
        report.run(files, tmp_path / "cuts.html", **wrong)
    assert not (tmp_path / "cuts.html").exists()


@pytest.mark.parametrize("folder", ["cuts.md", "cuts-accuracy-energy.svg"])
def test_report_that_has_no_place_for_one_of_its_files_writes_none(files, tmp_path, folder):
    (tmp_path / folder).mkdir()
    before = set(tmp_path.iterdir())
    with pytest.raises(UsageError, match=rf"{folder}: cannot be written \(it is a folder\)"):
        report.run(files, tmp_path / "cuts.md")
    assert set(tmp_path.iterdir()) == before


@pytest.mark.parametrize("form", ["html", "md"])
@pytest.mark.parametrize("runs", [1, 3])
def test_report_is_not_written_over_a_result(files, tmp_path, form, runs):
    own = files[runs - 1].rename(tmp_path / f"own.{form}")
    before = own.read_text()
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match=rf"own\.{form}: .*another --out"):
        report.run([*files[: runs - 1], own], tmp_path / "folder" / ".." / own.name)
    assert own.read_text() == before


def test_report_puts_no_picture_over_a_result(files, tmp_path):
    own = files[0].rename(tmp_path / "cuts-accuracy-bits.svg")
    before = own.read_text()
    with pytest.raises(UsageError, match=r"cuts-accuracy-bits\.svg: .*another --out"):
        report.run([own, *files[1:]], tmp_path / "cuts.md")
    assert own.read_text() == before
    assert not (tmp_path / "cuts.md").exists()


def test_report_is_not_written_over_the_users_own_link_or_profile(files, tmp_path):
    mine = tmp_path / "mine.json"
    for option, shipped in (
        ("link", link.FOLDER / "wifi.json"),
        ("profile", FOLDER / "loihi1.json"),
    ):
        mine.write_text(shipped.read_text())
        with pytest.raises(UsageError, match=r"mine\.json: .*another --out"):
            report.run(files, mine, **{option: mine})
