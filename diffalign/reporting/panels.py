"""Panels of a policy's training: its curves, its probes of held-out draws, the alarms that they raised, pictures."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.monitoring import alarms
from diffalign.monitoring.alarms import Thresholds
from diffalign.monitoring.curve import BINS, Point
from diffalign.reporting import charts, thumbnails
from diffalign.reporting.charts import Series

Z = 1.96
"""Standard errors to each side of an estimate: a 95% interval."""
PICTURES = 6
"""Pictures of a training that are shown, at most, evenly spaced; the last is among them."""
LARGEST = 1024
"""Pixels a side beyond which such a picture is shrunk."""
WANTED: list[tuple[str, float | None, list[tuple[str, str, str]]]] = [
    ("Margin, mean squared error", 0.0, [("margin", "margin", "c0")]),
    ("Implicit accuracy, share of pairs", 0.5, [("accuracy", "accuracy", "c0")]),
    (
        "Error change, share of the reference's",
        0.0,
        [("winner_relative", "winners", "c3"), ("loser_relative", "losers", "c1")],
    ),
    ("Saturated draws, share", None, [("saturated", "saturated", "c2")]),
]
"""Title, level, and (figure, its name, its colour) of each panel over probes."""


def probe_panels(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Returns the panels of one policy's probes, with 95% intervals; judges' scores where pictures were made."""
    judged = dict.fromkeys(name for point in points for name in point if name.startswith("score_"))
    scores = [(f"Mean {score_name(name)} score", None, [(name, "score", "c4")]) for name in judged]
    panels: list[dict[str, Any]] = []
    for title, level, columns in [*WANTED, *scores]:
        series = [line for column in columns if (line := over_probes(points, *column)) is not None]
        if series:
            legend = [{"name": s.name, "style": s.style} for s in series] if len(columns) > 1 else []
            svg = charts.panel(series, f"{title}, on held-out draws, over training steps", level)
            panels.append({"title": title, "legend": legend, "svg": svg})
    return panels + bin_panels(points)


def score_name(figure: str) -> str:
    """Returns the reward that a probe's figure `score_NAME/vVERSION` is by, in words."""
    name, _, version = figure.removeprefix("score_").partition("/v")
    return f"{name} (version {version})"


def over_probes(points: Sequence[Point], figure: str, name: str, style: str) -> Series | None:
    """Returns one figure with its interval where it has one; None where no probe has it."""
    seen = [point for point in points if figure in point]
    if not seen:
        return None
    y = np.array([point[figure] for point in seen])
    half = np.array([Z * point.get(f"{figure}_se", 0.0) for point in seen])
    low = np.array([point.get(f"{figure}_low", value) for point, value in zip(seen, y - half, strict=True)])
    high = np.array([point.get(f"{figure}_high", value) for point, value in zip(seen, y + half, strict=True)])
    return Series(name, style, np.array([point["step"] for point in seen], np.float64), y, low, high)


def bin_panels(points: Sequence[Point]) -> list[dict[str, Any]]:
    """Returns winners' relative error change by part of the timesteps, a row each, the noisiest at the top."""
    figure = "t{}/winner_relative"
    rows = [
        [point.get(figure.format(bin_)) for point in points]
        for bin_ in range(BINS, 0, -1)
        if any(figure.format(bin_) in point for point in points)
    ]
    if not rows:
        return []
    title = "Winners' error change by noise, share of the reference's"
    names = ["most noise", *[""] * (len(rows) - 2), "least noise"][: len(rows)]
    label = f"{title}, a column for each probe"
    return [{"title": title, "legend": [], "svg": charts.heat(rows, names, [int(p["step"]) for p in points], label)}]


def gradient_panel(lines: Sequence[Mapping[str, float]]) -> list[dict[str, Any]]:
    """Returns the panel of the gradient's norm before clipping, where it was logged."""
    points = [(line["step"], line["grad_norm"]) for line in lines if line.get("grad_norm") is not None]
    if not points:
        return []
    svg = charts.panel(
        [Series("norm", "c5", *np.array(points, np.float64).T)], "Gradient norm before clipping, over training steps"
    )
    return [{"title": "Gradient norm before clipping", "legend": [], "svg": svg}]


def raised(points: Sequence[Point], thresholds: Thresholds) -> list[dict[str, str]]:
    """Returns the alarms of one training, each with when and why."""
    return [
        {"name": alarm.name, "when": alarm.when, "text": alarm.explanation}
        for alarm in alarms.listed(points, thresholds)
    ]


def chosen(choose: str, points: Sequence[Point], thresholds: Thresholds) -> str:
    """Says which step's weights were published, where a probe chose it."""
    if choose == "last":
        return ""
    step, why = alarms.best(points, thresholds)
    return f"Published: step {step}, {why}."


def pictures(folder: Path, limit: int) -> list[dict[str, str]]:
    """Returns the pictures made while a policy trained, `step-XXXXXX.png` in a folder that needn't be there.

    Each has at most `limit` bytes.
    """
    found = sorted(folder.glob("step-*.png"))
    places = np.linspace(len(found) - 1, 0, min(len(found), PICTURES)).round().astype(int)[::-1]
    return [
        {
            "title": f"step {int(path.stem.removeprefix('step-'))}",
            "uri": thumbnails.data_uri(path.read_bytes(), limit, LARGEST),
        }
        for path in (found[i] for i in places)
    ]


def curve_panels(lines: Sequence[Mapping[str, float]], learnt_from: str = "pairs") -> list[dict[str, Any]]:
    """Returns the panels of one policy's training: loss, implicit accuracy, error changes; those that were logged."""
    panels: list[dict[str, Any]] = []
    wanted: list[tuple[str, float | None, dict[str, tuple[str, str]]]] = [
        (f"Loss, mean over {learnt_from}", None, {"loss": ("loss", "c0")}),
        ("Implicit accuracy, share of training pairs", 0.5, {"implicit_accuracy": ("accuracy", "c0")}),
        (
            "Error change against the reference, mean squared error",
            0.0,
            {"winner_change": ("winners", "c3"), "loser_change": ("losers", "c1")},
        ),
    ]
    for title, level, columns in wanted:
        series = []
        for column, (name, style) in columns.items():
            points = [(line["step"], line[column]) for line in lines if line.get(column) is not None]
            if points:
                series.append(Series(name, style, *np.array(points, np.float64).T))
        if series:
            legend = [{"name": s.name, "style": s.style} for s in series] if len(columns) > 1 else []
            svg = charts.panel(series, f"{title} over training steps", level)
            panels.append({"title": title, "legend": legend, "svg": svg})
    return panels
