"""Pictures of accuracy against cost: numbered points, still and interactive alike."""

import re
from xml.etree import ElementTree

import pytest

from pipeline import decision_figures, still_figures
from pipeline.points import Point, Points

SVG = "{http://www.w3.org/2000/svg}"


def point(number, kind, cost, accuracy, name="x"):
    return Point(number, name, kind, cost, accuracy, (accuracy - 0.01, accuracy + 0.01))


@pytest.fixture
def points():
    return Points(
        "bits <an> image",
        (
            point(1, "split", 100.0, 0.80),
            point(2, "baseline", 10_000.0, 0.90, name="<b>$x$</b>"),
            point(4, "baseline", 10_100.0, 0.9001),
            point(7, "all cloud", 10_000.0, 0.85),
        ),
    )


def test_points_that_lie_on_each_other_share_a_label(points):
    assert points.labels() == ["1", "2, 4", "", "7"]
    assert points.kinds() == {"split": [0], "all cloud": [3], "baseline": [1, 2]}


def test_axes_hold_every_point_and_interval(points):
    low, high = points.widths()
    assert low < 2 < 4.005 < high
    bottom, top = points.heights()
    assert bottom < 79 < 91.01 < top


@pytest.mark.parametrize("cost", [1.0, 1e-6])
def test_a_single_point_has_an_axis_too(cost):
    alone = Points("µJ", (point(3, "split", cost, 1.0),))
    assert alone.widths()[0] < alone.widths()[1]
    assert alone.labels() == ["3"]
    assert ElementTree.fromstring(still_figures.scatter(alone)).tag == SVG + "svg"


def test_a_still_picture_is_xml_that_shows_numbers_and_takes_names_as_text(points):
    drawn = still_figures.scatter(points)
    texts = [part.text for part in ElementTree.fromstring(drawn).iter(SVG + "text")]
    assert {"1", "2, 4", "7", "bits <an> image", "100", "1,000", "10,000"} <= set(texts)
    assert drawn == still_figures.scatter(points)
    assert not re.search(r"<dc:date>", drawn)


def test_the_interactive_picture_names_what_its_numbers_mean(points):
    figure = decision_figures.scatter(points)
    named = [text for trace in figure.data for text in trace.hovertext]
    assert named == ["1: x", "7: x", "2: &lt;b&gt;$x$&lt;/b&gt;", "4: x"]
