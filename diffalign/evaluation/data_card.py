"""The schema of metrics/data_card.json: what a user must know of the comparisons before training on them."""

from pathlib import Path
from typing import Literal

from pydantic import Field

from diffalign.core import records
from diffalign.core.records import Record
from diffalign.evaluation.results import Count, Share

FILE = Path("metrics/data_card.json")


class Spread(Record):
    """The smallest, the middle, the 95th of a hundred, and the largest of some numbers."""

    least: float
    median: float
    p95: float
    most: float


class SplitSize(Record):
    """The size of a split."""

    comparisons: Count
    prompts: Count


class Named(Record):
    """How many comparisons, or sides of comparisons, are somebody's."""

    name: str
    comparisons: Count
    share: Share
    """Of all; of a model, of its sides in untied comparisons those that won."""


class Raters(Record):
    """The raters who are named, and whose answers weigh most."""

    named: Count
    unnamed: Count
    """Comparisons whose rater nobody names: all those that are shares of votes, for one."""
    comparisons: Spread | None
    """Of each named rater."""
    most: list[Named]


class Votes(Record):
    """The comparisons that are shares of several votes."""

    comparisons: Count
    votes: Spread | None
    """Of each of them that says how many."""


class Rankings(Record):
    """The comparisons that were made of rankings."""

    rankings: Count
    comparisons: Count


class Position(Record):
    """How often the first image won, among untied comparisons, with its interval over prompts."""

    first: Count
    second: Count
    rate: Share | None
    ci_low: Share | None
    ci_high: Share | None


class Agreement(Record):
    """How far answers to the same two images and prompt agree."""

    pairs: Count
    """Two images of a prompt, on an axis, with two answers or more; others say nothing of agreement."""
    agree: Share | None
    """Of two answers to the same, drawn at random."""
    alpha: float | None
    """Krippendorff's, over the first, the second, a tie and both bad: 1 is perfect, 0 is chance."""


class Images(Record):
    """The images, each once."""

    images: Count
    formats: dict[str, Count]
    width: Spread
    height: Spread
    sizes: int
    """Distinct ones."""


class Prompts(Record):
    """The distinct prompts."""

    prompts: Count
    characters: Spread
    words: Spread


class Example(Record):
    """A comparison that is shown."""

    prompt: str
    image_a: str
    image_b: str
    answer: str
    share: Share | None
    votes: Count | None


class DataCard(Record):
    """The whole file."""

    version: Literal[1] = Field(alias="schema")
    rows: Count
    comparisons: Count
    rejects: dict[str, Count]
    answers: dict[str, Count]
    splits: dict[str, SplitSize]
    sources: list[Named]
    axes: list[Named]
    rater_groups: list[Named]
    raters: Raters
    models: list[Named]
    votes: Votes
    rankings: Rankings
    position: Position
    agreement: Agreement
    images: Images
    prompts: Prompts
    odd: list[str]
    """What is small or odd (`data.odd`)."""
    examples: list[Example]


def read(path: Path = FILE) -> DataCard:
    """Reads the card; UserError if the file is missing or damaged."""
    return records.read(path, DataCard, "card")
