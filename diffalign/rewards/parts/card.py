"""The card of a reward model that this project trained: `reward.json` beside its weights."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from diffalign.core import records
from diffalign.core.records import Record

FILE = "reward.json"
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Accuracy(Record):
    """How often the scores rank a held-out pair as its rater did, with its interval; None without pairs.

    `loss` is their mean cross-entropy with the raters' answers, in nats: ln 2 for a coin.
    """

    accuracy: Share | None
    ci_low: Share | None
    ci_high: Share | None
    loss: float | None
    pairs: Count


class Card(Record):
    """Says of a reward model what it learnt from, how well it agrees with held-out raters, and how it was made."""

    version: Literal[1] = Field(1, alias="schema")
    name: str
    preferences: Count
    """Comparisons of the train split that it learnt from."""
    ties: Count
    """Ties among them, or equal votes."""
    prompts: Count
    images: Count
    raters: list[str]
    """Ids of the raters, where some were chosen; empty: all."""
    sha256: str
    """Of the weights' file."""
    step: Count
    """The optimizer step whose weights these are."""
    before: Accuracy
    """On the validation split, of the weights that training began from."""
    validation: Accuracy
    """On the validation split, of these weights. Where they were chosen by it, it flatters them."""
    settings: dict[str, Any]
    """Its section of params.yaml."""
    init_fingerprint: str
    """The hash of the weights that training began from."""
    environments: list[dict[str, Any]]
    """What trained it, each with the step it took over at, `from_step`."""


def read(folder: Path) -> Card:
    """Reads a card; UserError where it's missing or damaged."""
    return records.read(folder / FILE, Card, f"reward@{folder.name}")
