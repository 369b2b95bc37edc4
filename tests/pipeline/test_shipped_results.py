"""The results page is what a command makes of the shipped result files, and nothing else."""

from pathlib import Path

from pipeline import report
from tests.conftest import ROOT

RESULTS = sorted((ROOT / "netx_exports" / "results").glob("*.json"))


def test_results_page_is_what_the_files_say(tmp_path: Path) -> None:
    out = tmp_path / "results.md"
    report.run(RESULTS, out)
    written = {file.name: file.read_text() for file in tmp_path.iterdir()}
    assert {"results.md", "results-accuracy-bits.svg", "results-accuracy-energy.svg"} == set(
        written
    )
    assert written == {name: (ROOT / "docs" / name).read_text() for name in written}
