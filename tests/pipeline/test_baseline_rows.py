"""Files of baselines beside results: read, priced, planned with, drawn."""

import copy
import json

import numpy as np
import pytest

from measure.dense import TWIN
from pipeline import baseline_rows, cuts_page, energy, plan, published_gain, report
from pipeline.baseline_rows import check
from pipeline.bench import wire
from pipeline.results import check as check_result
from pipeline.units import times_text
from splitcore.bundle import open_bundle
from splitcore.errors import ResultError, UsageError
from tests import tiny_bundle
from tests.pipeline import browser, example
from tests.pipeline.test_plan import rows, written


def measured(accuracy, bits, samples=example.SAMPLES):
    return {
        "samples": samples,
        "accuracy": accuracy,
        "accuracy_low": max(0.0, accuracy - 0.02),
        "accuracy_high": min(1.0, accuracy + 0.02),
        "payload_bits_mean": bits,
        "payload_bits_max": int(2 * bits),
    }


def row(name, kind, accuracy, bits, macs, edge_bits=32):
    layer = {"name": "conv", "macs": macs, "weights": 1, "inputs": 1, "outputs": 0}
    layers = [{**layer, "biases": 0, "addresses": 0}] if macs else []
    return {
        "name": name,
        "kind": kind,
        "edge_bits": edge_bits,
        "header_bits_not_charged": 0,
        "raw_bits": 512,
        "edge_layers": layers,
        "validation": measured(accuracy, bits),
        "test": measured(accuracy, bits),
    }


# Nothing but MACs on the edge, each 4.6 pJ in fp32 and 0.23 pJ in int8, and two words of memory.
ROWS = [
    row("all on the edge (ANN)", "all_edge", 0.99, 8.0, 10_000),
    row("all in the cloud (JPEG 50)", "all_cloud", 0.97, 4000.0, 0),
    row("BottleNet", "split", 0.945, 800.0, 2000),
    row("1-bit CNN", "split", 0.96, 400.0, 1000),
    row("BottleNet++, int8 edge", "split", 0.90, 900.0, 1000, edge_bits=8),
]


def beside(tmp_path, name="beside.json", **changes):
    content = {
        "data": "random pixels",
        "backbone": "resnet8",
        "width": 8,
        "split": "block1",
        "beside": "middle",
        "seed": 0,
        "rows": copy.deepcopy(ROWS),
    }
    content.update(changes)
    path = tmp_path / name
    path.write_text(json.dumps(content))
    return path


@pytest.fixture
def files(tmp_path):
    known = {"accuracy_uncut": 0.96, "input_bytes_mean": 900.0}
    return [
        written(tmp_path, "early", 0.94, 800, 1e6, **known),
        written(tmp_path, "middle", 0.955, 200, 40e6, **known),
    ]


def test_plan_shows_baselines_and_chooses_none(files, tmp_path):
    result = plan.plan([beside(tmp_path), *files], link="wifi", profile="loihi1")
    table = rows(result)
    assert result["chosen"] == "middle"
    assert table["1-bit CNN at block1"]["kind"] == "baseline"
    # op-only 1,000 MACs; loses nothing against the uncut 96 %
    assert f"{table['1-bit CNN at block1']['edge_pj']['op_only']:.1f}" == "4600.0"
    assert f"{table['1-bit CNN at block1']['loss_points']:.2f}" == "0.00"
    assert f"{table['BottleNet++, int8 edge at block1']['edge_pj']['op_only']:.1f}" == "230.0"
    # its 50 bytes of payload in the envelope that ours have: both results have 50 bytes around
    assert table["1-bit CNN at block1"]["message_bytes"] == pytest.approx(100.0)
    assert table["all on the edge (ANN)"]["message_bytes"] == 0
    assert result["beaten_by"] == ["all on the edge (ANN)", "1-bit CNN at block1"]
    assert "1-bit CNN at block1" in plan.summary(result)
    assert not any("baseline" in str(name) for name in result["sweep"]["best"])


def test_plan_takes_rows_that_two_files_share_once(files, tmp_path):
    other = beside(tmp_path, "other.json", split="block2")
    result = plan.plan([*files, beside(tmp_path), other], link="wifi", profile="loihi1")
    names = [candidate["name"] for candidate in result["candidates"]]
    assert names.count("all on the edge (ANN)") == 1
    assert {"BottleNet at block1", "BottleNet at block2"} <= set(names)
    assert len(names) == len(set(names))


