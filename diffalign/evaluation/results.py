"""The schema of metrics/evaluate.json: win rates, implicit-reward accuracies, who judged, how the images were made."""

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from diffalign.core import records
from diffalign.core.records import Record

FILE = Path("metrics/evaluate.json")
STAGE = "evaluate"
Count = Annotated[int, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]


class Judge(Record):
    """A reward, as a reader must know it to trust its scores."""

    name: str
    version: str
    range: tuple[float | None, float | None]
    """The lowest and the highest score; None where there is no bound."""
    trained_on: str
    families: tuple[str, ...]
    """Tags of what it learnt from; a policy that shares one is in-family."""
    differentiable: bool


class Comparison(Record):
    """One policy's images against another's by one judge; rates and bounds are None where no image was judged."""

    policy: str
    baseline: str
    scorer: str
    prompts: Count
    """Prompts whose images were judged."""
    seeds: Count
    wins: Count
    ties: Count
    losses: Count
    win_rate: Share | None
    ci_low: Share | None
    ci_high: Share | None

    @property
    def judged(self) -> int:
        """Returns how many images count."""
        return self.wins + self.ties + self.losses


class Accuracy(Record):
    """How often a policy's implicit reward ranks a held-out pair as its rater did."""

    policy: str
    accuracy: Share | None
    ci_low: Share | None
    ci_high: Share | None
    pairs: Count
    ceiling: Share | None
    """How often the oracle that the simulated raters' answers were drawn from does; None without one."""


class JudgeAccuracy(Judge):
    """A reward that judged, and how often it ranks a held-out pair as its rater did."""

    accuracy: Share | None
    ci_low: Share | None
    ci_high: Share | None
    pairs: Count
    """Pairs that it could score."""


class Skill(Record):
    """How often a policy's images show what a skill's questions ask for, by one judge."""

    policy: str
    scorer: str
    skill: str
    share: Share
    """The mean, over images with such a question, of the share of them that is answered right."""
    ci_low: Share
    ci_high: Share
    images: Count
    prompts: Count


class Evaluation(Record):
    """The whole file."""

    version: Literal[2] = Field(alias="schema")
    comparisons: list[Comparison]
    """Every policy over the baseline."""
    head_to_heads: list[Comparison]
    """The first trained policy over each other trained one."""
    implicit_reward: list[Accuracy]
    rewards: list[JudgeAccuracy]
    skills: tuple[Skill, ...] = ()
    """Empty where no judge asks questions by skill."""
    images: dict[str, dict[str, Any]]
    """Of each policy how its images were made: sampler, steps, guidance, resolution, noise_seed, ..."""


def read(path: Path = FILE) -> Evaluation:
    """Reads the results; UserError if the file is missing or damaged."""
    return records.read(path, Evaluation, STAGE)
