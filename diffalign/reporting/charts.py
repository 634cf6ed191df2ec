"""Rates as words, and the report's charts as inline SVG: colours are CSS classes of report.html, light and dark."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from markupsafe import Markup, escape
from numpy.typing import NDArray

Floats = NDArray[np.float64]
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 380, 214, 52, 18, 8, 38  # of a panel, in its own units, about CSS pixels
POINTS = 300  # at most, in a line: beyond it neighbours are averaged
STEPS = "optimizer steps"
"""The name of the horizontal axis, where it isn't another."""


@dataclass(frozen=True)
class Series:
    """One line of a panel: its name, its CSS class (c0, c1, ...), and its points [N], with intervals if it has any."""

    name: str
    style: str
    x: Floats
    y: Floats
    low: Floats | None = None
    high: Floats | None = None

    @property
    def extent(self) -> Floats:
        """Returns all heights that are drawn."""
        return np.concatenate([part for part in (self.y, self.low, self.high) if part is not None])


def interval_bar(
    value: float | None,
    low: float | None,
    high: float | None,
    style: str = "c0",
    mark: float | None = None,
    half: bool = True,
) -> Markup:
    """Draws a share on a line from 0 to 1: its dot and interval, a tick at `mark`, a thin line at one `half`.

    As wide as its place (x is in percent), 26 px high. Nothing but the line where the value is missing.
    """
    parts = ['<line class="axis" x1="0" x2="100%" y1="13" y2="13"/>']
    if half:
        parts.append('<line class="half" x1="50%" x2="50%" y1="2" y2="24"/>')
    if mark is not None:
        parts.append(f'<line class="mark" x1="{_percent(mark)}" x2="{_percent(mark)}" y1="3" y2="23"/>')
    if low is not None and high is not None:
        parts.append(
            f'<line class="range {escape(style)}" x1="{_percent(low)}" x2="{_percent(high)}" y1="13" y2="13"/>'
        )
    if value is not None:
        parts.append(f'<circle class="dot {escape(style)}" cx="{_percent(value)}" cy="13" r="5.5"/>')
    return Markup('<svg class="bar" aria-hidden="true">{}</svg>').format(Markup("".join(parts)))


def interval_axis() -> Markup:
    """Draws the scale beneath interval bars, 0% to 100%."""
    anchors = {0: "start", 100: "end"}
    labels = [
        f'<text x="{p}%" y="11" text-anchor="{anchors.get(p, "middle")}">{p}%</text>' for p in (0, 25, 50, 75, 100)
    ]
    return Markup('<svg class="bar scale" aria-hidden="true">{}</svg>').format(Markup("".join(labels)))


