import pytest

from pipeline.units import times_text


@pytest.mark.parametrize(
    ("theirs_over_ours", "text"),
    [
        (4.8204, "4.82 times less"),
        (0.463, "2.16 times more"),
        (0.144, "6.94 times more"),
        (1.02, "1.02 times less"),
        (1.0, "as much"),
        (1.0004, "as much"),
        (0.9996, "as much"),
        (0.0, "more"),
    ],
)
def test_times_text_says_less_above_one_and_more_below(theirs_over_ours, text):
    assert times_text(theirs_over_ours) == text
