"""Picks what MLflow shows of a stage's outs: points of curves, single numbers, files. Data stay where they are."""

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import ConfigDict, Field

from diffalign.core import records
from diffalign.evaluation import people_results
from diffalign.evaluation import results as evaluations
from diffalign.evaluation.people_results import People
from diffalign.evaluation.results import Evaluation
from diffalign.monitoring import curve
from diffalign.tracking.dag import flatten

AGAIN = "Make it again: `dvc repro --force --single-item STAGE`, STAGE as `dvc stage list` has it."
SAMPLE = 16
"""Images of a policy that are shown; all of them are in DVC."""


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
    """Returns all points and single numbers in a stage's outs."""
    found = []
    for out in outs:
        path = Path(out)
        if out.startswith("curves/"):
            found += [point for line in curve.read(path, path.stem) for point in line_points(line)]
        elif path == evaluations.FILE:
            found += [Point(key, value, 0) for key, value in results(evaluations.read(path))]
        elif path == people_results.FILE:
            found += [Point(key, value, 0) for key, value in by_people(people_results.read(path))]
        elif path.suffix == ".json":
            values = flatten(records.plain(path, (), AGAIN))
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
        found |= records.read(path, Policy, f"train@{path.parent.name}").conventions
    return found


def results(evaluation: Evaluation) -> Iterator[tuple[str, float]]:
    """Yields name and value of each result in `metrics/evaluate.json`, e.g. `oracle/dpo_over_base/win_rate`.

    Where prompts are of several sets, the set follows the judge: `oracle/test/dpo_over_base/win_rate`.
    """
    rows = [*evaluation.comparisons, *evaluation.head_to_heads]
    several = len({row.set for row in rows}) > 1
    for row in rows:
        judge = f"{row.scorer}/{row.set}" if several else row.scorer
        for key in ("win_rate", "ci_low", "ci_high", "p", "p_holm", "effect"):
            if (value := getattr(row, key)) is not None:
                yield f"{judge}/{row.policy}_over_{row.baseline}/{key}", value
    for alarm in evaluation.alarms:
        if alarm.figure is not None:
            yield f"alarms/{alarm.name}/{alarm.policy}", alarm.figure
    for accuracy in evaluation.implicit_reward:
        for key in ("accuracy", "ci_low", "ci_high", "ceiling"):
            if (value := getattr(accuracy, key)) is not None:
                yield f"implicit_reward/{accuracy.policy}/{key}", value


def by_people(found: People) -> Iterator[tuple[str, float]]:
    """Yields name and value of each win rate by votes, such as `people/overall/dpo_over_base/win_rate`."""
    yield "people/votes", float(found.votes)
    for row in found.win_rates:
        for key in ("win_rate", "ci_low", "ci_high"):
            if (value := getattr(row, key)) is not None:
                yield f"people/{row.question}/{row.policy}_over_{row.baseline}/{key}", value


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
            manifest = records.read(path / "manifest.json", Images, f"generate@{path.name}")
            names = [image.file for image in manifest.images[:SAMPLE]]
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
