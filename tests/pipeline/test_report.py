import base64
import copy
import json
import os
from pathlib import Path

import numpy as np
import pytest

from pipeline import figures, page, report, results, run_page
from splitcore import spikes
from splitcore.errors import ResultError, UsageError
from tests.pipeline import browser, example

HOSTILE = '</script><script class="planted">alert(1)</script><b>&"'


def test_write_demo_result_draws_every_picture_without_error_or_overflow(tmp_path, chromium):
    file = report.write(example.result(), tmp_path / "report.html")
    seen = browser.probe(chromium, file, tmp_path)
    assert seen["problems"] == []
    assert seen["overflow"] <= 0
    drawn = {picture["id"]: picture for picture in seen["pictures"]}
    assert set(drawn) == {
        "bits",
        "raster",
        "rates",
        "energy-cmos45-fp32",
        "sensitivity-cmos45-fp32",
        "energy-loihi1",
        "sensitivity-loihi1",
        "confusion",
    }
    assert all(picture["svg"] >= 1 and picture["marks"] > 3 for picture in drawn.values())
    assert seen["svg"] == "data:image/svg+xml"
    assert seen["svg_size"] > 2000
    assert "every energy is modelled" in seen["text"]
    assert "Davies et al." in seen["text"]
    assert "The published gain of this method is 144 times" in seen["text"]


def test_write_hostile_names_are_shown_as_text(tmp_path, chromium):
    file = report.write(example.result(HOSTILE, HOSTILE), tmp_path / "report.html")
    seen = browser.probe(chromium, file, tmp_path)
    assert seen["problems"] == []
    assert seen["scripts"] == 0
    assert HOSTILE in seen["text"]
    assert len(seen["pictures"]) == 8


def test_write_loads_nothing_from_elsewhere(tmp_path):
    text = report.write(example.result(), tmp_path / "report.html").read_text()
    head = text[: text.index("<script>")]
    assert "http" not in head
    assert 'src="' not in head
    assert "<link" not in head


def test_write_without_details_still_tells_the_numbers(tmp_path):
    bare = {key: value for key, value in example.result().items() if key != "details"}
    text = report.write(bare, tmp_path / "report.html").read_text()
    assert "190 bits" in text
    assert 'id="energy"' in text


@pytest.mark.parametrize(
    ("shape", "drawn", "told"),
    [
        # columns: maps of 2 and gaps of 1 between them; rows alike
        ((3, 2, 2, 2), (5, 8), "time step."),
        ((17, 1, 1, 2), (1, 47), "time step; the first 16 of 17 steps."),
        ((1, 17, 2, 1), (47, 1), "time step; the 16 busiest of 17 channels."),
        ((1, 1, 65, 2), (64, 2), "time step; the upper left 64 × 2 of each map of 65 × 2."),
        ((1, 1, 2, 66), (2, 64), "time step; the upper left 2 × 64 of each map of 2 × 66."),
        (
            (1 << 20, 17, 1, 1),
            (31, 31),
            "time step; the 16 busiest of 17 channels; the first 16 of 1,048,576 steps.",
        ),
    ],
)
def test_raster_of_a_large_code_draws_a_part_and_says_which(shape, drawn, told):
    one = copy.deepcopy(example.result())
    packed = base64.b64encode(spikes.pack(np.ones(shape, np.uint8))).decode()
    one["details"]["raster"].update(shape=shape, packed=packed)
    written = page.Page()
    run_page.single(written, results.check(one))
    picture = written.figures["raster"].data[0].z
    assert (len(picture), len(picture[0])) == drawn
    (caption,) = (part for part in written.parts if 'id="raster"' in part)
    assert f"one map a channel and {told}</figcaption>" in caption


def test_raster_draws_the_channels_that_fire_most_over_all_steps():
    code = np.zeros((40, 20, 1, 1), np.uint8)
    code[39, 4:] = 1
    assert figures.raster(code).layout.yaxis.ticktext == tuple(
        f"channel {index}" for index in range(4, 20)
    )


