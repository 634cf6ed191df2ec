"""The schema of metrics/study.json: the study's runs, and the verdicts on its claims."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.core.records import R, Record
from diffalign.evaluation.results import Count, Share

FILE = Path("metrics/study.json")
SCHEMA = 2
"""Raised when what is read here changes."""
Verdict = Literal["reproduced", "not reproduced", "can't be told", "not run yet"]


class Line(Record):
    """A line of a claim: what was expected, what was seen, and whether it holds; None where it can't be told."""

    expected: str
    seen: str
    holds: bool | None


class Claim(Record):
    """A claim, its source, and its verdict."""

    claim: str
    source: str
    lines: list[Line]
    verdict: Verdict


class Group(Record):
    """Runs that are shown together, by their names, and the claims that they test."""

    name: str
    title: str
    runs: list[str]
    claims: list[Claim]


class Alarm(Record):
    """An alarm that was raised in a run's training."""

    name: str
    step: Count
    last: Count
    value: float
    threshold: float


class Accuracy(Record):
    """How often a run's implicit reward ranks a held-out pair as its rater did."""

    win_rate: Share | None
    ci_low: Share | None
    ci_high: Share | None
    pairs: Count


class HeadToHead(Record):
    """How often images won over others for the same prompts, from the same noise."""

    wins: Count
    ties: Count
    losses: Count
    prompts: Count
    win_rate: Share | None
    ci_low: Share | None
    ci_high: Share | None


class Run(HeadToHead):
    """A run's figures, those over the base among them.

    `end` has the means of its curve's last points, `course` what rewards did over pictures made.
    """

    label: str
    of: str
    changes: dict[str, Any]
    asked: str
    score: float | None
    moved: float
    kl: float
    """Nats a picture from the base, of the chains that make pictures."""
    accuracy: Accuracy | None
    """None of policies that learn from their own pictures: they know no pairs."""
    end: dict[str, float]
    course: dict[str, list[tuple[float, float]]]
    """Figures by name: pictures made, and the figure there."""
    training_seconds: float
    """Of CPU, about those of an idle core."""
    alarms: list[Alarm] | None
    chosen: Count
    commit: str


class Base(Record):
    """The model before alignment."""

    label: str
    score: float | None


class Study(Record):
    """The whole file."""

    version: Literal[2] = Field(alias="schema")
    judge: str
    split: str
    prompts: Count
    steps: int | None
    draws: Count
    commit: str
    rule: str
    confidence: float
    resamples: Count
    base: Base
    runs: dict[str, Run]
    groups: list[Group]


def read(path: Path = FILE) -> Study:
    """Reads the study's results; UserError if the file is missing, damaged or another version's."""
    return read_as(path, Study, f"{COMMAND} study")


def read_as(path: Path, model: type[R], command: str) -> R:
    """Reads a file that no stage makes but a command of the study; UserError naming that, see `read`."""
    text = records.text_of(path, "study")
    try:
        return records.parse(text, path, model, "study")
    except UserError as error:
        what = str(error).partition(" Make it again")[0]
        raise UserError(f"{what} Make it again ({command}) or remove it.") from None
