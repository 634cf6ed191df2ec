"""Picks what MLflow shows of a stage's outs: points of curves, single numbers, files. Data stay where they are."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from diffalign.core import records
from diffalign.monitoring import curve
from diffalign.tracking.dag import flatten

AGAIN = "Make it again: `dvc repro --force --single-item"
SAMPLE = 16
"""Images of a policy that are shown; all of them are in DVC."""


class Point(NamedTuple):
    """A metric's value at an optimizer step; single numbers stand at step 0."""

    key: str
    value: float
    step: int


def curve_points(lines: str) -> list[Point]:
    """Returns the points in a training curve, one JSON object a line with `step`; leaves out what isn't a number."""
    points = []
    for line in lines.splitlines():
        values = json.loads(line)
        points += [Point(key, float(v), values["step"]) for key, v in values.items() if key != "step" and _number(v)]
    return points


def points(outs: list[str]) -> list[Point]:
    """Returns all points and single numbers in a stage's outs."""
    found = []
    for out in outs:
        path = Path(out)
        if out.startswith("curves/"):
            found += curve_points(path.read_text())
        elif out == "metrics/evaluate.json":
            found += [
                Point(key, value, 0)
                for key, value in results(records.plain(path, ("comparisons", "implicit_reward"), f"{AGAIN} evaluate`"))
            ]
        elif path.suffix == ".json":
            values = flatten(records.plain(path, (), f"{AGAIN} STAGE` for the stage that makes it"))
            found += [Point(key.replace(".", "/"), float(v), 0) for key, v in values.items() if _number(v)]
    return found


def alarm_text(logged: Sequence[Point], params: dict[str, Any]) -> str:
    """Describes the alarms that a training curve's probes raised, as Markdown; "" where there are none.

    `params` is params.yaml, or what dvc.lock has of it under dotted names; a threshold that isn't there raises none.
    """
    from diffalign.monitoring import alarms  # it imports scipy, half a second that only trainings need

    lines: dict[int, dict[str, float]] = {}
    for point in logged:
        lines.setdefault(point.step, {"step": point.step})[point.key] = point.value
    limits = flatten(params)
    thresholds = {name: limits.get(f"probe.{name}") for name in alarms.ALARMS}
    raised = alarms.listed(curve.points(list(lines.values())), thresholds)
    return "\n\n".join(f"**{alarm.name}**, {alarm.when}: {alarm.explanation}" for alarm in raised)


def conventions(outs: list[str]) -> dict[str, float]:
    """Returns a trained policy's beta and learning rate in other code's conventions, as its policy.json has them."""
    found: dict[str, float] = {}
    for path in (Path(out) / "policy.json" for out in outs if out.startswith("models/policies/")):
        found |= records.plain(path, (), f"{AGAIN} train@{path.parent.name}`").get("conventions", {})
    return found


def results(evaluation: dict[str, Any]) -> Iterator[tuple[str, float]]:
    """Yields name and value of each result in `metrics/evaluate.json`, e.g. `oracle/dpo_over_base/win_rate`."""
    for row in evaluation["comparisons"]:
        for key in ("win_rate", "ci_low", "ci_high"):
            if row[key] is not None:
                yield f"{row['scorer']}/{row['policy']}_over_{row['baseline']}/{key}", row[key]
    for row in evaluation["implicit_reward"]:
        for key in ("accuracy", "ci_low", "ci_high", "ceiling"):
            if row[key] is not None:
                yield f"implicit_reward/{row['policy']}/{key}", row[key]


def files(outs: list[str], heavy: bool = True) -> list[tuple[Path, str]]:
    """Lists files and folders to keep as artifacts, each with the artifact folder that it goes to.

    Without `heavy` models and images are left out: another run with the same fingerprint has them.
    """
    found: list[tuple[Path, str]] = []
    for out in outs:
        path = Path(out)
        if out.startswith("models/") and heavy:
            found.append((path, "model"))
        elif out.startswith("images/") and heavy:
            listed = records.plain(path / "manifest.json", ("images",), f"{AGAIN} generate@{path.name}`")["images"]
            names = [image["file"] for image in listed[:SAMPLE]]
            found += [(path / name, "images") for name in ["manifest.json", *names]]
        elif out == "reports":
            found.append((path, "report"))
        elif out == "data/shards":
            found.append((path / "manifest.json", "shards"))
        elif out.startswith(("curves/", "metrics/")):
            found.append((path, path.parent.name))
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