def test_write_of_a_silent_code_says_so(tmp_path):
    silent = {**example.result(), "payload_bits_mean": 0, "compression_ratio": None}
    text = report.write(silent, tmp_path / "report.html").read_text()
    assert "The code is silent: no spike was ever sent." in text


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        (("samples",), 0, "samples"),
        (("samples",), 10**400, "samples"),
        (("raw_spike_bits",), 0, "raw_spike_bits"),
        (("energy_pj", "loihi1"), {"op_only": 2, "full": 1}, "energy_pj.loihi1.*less than op_only"),
        (("details", "layers"), [], "details.layers"),
        (("accuracy_pipeline",), 1.5, "accuracy_pipeline"),
        (("payload_bits_mean",), float("nan"), "payload_bits_mean"),
        (("energy_pj", "loihi1", "full"), -1, "energy_pj.loihi1.full"),
        (("details", "layers", 0, "rate"), "high", "details.layers.0.rate"),
        (("details", "confusion"), [[1]], "details"),
        (("details", "energy", "loihi1", "terms", 0, "layers_pj"), [1.0], "terms.synops.layers_pj"),
        (("details", "raster", "packed"), "AAAA", "details.raster.packed"),
        (("details", "raster", "packed"), "?", "details.raster.packed"),
    ],
)
def test_write_bad_field_is_named_and_nothing_is_written(tmp_path, path, value, field):
    bad = copy.deepcopy(example.result())
    place = bad
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ResultError, match=field):
        report.write(bad, tmp_path / "report.html")
    assert list(tmp_path.iterdir()) == []


def test_write_missing_key_is_named(tmp_path):
    bad = {key: value for key, value in example.result().items() if key != "raw_spike_bits"}
    with pytest.raises(ResultError, match="raw_spike_bits"):
        report.write(bad, tmp_path / "report.html")


def test_write_to_a_folder_that_cannot_be_is_one_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="cannot be written"):
        report.write(example.result(), tmp_path / "file" / "report.html")


def test_load_result_file_names_file_and_field(tmp_path):
    path = tmp_path / "result.json"
    path.write_text(json.dumps({**example.result(), "steps": "four"}))
    with pytest.raises(ResultError, match=r"result\.json: steps"):
        results.load(path)


@pytest.mark.parametrize(
    "content", ["", "[1]", "{", "[" * 100_000], ids=["empty", "list", "cut", "deep"]
)
def test_load_file_that_is_no_result_is_one_line(tmp_path, content):
    path = tmp_path / "result.json"
    path.write_text(content)
    with pytest.raises(ResultError, match=r"result\.json") as caught:
        results.load(path)
    assert "\n" not in str(caught.value)


def test_read_of_a_pipe_or_device_is_refused_before_it_is_opened(tmp_path):
    pipe = tmp_path / "result.json"
    os.mkfifo(pipe)
    for path in (pipe, Path("/dev/zero"), tmp_path):
        with pytest.raises(ResultError, match=f"{path}: expected a file"):
            results.read(path)


def test_read_of_a_file_beyond_the_limit_is_refused(tmp_path, monkeypatch):
    path = tmp_path / "result.json"
    path.write_text('{"a": 1}')
    monkeypatch.setattr(results, "MAX_FILE_BYTES", 8)
    assert results.read(path) == {"a": 1}
    path.write_text('{"a": 12}')
    with pytest.raises(ResultError, match=r"result\.json: larger than 8 bytes"):
        results.read(path)


def test_read_takes_no_more_than_the_limit_of_a_file_that_says_it_is_empty(monkeypatch):
    monkeypatch.setattr(results, "MAX_FILE_BYTES", 8)
    with pytest.raises(ResultError, match="larger than 8 bytes"):
        results.read(Path("/proc/self/status"))


def test_details_say_the_relay_events_of_each_layer():
    layers = {
        layer["name"]: layer["relay_events"] for layer in example.result()["details"]["layers"]
    }
    assert layers["block1.out"] > 0  # its shortcut waits for block1.conv1
    assert {name for name, events in layers.items() if events} == {"block1.out"}


def test_to_csv_keeps_formulas_as_text():
    text = page.to_csv(["name", "pJ"], [["=1+1", 2.5], ['say "hi", you', None]])
    assert text.splitlines() == ["name,pJ", "'=1+1,2.5", '"say ""hi"", you",']
