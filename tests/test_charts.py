"""Charts of the report: ticks that cover, curves and bars that stand where their numbers say."""

import math
import re
from itertools import pairwise

import pytest

from blm.pipelines.charts import Line, line_chart, log_ticks, number, ticks
from blm.pipelines.charts_rates import Rate, parts_chart, rate_chart


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1500), (0, 1), (0.02, 0.031), (-3, 4), (5, 5), (0, 0), (1e-7, 3e-7), (0, 123456)]
)
def test_ticks_cover_the_range_in_round_steps(low: float, high: float) -> None:
    marks = ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert 2 <= len(marks) <= 9
    steps = [b - a for a, b in pairwise(marks)]
    assert all(math.isclose(step, steps[0]) for step in steps)


@pytest.mark.parametrize(("low", "high"), [(0.02, 6.3), (1, 1), (1e-5, 10), (0.5, 0.6)])
def test_log_ticks_cover_the_range(low: float, high: float) -> None:
    marks = log_ticks(low, high)
    assert marks[0] <= low
    assert marks[-1] >= high
    assert len(marks) <= 10


def test_tick_labels_are_short() -> None:
    assert [number(v) for v in (0, 0.05, 12, 3000, 30_000, 1e-5)] == ["0", "0.05", "12", "3000", "30k", "1e-05"]


def test_curves_leave_out_what_cannot_be_drawn() -> None:
    points = ((0.0, 1.0), (1.0, math.nan), (2.0, math.inf), (3.0, 0.0), (4.0, 0.1))
    text = line_chart([Line(name="loss & co", points=points)], x_label="step", y_label="loss", log_y=True)
    (drawn,) = re.findall(r"points='([^']*)'", text)
    assert len(drawn.split()) == 2
    assert "nan" not in text
    assert "loss &amp; co" in text
    assert "no data" in line_chart([], x_label="step", y_label="loss")


def test_rates_are_drawn_where_they_belong() -> None:
    text = rate_chart([Rate(name="a", rate=0.5, low=0.25, high=0.75, random=0.0, paper=1.0)])
    x1, x2 = (float(v) for v in re.findall(r"class='interval c0' x1='([\d.]+)' x2='([\d.]+)'", text)[0])
    centre = float(re.findall(r"class='dot c0' cx='([\d.]+)'", text)[0])
    assert math.isclose((x1 + x2) / 2, centre, abs_tol=0.1)


def test_bands_follow_their_curves_and_leave_out_what_the_curve_leaves_out() -> None:
    points = ((0.0, 0.5), (1.0, math.nan), (2.0, 0.7))
    line = Line(name="a", points=points, band=((0.4, 0.6), (0.0, 9.0), (0.6, 1.0)))
    text = line_chart([line], x_label="x", y_label="y")
    (area,) = re.findall(r"<polygon class='band c0' points='([^']*)'", text)
    (curve,) = re.findall(r"<polyline class='line c0' points='([^']*)'", text)
    corners = [tuple(map(float, corner.split(","))) for corner in area.split()]
    drawn = [tuple(map(float, corner.split(","))) for corner in curve.split()]
    assert len(corners) == 2 * len(drawn) == 4
    for (x, y), (x_high, y_high), (x_low, y_low) in zip(drawn, corners[:2], corners[:1:-1], strict=True):
        assert x == x_high == x_low
        assert y_high < y < y_low  # downwards on the page


def test_parts_of_a_bar_stand_side_by_side_and_fill_it() -> None:
    text = parts_chart({"a": {"good": 0.25, "bad": 0.75}, "b": {"good": 1.0}}, ("good", "so so", "bad"), "ends")
    bars = [(s, float(x), float(w)) for s, x, w in re.findall(r"part (s\d)' x='([\d.]+)'.*?width='([\d.]+)'", text)]
    assert [shade for shade, _, _ in bars] == ["s0", "s2", "s0"]
    assert math.isclose(bars[0][1] + bars[0][2], bars[1][1], abs_tol=0.2)
    assert math.isclose(bars[0][2] + bars[1][2], bars[2][2], abs_tol=0.2)
    assert "bad: 75%" in text
    assert "so so" not in text
