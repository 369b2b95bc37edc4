import pytest

from pipeline.units import break_even_text, times_text


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


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0.11124, "0.111"),
        (4.0, "no rate (it costs less at any)"),
        (None, "no rate (even silent it costs more)"),
    ],
)
def test_break_even_is_a_rate_below_that_of_every_step_or_none(rate, text):
    assert break_even_text(rate, 4, "even silent it costs more") == text
