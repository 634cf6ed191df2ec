"""The schema of metrics/evaluate.json: win rates, accuracies, who judged, alarms, how policies and images were made."""

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


class Counts(Record):
    """Images of a policy against a baseline's by one judge; rates and bounds are None where no image was judged."""

    baseline: str
    scorer: str
    """The judge's name."""
    set: str
    """The prompts' set."""
    prompts: Count
    """Prompts whose images were judged."""
    wins: Count
    ties: Count
    losses: Count
    win_rate: Share | None
    """(wins + ties / 2) / (wins + ties + losses)."""
    ci_low: Share | None
    ci_high: Share | None

    @property
    def judged(self) -> int:
        """Returns how many images count."""
        return self.wins + self.ties + self.losses


class Comparison(Counts):
    """One policy's images against another's by one judge over one set of prompts."""

    policy: str
    seeds: Count
    """Images a prompt."""
    p: Share | None
    """Of the two-sided test of a win rate of 1/2, over whole prompts."""
    p_holm: Share | None
    """`p` after Holm's adjustment over the judges and sets that these two policies are compared by."""
    effect: float | None
    """Glass's delta: the difference of the mean scores in standard deviations of the baseline's."""
    effect_low: float | None
    effect_high: float | None
    same_noise: bool
    """Whether both policies' images began from the same noise."""
    differs: tuple[str, ...]
    """Keys of `images` in which the two were made differently: such a difference moves figures by itself."""
    in_family: bool
    """Whether the judge learnt from what one of the two policies learnt from."""


class CategoryRate(Counts):
    """A comparison's share of one category of prompts."""

    policy: str
    category: str


class OverSeeds(Counts):
    """Several trainings that differ in their seed only against one baseline; seeds are in the interval."""

    policies: tuple[str, ...]
    p: Share | None


class Alarm(Record):
    """A figure of one policy's images that was held against a threshold; its words are in alarm_words.py."""

    name: str
    policy: str
    by: str
    """The judges or the features that it was measured with."""
    figure: float | None
    low: float | None
    """The bound or bounds of the figure's interval, where it has one."""
    high: float | None
    threshold: float
    verdict: Literal["raised", "quiet", "missing"]
    """missing: it couldn't be measured."""


class Learnt(Record):
    """What a policy learnt from: 'aligned by'."""

    method: str
    seed: int | None
    """Of its training; None without one."""
    families: tuple[str, ...]
    """Tags of the preferences that it was trained on; empty without training."""


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
    tie_band: Annotated[float, Field(ge=0)]
    """Scores that differ by no more tie: so much differ scores of the same image that was scored twice."""


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

    version: Literal[3] = Field(alias="schema")
    comparisons: list[Comparison]
    """Every policy over the baseline, by every judge over every set of prompts."""
    head_to_heads: list[Comparison]
    """The first trained policy over each other trained one."""
    categories: list[CategoryRate]
    """Of every policy over the baseline, where prompts have categories."""
    over_seeds: list[OverSeeds]
    """Trainings that differ in their seed only, over the baseline."""
    implicit_reward: list[Accuracy]
    rewards: list[JudgeAccuracy]
    skills: tuple[Skill, ...] = ()
    """Empty where no judge asks questions by skill."""
    alarms: list[Alarm]
    policies: dict[str, Learnt]
    images: dict[str, dict[str, Any]]
    """Of each policy how its images were made: sampler, steps, guidance, resolution, noise_seed, ..."""


def read(path: Path = FILE) -> Evaluation:
    """Reads the results; UserError if the file is missing or damaged."""
    return records.read(path, Evaluation, STAGE)