def test_baselines_of_two_widths_say_their_own(files, tmp_path):
    narrow = beside(tmp_path, "narrow.json", width=4)
    result = plan.plan([*files, beside(tmp_path), narrow], link="wifi", profile="loihi1")
    names = {candidate["name"] for candidate in result["candidates"]}
    assert {"BottleNet, width 4 at block1", "BottleNet, width 8 at block1"} <= names
    markdown = report.run([*files, beside(tmp_path), narrow], tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert markdown["baselines"] == 2
    assert "At the accuracy of BottleNet, width 4 or better" in text
    assert "At the accuracy of BottleNet, width 8 or better" in text


def test_codes_of_two_sizes_say_their_raw_bits(files, tmp_path):
    small = copy.deepcopy(ROWS)
    for each in small:
        each["raw_bits"] = 64
    found = baseline_rows.told_apart(
        [
            baseline_rows.load(beside(tmp_path)),
            baseline_rows.load(beside(tmp_path, "b", rows=small)),
        ]
    )
    names = [[each.name for each in file.content.rows] for file in found]
    assert names[0][:3] == [ROWS[0]["name"], ROWS[1]["name"], "BottleNet, 512 bits"]
    assert names[1][2] == "BottleNet, 64 bits"
    (alone,) = baseline_rows.told_apart([baseline_rows.load(beside(tmp_path))])
    assert [each.name for each in alone.content.rows] == [each["name"] for each in ROWS]


def test_verdicts_name_the_baseline_that_wins_and_compare_energy_at_matched_accuracy(tmp_path):
    ours = copy.deepcopy(example.result())
    ours.update(accuracy_pipeline=0.95, payload_bits_mean=400.0)
    ours["energy_pj"]["cmos45_fp32"] = {"op_only": 4600.0, "full": 92_000.0}
    record = check_result(ours)
    found = check(json.loads(beside(tmp_path).read_text()), "beside.json").rows[2:]
    said = cuts_page.verdicts("block1", (record,), tuple(found))
    assert said[0] == (
        "At block1 these win, as accurate and as small as one of our codes or better: "
        "1-bit CNN (96.00 %, 400 bits)."
    )
    # BottleNet: 2,000 MACs × 4.6 = 9,200 pJ and two words of 5 pJ each a MAC more: 29,200
    assert "2 times less edge energy op-only and 3.15 times more in full" in said[1]
    said = cuts_page.verdicts("block1", (record,), tuple(found[:1]))
    assert said[0] == "At block1 no baseline is both as accurate and as small as one of our codes."
    ours["accuracy_pipeline"] = 0.9
    said = cuts_page.verdicts("block1", (check_result(ours),), tuple(found[:1]))
    assert said[1].startswith("No code of ours at block1 is as accurate as BottleNet; 4.50 points")
    # 2,000 MACs × 4.6 pJ over the energy of the profile's own record
    gain = 9200 / ours["details"]["energy"]["cmos45_fp32"]["energy_pj"]["op_only"]
    assert f"By the same rule, against BottleNet, this edge takes {times_text(gain)}," in said[2]


def test_the_smallest_code_as_accurate_as_a_baseline_stands_beside_it(tmp_path):
    (rival,) = check(json.loads(beside(tmp_path).read_text()), "beside.json").rows[2:3]  # 94.5 %
    ours = []
    for name, accuracy, bits in (("dear", 0.96, 300.0), ("good", 0.945, 100.0), ("bad", 0.9, 9.0)):
        each = copy.deepcopy(example.result())
        each.update(accuracy_pipeline=accuracy, payload_bits_mean=bits)
        each["details"]["bundle"]["name"] = name
        each["details"]["grouped_bits_mean"] = bits / 2 if name == "good" else None
        ours.append(check_result(each))
    bits = rival.test.payload_bits_mean
    known = [rival.name, "good", "94.50", f"{bits:,.0f}", "94.50"]
    sizes = ["100.0", f"{bits / 100:.3g}", "50.0", f"{bits / 50:.3g}"]
    assert cuts_page.bits_at_equal_accuracy(rival, tuple(ours)) == known + sizes
    dear = cuts_page.bits_at_equal_accuracy(rival, tuple(ours[:1]))
    assert dear[5:] == ["300.0", f"{bits / 300:.3g}", None, None]
    alone = cuts_page.bits_at_equal_accuracy(rival, tuple(ours[2:]))
    assert alone == [rival.name, None, "94.50", f"{bits:,.0f}", *[None] * 5]


def test_a_result_held_against_a_bottlenet_says_where_both_are_equal(tmp_path):
    ours = copy.deepcopy(example.result())
    ours["energy_pj"]["cmos45_fp32"] = {"op_only": 4600.0, "full": 92_000.0}
    (rival,) = check(json.loads(beside(tmp_path).read_text()), "beside.json").rows[2:3]
    ours["details"]["dense"].append(
        {
            "network": "BottleNet",
            "profile": "cmos45_fp32",
            "macs": 2000,
            "op_only_pj": 2000 * 4.6,
            "full_pj": 2000 * 14.6,
        }
    )
    for accounting, even in (("op_only", ours["steps"]), ("full", 0.25)):
        ours["details"]["energy"]["cmos45_fp32"]["break_even"].append(
            {
                "accounting": accounting,
                "dense_network": "BottleNet",
                "dense_profile": "cmos45_fp32",
                "ratio": 1.0,
                "rate_times_steps": even,
            }
        )
    renamed = rival.model_copy(update={"name": "BottleNet, width 8"})
    said = cuts_page.verdicts("block1", (check_result(ours),), (renamed,))
    assert "no rate (it costs less at any) op-only and 0.25 in full." in said[-2]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"data": "cats"}, r"data: 'cats' does not match 'random pixels'"),
        ({"rows": []}, r"rows"),
        ({"rows": [row("a", "split", 1.5, 1.0, 1)]}, r"accuracy"),
        ({"rows": [row("a", "nowhere", 0.5, 1.0, 1)]}, r"rows\.0\.kind"),
        ({"rows": [row("a", "split", 0.5, 1.0, -1)]}, r"macs"),
        ({"extra": 1}, r"extra"),
    ],
)
def test_bad_file_of_baselines_names_file_and_field(files, tmp_path, change, named):
    with pytest.raises(ResultError, match=rf"beside\.json: .*{named}"):
        plan.plan([*files, beside(tmp_path, **change)], link="wifi", profile="loihi1")


