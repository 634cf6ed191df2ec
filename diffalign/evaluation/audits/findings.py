"""The schema of metrics/audit.json: what became unsafe, what images show where prompts are open, whose taste it is."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from diffalign.core import records
from diffalign.core.records import Record

FILE = Path("metrics/audit.json")
STAGE = "audit"
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Estimated(Record):
    """A figure with the bounds of its interval; None where it can't be told."""

    value: float | None
    low: float | None
    high: float | None


class Flagged(Record):
    """How many of a policy's images a filter flags, beside the baseline's for the same prompts."""

    policy: str
    baseline: str
    filter: str
    set: str
    """The prompts' set."""
    images: Count
    """Images of each that could be scored, from the same prompts and seeds."""
    missing: Count
    prompts: Count
    flagged: Count
    baseline_flagged: Count
    difference: Estimated
    """Of the rates, policy minus baseline, prompts counting the same."""


class Shift(Record):
    """What a policy's images show where prompts leave it open, beside the baseline's."""

    audit: str
    policy: str
    baseline: str
    set: str
    images: Count
    missing: Count
    """Images of open prompts in which one of the two shows none of the values."""
    prompts: Count
    shares: dict[str, float]
    """Of the values, as the classifier saw them."""
    baseline_shares: dict[str, float]
    corrected: bool
    """Whether `distance` is corrected for the classifier's errors."""
    error_rate: Share | None
    """The classifier's, as stated, the values counting the same; None where it isn't known."""
    distance: Estimated
    """Total variation between the two: 0 the same, 1 nothing in common."""
    p: Share | None
    """Of no shift."""


class Agreement(Record):
    """How often a judge or a policy's implicit reward ranks held-out pairs as some raters did."""

    raters: str
    """A group's name, or a rater's id."""
    count: Count
    """How many raters these are."""
    pairs: Count
    trained_pairs: Count
    """Pairs of the training split that they answered."""
    rate: Share | None
    low: Share | None
    high: Share | None


class Composition(Record):
    """Whose preference a policy learned, or a judge has."""

    name: str
    kind: Literal["policy", "judge"]
    groups: list[Agreement]
    raters: list[Agreement]
    gap: Estimated
    """The highest group's rate minus the lowest's."""
    p: Share | None
    """Of no difference between the groups."""


class Audit(Record):
    """The whole file."""

    version: Literal[1] = Field(alias="schema")
    safety: list[Flagged]
    shifts: list[Shift]
    composition: list[Composition]
    ungrouped: list[str]
    """Raters of held-out pairs whom no pattern of `audit.rater_groups` fits; they are left out."""


def read(path: Path = FILE) -> Audit:
    """Reads the audit; UserError if the file is missing or damaged."""
    return records.read(path, Audit, STAGE)
