"""What a live run says of the wait from a spike to the wire."""

import numpy as np
import pytest

from pipeline.live import LiveRun


@pytest.mark.parametrize(
    ("waits_us", "expected"),
    [((), None), ((5.0,), (5.0, 5.0)), ((1.0, 2.0), (1.5, 1.95)), ((2.0, 1.0, 6.0), (2.0, 5.6))],
)
def test_percentiles_of_as_many_steps_as_were_timed(waits_us, expected):
    run = LiveRun(np.zeros((1, 1, 1, 1, 1), np.uint8), (), waits_us)
    assert run.to_wire_percentiles_us == (expected and pytest.approx(expected))