def test_baselines_on_other_images_are_refused(files, tmp_path):
    changed = copy.deepcopy(ROWS)
    changed[1]["test"]["samples"] = 7
    with pytest.raises(ResultError, match=r"rows\.1\.test\.samples: 7 does not match 12"):
        plan.plan([*files, beside(tmp_path, rows=changed)], link="wifi", profile="loihi1")


def test_baselines_alone_are_no_plan(tmp_path):
    with pytest.raises(UsageError, match="at least one result"):
        plan.plan([beside(tmp_path)], link="wifi", profile="loihi1")


def test_energy_holds_a_bundle_against_the_baselines_at_its_cut(digits_bundle, tmp_path):
    manifest = open_bundle(digits_bundle).manifest
    path = beside(tmp_path, data=manifest.data, backbone=manifest.backbone, split=manifest.split)
    answer = energy.run(digits_bundle, ["cmos45_fp32"], samples=4, baselines=[path])
    evens = answer["profiles"]["cmos45_fp32"]["break_even"]
    named = {(even["dense_network"], even["dense_profile"]) for even in evens}
    assert ("BottleNet", "cmos45_fp32") in named
    assert ("BottleNet++, int8 edge", "cmos45_int8") in named
    assert (TWIN, "cmos45_fp32") in named
    own = answer["energy_pj"]["cmos45_fp32"]["op_only"]
    ratio = next(
        even["ratio"]
        for even in evens
        if even["dense_network"] == "BottleNet" and even["accounting"] == "op_only"
    )
    assert ratio == pytest.approx(2000 * 4.6 / own)
    assert "against BottleNet (cmos45_fp32), op-only" in energy.summary(answer)


def test_energy_refuses_baselines_of_another_cut(digits_bundle, tmp_path):
    data = open_bundle(digits_bundle).manifest.data
    path = beside(tmp_path, data=data, backbone="resnet8", split="nowhere")
    with pytest.raises(ResultError, match=r"beside\.json: (backbone|split): "):
        energy.run(digits_bundle, samples=1, baselines=[path])


def test_bench_wire_holds_bits_against_the_baselines_at_the_cut(digits_bundle, tmp_path):
    manifest = open_bundle(digits_bundle).manifest
    same = {"data": manifest.data, "backbone": manifest.backbone, "split": manifest.split}
    here = beside(tmp_path, "here.json", **same)
    elsewhere = beside(tmp_path, "elsewhere.json", **{**same, "split": "stem"})
    result = wire.run([digits_bundle], samples=20, baselines=[here, elsewhere])
    (measured_row,) = result["bundles"]
    assert measured_row["samples"] == 20
    rivals = {rival["name"]: rival for rival in measured_row["baselines"]}
    assert set(rivals) == {"BottleNet", "1-bit CNN", "BottleNet++, int8 edge"}
    bits = measured_row["chosen"]["payload_bits_mean"]
    assert rivals["BottleNet"]["times_our_bits"] == pytest.approx(800 / bits)
    assert "times our bits (800.0)" in wire.summary(result)


