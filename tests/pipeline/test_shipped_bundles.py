"""Every shipped bundle still gives, in all engines, what its trained model gave at export."""

from pathlib import Path

import pytest

from pipeline import verify
from tests.conftest import ROOT

BUNDLES = sorted(path.parent for path in (ROOT / "netx_exports").glob("*/manifest.json"))


def test_bundles_are_shipped() -> None:
    assert BUNDLES


@pytest.mark.parametrize("bundle", BUNDLES, ids=lambda path: path.name)
def test_shipped_bundle_verifies_without_a_mismatch(bundle: Path) -> None:
    result = verify.run(bundle)
    assert result["spikes"] > 0
    assert result["silent_layers"] == []
    assert result["mismatched_spikes"] == 0
    assert result["prediction_mismatches"] == 0
    assert set(result["mismatched_states_by_engine"].values()) == {0}
    assert set(result["probe"].values()) == {result["samples"], 0}