def panel(series: Sequence[Series], label: str, level: float | None = None, axis: str = STEPS) -> Markup:
    """Draws lines over training steps, or over what `axis` names; a line at `level`.

    Each series is faint as logged, strong as its running mean.

    A series with intervals is drawn as its points are, a bar at each.

    `label` describes the panel to those who can't see it. Points that aren't finite are left out.
    """
    series = [s for s in (_finite(s) for s in series) if len(s.x)]
    if not series:
        return Markup('<p class="note">Nothing logged.</p>')
    ys = np.concatenate([s.extent for s in series] + ([np.array([level])] if level is not None else []))
    xs = np.concatenate([s.x for s in series])
    y_ticks = ticks(float(ys.min()), float(ys.max()))
    x_ticks = [t for t in ticks(0.0, float(xs.max())) if t <= xs.max()]
    low, high = min(y_ticks[0], float(ys.min())), max(y_ticks[-1], float(ys.max()))
    width, height = WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM

    def across(x: float) -> float:
        return round(LEFT + width * x / max(float(xs.max()), 1e-12), 1)

    def up(y: float) -> float:
        return round(TOP + height * (high - y) / (high - low), 1)

    parts = []
    for tick, text in zip(y_ticks, tick_labels(y_ticks), strict=True):
        parts.append(f'<line class="gridline" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(tick)}" y2="{up(tick)}"/>')
        parts.append(f'<text x="{LEFT - 5}" y="{up(tick) + 4}" text-anchor="end">{text}</text>')
    for tick, text in zip(x_ticks, tick_labels(x_ticks), strict=True):
        parts.append(f'<text x="{across(tick)}" y="{HEIGHT - 20}" text-anchor="middle">{text}</text>')
    if level is not None:
        parts.append(f'<line class="half" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{up(level)}" y2="{up(level)}"/>')
    for s in series:
        style = escape(s.style)
        drawn = [("raw", s.y), ("mean", running_mean(s.y))]
        if s.low is not None and s.high is not None:
            drawn = [("mean", s.y)]
            for a, bottom, top in zip(map(across, s.x), map(up, s.low), map(up, s.high), strict=True):
                parts.append(f'<line class="whisker {style}" x1="{a}" x2="{a}" y1="{bottom}" y2="{top}"/>')
        for kind, y in drawn:
            points = " ".join(f"{across(a)},{up(b)}" for a, b in zip(s.x, y, strict=True))
            parts.append(f'<polyline class="{kind} {style}" points="{points}"/>')
    parts.append(axis_name(axis))
    svg = Markup('<svg class="panel" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(WIDTH, HEIGHT, label, Markup("".join(parts)))


def heat(rows: Sequence[Sequence[float | None]], names: Sequence[str], columns: Sequence[int], label: str) -> Markup:
    """Draws a row of cells for each name, a column for each step: stronger further from zero, c1 above, c3 below.

    The last column's values stand beside it; each cell tells its own. A missing one is empty.
    """
    known = [abs(value) for row in rows for value in row if value is not None and math.isfinite(value)]
    most = max(known, default=0.0) or 1.0
    left, right = LEFT + 20, RIGHT + 30
    wide, tall = (WIDTH - left - right) / max(len(columns), 1), (HEIGHT - TOP - BOTTOM) / max(len(rows), 1)
    parts = []
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        y = TOP + i * tall
        parts.append(f'<text x="{left - 5}" y="{y + tall / 2 + 4:.1f}" text-anchor="end">{escape(name)}</text>')
        for j, value in enumerate(row):
            if value is not None and math.isfinite(value):
                parts.append(
                    f'<rect class="cell {"c1" if value > 0 else "c3"}" x="{left + j * wide:.1f}" y="{y:.1f}" '
                    f'width="{wide:.1f}" height="{tall:.1f}" fill-opacity="{abs(value) / most:.2f}">'
                    f"<title>step {columns[j]}: {value:+.1%}</title></rect>"
                )
        if row and row[-1] is not None:
            parts.append(f'<text x="{WIDTH - right + 5}" y="{y + tall / 2 + 4:.1f}">{row[-1]:+.0%}</text>')
    ends = dict.fromkeys((0, len(columns) - 1)) if columns else {}
    for j in ends:
        parts.append(
            f'<text x="{left + (j + 0.5) * wide:.1f}" y="{HEIGHT - 20}" text-anchor="middle">{columns[j]}</text>'
        )
    parts.append(axis_name(STEPS))
    svg = Markup('<svg class="panel" viewBox="0 0 {} {}" role="img" aria-label="{}">{}</svg>')
    return svg.format(WIDTH, HEIGHT, label, Markup("".join(parts)))


def axis_name(name: str) -> str:
    """Draws the name of the horizontal axis."""
    return f'<text x="{(LEFT + WIDTH - RIGHT) / 2:g}" y="{HEIGHT - 4}" text-anchor="middle">{escape(name)}</text>'


def running_mean(y: Floats) -> Floats:
    """Returns the centred mean over a tenth of the points (at least three), [N]; narrower at the ends."""
    half = max(len(y) // 20, 1)
    total = np.concatenate([[0.0], np.cumsum(y)])
    i = np.arange(len(y))
    low, high = np.maximum(i - half, 0), np.minimum(i + half + 1, len(y))
    return np.asarray((total[high] - total[low]) / (high - low))


def ticks(low: float, high: float, count: int = 4) -> list[float]:
    """Returns about `count` round numbers, at least two, 1, 2 or 5 times a power of ten apart, that cover low..high."""
    span = high - low or abs(high) or 1.0
    step = 10.0 ** math.floor(math.log10(span / count))
    step *= next(m for m in (1, 2, 5, 10) if span / (step * m) <= count)
    first = math.floor(low / step + 1e-9)
    last = max(math.ceil(high / step - 1e-9), first + 1)
    return [i * step for i in range(first, last + 1)]


def tick_labels(values: Sequence[float]) -> list[str]:
    """Returns labels with as many decimals as tell the values apart; powers of ten where they are tiny."""
    gap = min((b - a for a, b in pairwise(values)), default=abs(values[0]) or 1.0)
    finest = math.floor(math.log10(gap) + 1e-9)
    if finest >= -4:
        return [f"{v:.{max(-finest, 0)}f}" if v else "0" for v in values]
    power = math.floor(math.log10(max(map(abs, values))) + 1e-9)
    return [f"{v / 10.0**power:.{power - finest}f}e{power}" if v else "0" for v in values]


def _percent(value: float) -> str:
    return f"{100 * min(max(value, 0.0), 1.0):.2f}%"


def _finite(series: Series) -> Series:
    """Returns a series without points that aren't finite, averaged down to POINTS."""
    known = np.isfinite(series.x) & np.isfinite(series.y)

    def kept(values: Floats | None) -> Floats | None:
        if values is None or len(values[known]) <= POINTS:
            return None if values is None else values[known]
        return np.array([part.mean() for part in np.array_split(values[known], POINTS)])

    x, y = kept(series.x), kept(series.y)
    assert x is not None and y is not None
    return Series(series.name, series.style, x, y, kept(series.low), kept(series.high))
