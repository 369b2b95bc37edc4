"""The verify command, where what a bundle recorded is not what its halves give."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cloud_server.tail import TailEngine
from lava_edge import netx_file
from pipeline import verify
from splitcore import tail
from splitcore.bundle import Bundle, open_bundle


@pytest.fixture
def bundle(digits_bundle: Path) -> Bundle:
    return open_bundle(digits_bundle)


def against_export(bundle: Bundle, scores_nk: np.ndarray) -> dict[str, float]:
    """What verify finds where these scores had been recorded."""
    engine = TailEngine(tail.load(bundle.cloud_path), bundle.manifest.steps)
    stored = replace(bundle.probe(), scores_nk=scores_nk)
    return verify.against_export(stored, netx_file.load(bundle.edge_path), engine)


def test_recorded_scores_lie_within_what_float32_may_do(bundle: Bundle) -> None:
    found = against_export(bundle, bundle.probe().scores_nk)
    assert found["mismatched_scores"] == 0
    assert found["score_difference_max"] < 1e-5


def test_score_that_no_order_of_sums_gives_is_a_mismatch(bundle: Bundle) -> None:
    scores = bundle.probe().scores_nk.copy()
    scores[3] += np.float32(1e-3)  # the prediction stays
    found = against_export(bundle, scores)
    assert found["prediction_mismatches"] == 0
    assert found["mismatched_scores"] == len(bundle.manifest.classes)
    assert found["score_difference_max"] == pytest.approx(1e-3, rel=0.01)
