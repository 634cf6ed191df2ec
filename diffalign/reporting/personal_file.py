"""The schema of metrics/personal.json: the study's personal policies by each group of raters, and the verdicts."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from diffalign.core.home import COMMAND
from diffalign.core.records import Record
from diffalign.evaluation.results import Count
from diffalign.reporting import study_file
from diffalign.reporting.study_file import Claim, HeadToHead

FILE = Path("metrics/personal.json")
SCHEMA = 1
"""Raised when what is read here changes."""


class Rate(HeadToHead):
    """How often a policy's images win over the base's by a group, over the seeds that were made of those meant."""

    seeds: Count
    meant: Count


class Policy(Record):
    """A policy, what it is in words, the group whose own it is, or None, and its rates by group."""

    name: str
    label: str
    own: str | None
    by: dict[str, Rate]


class Personal(Record):
    """The whole file."""

    version: Literal[1] = Field(alias="schema")
    split: str
    prompts: Count
    steps: int | None
    """Of all trainings, for a quick look; None: each policy's own."""
    world: str
    """Of the simulated raters."""
    confidence: float
    rule: str
    seeds: list[int]
    """Of training, those that were made."""
    meant: Count
    seconds: list[float]
    """Of CPU, a seed each."""
    commits: list[str]
    groups: list[str]
    policies: list[Policy]
    claims: list[Claim]


def read(path: Path = FILE) -> Personal:
    """Reads the personal policies' results; UserError if the file is missing, damaged or another version's."""
    return study_file.read_as(path, Personal, f"{COMMAND} study --only personal")
