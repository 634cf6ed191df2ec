"""Picks what MLflow shows of a stage's outs: points of curves, single numbers, files. Data stay where they are."""

import json
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field

from diffalign.core import records
from diffalign.monitoring import curve
from diffalign.tracking.dag import flatten

AGAIN = "Make it again: `dvc repro --force --single-item STAGE`, STAGE as `dvc stage list` has it."
SAMPLE = 16
"""Images of a policy that are shown; all of them are in DVC."""
PLOTTED = {
    "loss": "loss",
    "probe/accuracy": "probe/accuracy",
    "validation/accuracy": "probe/accuracy",
    "probe/winner_relative": "probe/winner_relative",
    "probe/loser_relative": "probe/loser_relative",
}
"""Figures of a curve that MLflow plots, with the names that they have there; all are in the artifact `curves`."""
ROLLED = re.compile(r"reward_.+|clip_share|kl|dropped|constant")
"""Figures of policies that learn from their own pictures: plotted, too."""
SCORE = re.compile(r"probe/score_([^/]+)/v.*")
"""The mean score of a probe's images by a reward: plotted, too, without the reward's version."""


class Point(NamedTuple):
    """A metric's value at an optimizer step; single numbers stand at step 0."""

    key: str
    value: float
    step: int


class ImageFile(records.Record):
    """An image in a policy's manifest."""

    model_config = ConfigDict(extra="allow")
    file: str


class Images(records.Record):
    """The manifest of a policy's images."""

    model_config = ConfigDict(extra="allow")
    images: list[ImageFile]


class Policy(records.Record):
    """The part of a policy.json that MLflow shows."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
    conventions: dict[str, int | float] = Field(default_factory=dict)


def curve_points(lines: str) -> list[Point]:
    """Returns the points in lines of a training curve as it's being written; leaves out what isn't a number."""
    return [point for line in lines.splitlines() for point in line_points(json.loads(line))]


def line_points(line: dict[str, Any]) -> list[Point]:
    """Returns the points in a line of a training curve, which has a `step`."""
    return [Point(key, float(v), line["step"]) for key, v in line.items() if key != "step" and _number(v)]


def points(outs: list[str]) -> list[Point]:
    """Returns all points of the curves in a stage's outs."""
    paths = [Path(out) for out in outs if out.startswith("curves/")]
    return [point for path in paths for line in curve.read(path, path.stem) for point in line_points(line)]


def shown(points: Sequence[Point]) -> list[Point]:
    """Returns those points that MLflow plots, under the names that they have there."""
    return [Point(name, point.value, point.step) for point in points if (name := plotted(point.key))]


def plotted(key: str) -> str | None:
    """Returns the name under which MLflow plots a figure of a curve; None for one that it doesn't."""
    score = SCORE.fullmatch(key)
    if score or ROLLED.fullmatch(key):
        return f"probe/score_{score[1]}" if score else key
    return PLOTTED.get(key)


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
        found |= records.read(path, Policy, f"train@{path.parent.name}").conventions
    return found


def files(outs: list[str]) -> list[tuple[Path, str]]:
    """Lists files and folders to keep as artifacts, each with the artifact folder that it goes to.

    Weights aren't among them: they are logged models.
    """
    found: list[tuple[Path, str]] = []
    for out in outs:
        path = Path(out)
        if out.startswith("models/policies/"):
            found.append((path / "policy.json", "policy"))
        elif out.startswith("images/"):
            manifest = records.read(path / "manifest.json", Images, f"generate@{path.name}")
            names = [image.file for image in manifest.images[:SAMPLE]]
            found += [(path / name, "samples") for name in ["manifest.json", *names]]
        elif out == "reports":
            found.append((path, "report"))
        elif out == "data/shards":
            found.append((path / "manifest.json", "shards"))
        elif out.startswith(("curves/", "metrics/")):
            found.append((path, path.parent.name))
    return found


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