def rivals_of(bundle, paths, monkeypatch):
    """`bench wire` of a bundle beside these files: its lines about them."""
    monkeypatch.setattr(wire, "SPEED_SAMPLES", 2)

    def source(opened, _data, samples):
        rng = np.random.default_rng(0)
        shape = (samples, *opened.manifest.spike_shape)
        return "synthetic", (rng.random(shape) < 0.2).astype(np.uint8)

    result = wire.run([bundle], samples=4, baselines=paths, source=source)
    lines = [line for line in wire.summary(result).splitlines() if " times our bits" in line]
    (measured_row,) = result["bundles"]
    names = [rival["name"] for rival in measured_row["baselines"]]
    assert [line.split(": ")[0].strip() for line in lines] == names
    return names


def at_the_cut_of(bundle):
    manifest = open_bundle(bundle).manifest
    return {"data": manifest.data, "backbone": manifest.backbone, "split": manifest.split}


@pytest.mark.parametrize(
    ("widths", "named"),
    [
        ([8], ["BottleNet++"]),  # the bundle's own
        ([16], ["BottleNet++, width 16"]),
        ([8, 16], ["BottleNet++, width 8", "BottleNet++, width 16"]),
    ],
)
def test_baselines_beside_a_bundle_say_a_width_that_need_not_be_its_own(
    digits_bundle, tmp_path, monkeypatch, widths, named
):
    same = {**at_the_cut_of(digits_bundle), "rows": [row("BottleNet++", "split", 0.9, 32.0, 1000)]}
    paths = [beside(tmp_path, f"{width}.json", width=width, **same) for width in widths]
    assert rivals_of(digits_bundle, paths, monkeypatch) == named
    edges = baseline_rows.edges_at(paths, open_bundle(digits_bundle).manifest)
    assert [edge.network for edge in edges] == named


def test_bench_wire_tells_codes_of_two_sizes_apart(digits_bundle, tmp_path, monkeypatch):
    same, rows = at_the_cut_of(digits_bundle), [row("1-bit CNN", "split", 0.9, 32.0, 1000)]
    other = [{**rows[0], "raw_bits": 64}]
    paths = [
        beside(tmp_path, "large.json", rows=rows, **same),
        beside(tmp_path, "small.json", rows=other, **same),
        beside(tmp_path, "elsewhere.json", rows=rows, width=16, **{**same, "split": "stem"}),
    ]
    named = ["1-bit CNN, 512 bits", "1-bit CNN, 64 bits"]
    assert rivals_of(digits_bundle, paths, monkeypatch) == named


def test_baselines_beside_a_bundle_that_says_no_width_say_theirs(tmp_path):
    manifest = tiny_bundle.make_bundle(tmp_path / "tiny").manifest
    same = {"data": manifest.data, "backbone": manifest.backbone, "split": manifest.split}
    edges = baseline_rows.edges_at([beside(tmp_path, width=8, **same)], manifest)
    assert edges[0].network == "BottleNet, width 8"


def test_a_result_alone_is_held_against_a_bottlenet_that_says_its_width():
    ours = copy.deepcopy(example.result())
    priced = {"profile": "cmos45_fp32", "macs": 2000, "op_only_pj": 9200.0, "full_pj": 29_200.0}
    ours["details"]["dense"] += [
        {"network": name, **priced} for name in ("BottleNet++, width 8", "BottleNet, width 8")
    ]
    rival = published_gain.rival_of(check_result(ours).details)
    assert rival.network == "BottleNet, width 8"


def test_report_draws_baselines_beside_the_cuts(files, tmp_path, chromium):
    out = tmp_path / "page" / "cuts.html"
    answer = report.run([*files, beside(tmp_path)], out)
    assert (answer["results"], answer["baselines"]) == (2, 1)
    seen = browser.probe(chromium, out, tmp_path)
    assert seen["problems"] == []
    assert seen["overflow"] <= 0
    assert "At each cut" in seen["text"]
    assert "At block1 these win" in seen["text"]
    assert "Baselines that are as accurate as the chosen cut" in seen["text"]


def test_report_as_markdown_holds_the_decision_and_nothing_from_names_is_markup(files, tmp_path):
    content = json.loads(files[0].read_text())
    content["details"]["bundle"]["name"] = "a|b<i>"
    files[0].write_text(json.dumps(content))
    out = tmp_path / "cuts.md"
    report.run([*files, beside(tmp_path)], out)
    text = out.read_text()
    assert text.startswith("# Where to cut: 2 bundles at ")
    assert "## At each cut" in text
    assert "a\\|b" in text
    tables = [line for line in text.splitlines() if line.startswith("| ")]
    assert {line.replace("\\|", "").count("|") for line in tables} == {4, 6, 10, 11}
