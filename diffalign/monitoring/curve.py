"""A training's curve as it's published, and the probes that stand in it."""

from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path

from pydantic import ConfigDict

from diffalign.core import records
from diffalign.core.records import Record

Point = dict[str, float]
"""The figures of a probe by name; one that can't be had isn't there. In a history it has its `step`, too."""
PREFIX = "probe/"
"""Prefix of a probe's figures among the others of the training curve."""
BINS = 5
"""Equal parts of a policy's range of timesteps, figures t1/... to t5/...; the first has the least noise."""


class Line(Record):
    """One line of a curve: a step and what was logged there, by name."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
    __pydantic_extra__: dict[str, float | None]
    step: int


def read(path: Path, policy: str) -> list[dict[str, float]]:
    """Reads the lines of a policy's curve, what is null left out; UserError if the file is missing or damaged."""
    stage = f"train@{policy}"
    lines = records.read_lines(path, Line, stage)
    if any(later.step <= line.step for line, later in pairwise(lines)):
        raise records.damaged(path, stage, ["expected rising steps"])
    return [{name: value for name, value in line.model_dump().items() if value is not None} for line in lines]


def points(lines: Sequence[dict[str, float]]) -> list[Point]:
    """Returns the probes among the lines of a training curve, without the prefix, each with its `step`."""
    found = ({name.removeprefix(PREFIX): v for name, v in line.items() if name.startswith(PREFIX)} for line in lines)
    return [{"step": line["step"], **point} for line, point in zip(lines, found, strict=True) if point]


def named(point: Point) -> Iterator[tuple[str, float]]:
    """Yields a probe's figures as they stand in the curve."""
    return ((PREFIX + name, value) for name, value in point.items() if name != "step")
