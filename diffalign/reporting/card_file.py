"""The facts of a policy's model card, reports/cards/NAME/card.json: exports and their metadata take them from there."""

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from diffalign.core import records
from diffalign.core.records import Record

CARDS = Path("reports/cards")
FACTS, TEXT, PICTURE = "card.json", "README.md", "images.png"
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=0)]


class WinRate(Record):
    """A policy's images against the baseline's, by one judge over one set of prompts."""

    judge: str
    set: str
    """The prompts' set."""
    baseline: str
    rate: Share
    """Ties count half."""
    low: Share | None
    """The lower bound of the interval over whole prompts; None where it has none."""
    high: Share | None
    prompts: Count
    in_family: bool
    """Whether the judge learnt from what one of the two policies learnt from."""
    simulated: bool
    """Whether the judge is a program that reads the demo's pictures."""


class Judge(Record):
    """A judge, and what it learnt from."""

    name: str
    version: str
    trained_on: str


class License(Record):
    """A licence by the hub's name for it; `other` has a name and a link of its own."""

    id: str
    name: str | None
    link: str | None


class Card(Record):
    """The facts of a model card."""

    version: Literal[1] = Field(1, alias="schema")
    policy: str
    weights: str
    """What `fingerprint` gives for the policy's folder."""
    title: str
    """The report's title."""
    pipeline: str
    """Stock diffusers' class that loads it."""
    method: str
    """Its name in params.yaml."""
    adapter: Literal["none", "full", "lora"]
    base: str
    """The folder where its training started."""
    base_repo: str | None
    """That folder's repository on the hub; None is unknown."""
    license: License | None
    """The base's; None is unknown."""
    data: tuple[str, ...]
    """Where the comparisons come from."""
    data_repos: tuple[str, ...]
    """Their repositories on the hub, as far as is known."""
    comparisons: Count
    simulated: bool
    """Whether raters are programs."""
    pairs: Count | None
    """Pairs that it learnt from; None where its file doesn't say."""
    settings: dict[str, str]
    """Of the training, as text."""
    confidence: Share
    """Of the intervals."""
    win_rates: tuple[WinRate, ...]
    judges: tuple[Judge, ...]
    alarms: tuple[str, ...]
    """In words; of the training and of the images."""
    gate: str | None
    """The gate's verdict; None where it wasn't asked."""
    caveats: tuple[str, ...]
    resolution: Count
    """Pixels a side."""
    sampling: dict[str, str]
    """How its images were made, as text."""
    captions: tuple[str, ...]
    """Of the picture, in its order; empty without one."""
    commit: str
    """Of the code; `none` outside of a repository."""


def read(policy: str, folder: Path) -> Card | None:
    """Reads a policy's facts; None where there are none, or those of another training than the policy's folder has."""
    path = CARDS / policy / FACTS
    if not path.is_file():
        return None
    card = records.read(path, Card, "report")
    return card if card.weights == fingerprint(folder) else None


def fingerprint(folder: Path) -> str:
    """Returns a checksum of a policy's folder: of its policy.json and of the checksums of its weights."""
    digest = hashlib.sha256()
    for name in ("policy.json", "checksums.json"):
        path = folder / name
        digest.update(path.read_bytes() if path.is_file() else b"-")
    return digest.hexdigest()
