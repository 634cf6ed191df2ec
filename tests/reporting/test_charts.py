"""The charts: ticks that cover, lines that leave out what isn't a number, names that can't break out."""

import re
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from diffalign.reporting.charts import (
    HEIGHT,
    LEFT,
    WIDTH,
    Series,
    interval_axis,
    interval_bar,
    panel,
    running_mean,
    tick_labels,
    ticks,
)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 1), (0.55, 0.71), (-3e-4, 2e-5), (0, 2000), (5, 5), (0, 0), (-1, -0.2), (1e-9, 3e-9)]
)
def test_ticks_cover_the_values_with_a_few_round_numbers(low: float, high: float) -> None:
    found = ticks(low, high)
    assert found[0] <= low + 1e-12 and found[-1] >= high - 1e-12
    assert 2 <= len(found) <= 7
    assert len(set(tick_labels(found))) == len(found)


def test_tick_labels_by_hand() -> None:
    assert tick_labels([0.0, 0.2, 0.4]) == ["0", "0.2", "0.4"]
    assert tick_labels([0.0, 50.0, 100.0]) == ["0", "50", "100"]
    assert tick_labels([-2e-5, 0.0, 2e-5]) == ["-2e-5", "0", "2e-5"]


def test_the_running_mean_by_hand() -> None:
    """Three wide: the ends have two."""
    np.testing.assert_allclose(running_mean(np.array([0.0, 3.0, 6.0, 0.0])), [1.5, 3.0, 3.0, 3.0])


def test_a_bar_puts_value_interval_and_mark_in_percent() -> None:
    root = ET.fromstring(interval_bar(0.75, 0.5, 0.9, "c1", 0.8))
    dot, spread, mark = (root.find(f".//*[@class='{name}']") for name in ("dot c1", "range c1", "mark"))
    assert dot is not None and dot.get("cx") == "75.00%"
    assert spread is not None and (spread.get("x1"), spread.get("x2")) == ("50.00%", "90.00%")
    assert mark is not None and mark.get("x1") == "80.00%"


def test_a_missing_value_has_no_dot() -> None:
    text = interval_bar(None, None, None)
    assert "circle" not in text and "range" not in text
    assert "100%" in interval_axis()


def points(svg: str, kind: str) -> list[list[tuple[float, float]]]:
    lines = re.findall(rf'<polyline class="{kind} [^"]+" points="([^"]+)"', svg)
    return [[tuple(map(float, point.split(","))) for point in line.split()] for line in lines]  # type: ignore[misc]


def test_a_panel_draws_every_series_inside_its_frame() -> None:
    x = np.arange(1, 31.0)
    svg = panel([Series("a", "c0", x, np.sin(x)), Series("b", "c1", x, -x)], "a label", 0.0)
    assert len(points(svg, "raw")) == len(points(svg, "mean")) == 2
    for line in points(svg, "raw"):
        assert len(line) == 30
        assert all(LEFT <= a <= WIDTH and 0 <= b <= HEIGHT for a, b in line)
    first = points(svg, "raw")[1]
    assert first[0][0] < first[-1][0] and first[0][1] < first[-1][1]  # falls, and y grows downwards


def test_what_is_not_a_number_is_left_out() -> None:
    y = np.array([1.0, np.nan, np.inf, 2.0])
    svg = panel([Series("a", "c0", np.arange(4.0), y)], "loss")
    assert [len(line) for line in points(svg, "raw")] == [2]
    assert "nan" not in svg and "inf" not in svg
    assert "Nothing logged" in panel([Series("a", "c0", np.arange(4.0), np.full(4, np.nan))], "loss")


@pytest.mark.parametrize("value", [0.0, 0.5, -3.0])
def test_a_flat_curve_of_one_point_has_a_place(value: float) -> None:
    svg = panel([Series("a", "c0", np.zeros(1), np.array([value]))], "loss")
    assert len(points(svg, "raw")[0]) == 1


def test_long_curves_are_thinned() -> None:
    x = np.arange(20000.0)
    assert [len(line) for line in points(panel([Series("a", "c0", x, x)], "loss"), "raw")] == [300]


def test_a_label_cannot_break_out() -> None:
    svg = panel([Series("a", "c0", np.arange(3.0), np.arange(3.0))], '"><script>alert(1)</script>')
    assert "<script" not in svg
    assert ET.fromstring(svg).get("aria-label") == '"><script>alert(1)</script>'
