"""A results page is what a command makes of the shipped result files, and nothing else."""

from pathlib import Path

import pytest

from pipeline import candidates, report
from pipeline.outcome import JPEG_QUALITY
from tests.conftest import ROOT

RESULTS = ROOT / "netx_exports" / "results"
PAGES = {"resnet18": "results", "mobilenet": "results-mobilenet"}


def test_every_folder_of_results_has_its_page() -> None:
    assert {folder.name for folder in RESULTS.iterdir()} == set(PAGES)


@pytest.mark.parametrize(("network", "page"), PAGES.items())
def test_results_page_is_what_the_files_say(network: str, page: str, tmp_path: Path) -> None:
    report.run(sorted((RESULTS / network).glob("*.json")), tmp_path / f"{page}.md")
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert {f"{page}.md", f"{page}-accuracy-bits.svg", f"{page}-accuracy-energy.svg"} == set(
        written
    )
    assert written == {name: (ROOT / "docs" / name).read_text() for name in written}


@pytest.mark.parametrize("network", PAGES)
def test_a_picture_takes_the_bits_that_the_baseline_which_uploads_it_is_charged(
    network: str,
) -> None:
    inputs = candidates.load(sorted((RESULTS / network).glob("*.json")))
    uploads = {
        row.test.payload_bits_mean
        for each in inputs.baselines
        for row in each.content.rows
        if row.name.startswith(f"all in the cloud (JPEG {JPEG_QUALITY})")
    }
    ours = {8 * result.details.input_bytes_mean for _, result in inputs.results}
    assert ours == uploads
