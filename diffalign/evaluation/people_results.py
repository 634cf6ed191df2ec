"""The schema of metrics/people.json: what people's votes say of the policies, and how far the votes can be trusted."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from diffalign.core import records
from diffalign.core.records import Record
from diffalign.data.votes import Question
from diffalign.evaluation.results import Count, Share

FILE = Path("metrics/people.json")
STAGE = "people"


class Rate(Record):
    """A share with its interval over prompts, of `votes`; None where no vote counts."""

    votes: Count
    rate: Share | None
    ci_low: Share | None
    ci_high: Share | None


class WinRate(Record):
    """How often people chose one policy's image over another's; ties and both bad count half."""

    policy: str
    baseline: str
    question: Question
    prompts: Count
    wins: Count
    ties: Count
    """Both bad among them."""
    both_bad: Count
    losses: Count
    win_rate: Share | None
    ci_low: Share | None
    ci_high: Share | None
    raters: Count
    raters_for: Count
    """Raters who chose the policy more often than the baseline."""


class Estimate(Record):
    """A log-odds with its interval."""

    value: float
    ci_low: float
    ci_high: float


class Strength(Estimate):
    """A policy's strength against the first in the list."""

    policy: str


class Model(Record):
    """Bradley and Terry's model of the answers to one question; its parts are None where no finite one fits."""

    question: Question
    votes: Count
    prompts: Count
    strengths: list[Strength] | None
    position: Estimate | None
    """The left image's advantage."""
    tie: Estimate | None


class Agreement(Record):
    """Krippendorff's alpha of raters who voted on one pair: 1 is full agreement, 0 what chance would give."""

    question: Question
    pairs: Count
    """Pairs with two raters or more."""
    alpha: float | None
    ci_low: float | None
    ci_high: float | None
    agree: Share | None
    """Share of pairs of raters who gave one answer."""


class Sides(Record):
    """Signs of voting by the side instead of the image."""

    question: Question
    left: Rate
    """Share of the left among votes for one image: half, where the side doesn't matter."""
    consistent: Rate
    """Share of pairs shown again with sides swapped that got an answer of the same meaning."""


class Checks(Record):
    """The checks of attention, and whom they left out."""

    rule: str
    answered: Count
    passed: Count
    raters_failed: Count
    votes_left_out: Count
    """Votes on pairs of raters who failed."""


class People(Record):
    """The whole file. Its lists are empty where nobody voted."""

    version: Literal[1] = Field(alias="schema")
    simulated: bool
    """Whether a program was among the raters."""
    raters: Count
    votes: Count
    """Votes on pairs that count: first showings, not skipped, of raters who didn't fail, of images that are there."""
    skipped: Count
    other_images: Count
    """Votes on images that aren't those in `images/` any more."""
    checks: Checks
    win_rates: list[WinRate]
    strengths: list[Model]
    agreement: list[Agreement]
    sides: list[Sides]


def read(path: Path = FILE) -> People:
    """Reads the results; UserError if the file is missing or damaged."""
    return records.read(path, People, STAGE)
