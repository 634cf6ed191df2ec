"""The schema of metrics/rewards/NAME.json as far as the report knows it."""

from pathlib import Path

from pydantic import ConfigDict

from diffalign.core import records
from diffalign.core.records import Record
from diffalign.evaluation.results import Count, Share

FOLDER = Path("metrics/rewards")


class Ranked(Record):
    """How often a reward model ranks a held-out pair as its rater did; None without pairs."""

    model_config = ConfigDict(extra="allow")
    accuracy: Share | None
    ci_low: Share | None
    ci_high: Share | None
    pairs: Count


class RewardModel(Record):
    """What a reward model learnt from, and how well it ranks the validation split's pairs."""

    model_config = ConfigDict(extra="allow")
    name: str
    preferences: Count
    prompts: Count
    step: Count
    before: Ranked
    """Of the weights that its training began from."""
    validation: Ranked


def read(name: str, folder: Path = FOLDER) -> RewardModel:
    """Reads the figures of a reward model's training; UserError if the file is missing or damaged."""
    return records.read(folder / f"{name}.json", RewardModel, f"reward@{name}")
