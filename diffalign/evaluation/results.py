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
    """Its name in params.yaml."""
    version: str
    """Another version would score the same image otherwise."""
    range: tuple[float | None, float | None]
    """The lowest and the highest score; None where there is no bound."""
    trained_on: str
    """What it learnt from, in words."""
    families: tuple[str, ...]
    """Tags of what it learnt from; a policy that shares one is in-family."""
    differentiable: bool
    """Whether gradients reach the pixels."""


class Counts(Record):
    """Images of a policy against a baseline's by one judge; rates and bounds are None where no image was judged."""

    baseline: str
    """The policy that is compared with."""
    scorer: str
    """The judge's name."""
    set: str
    """The prompts' set."""
    prompts: Count
    """Prompts whose images were judged."""
    wins: Count
    """Images that scored higher than the baseline's."""
    ties: Count
    """Images whose scores differ by no more than the judge's `tie_band`."""
    losses: Count
    """Images that scored lower."""
    win_rate: Share | None
    """(wins + ties / 2) / (wins + ties + losses)."""
    ci_low: Share | None
    """The lower bound of the interval, at `evaluate.confidence`, over whole prompts."""
    ci_high: Share | None
    """The upper bound."""

    @property
    def judged(self) -> int:
        """Returns how many images count."""
        return self.wins + self.ties + self.losses


class Comparison(Counts):
    """One policy's images against another's by one judge over one set of prompts."""

    policy: str
    """The policy whose images win or lose."""
    seeds: Count
    """Images a prompt."""
    p: Share | None
    """Of the two-sided test of a win rate of 1/2, over whole prompts."""
    p_holm: Share | None
    """`p` after Holm's adjustment over the judges and sets that these two policies are compared by."""
    effect: float | None
    """Glass's delta: the difference of the mean scores in standard deviations of the baseline's."""
    effect_low: float | None
    """The lower bound of the effect's interval."""
    effect_high: float | None
    """The upper bound."""
    same_noise: bool
    """Whether both policies' images began from the same noise."""
    differs: tuple[str, ...]
    """Keys of `images` in which the two were made differently: such a difference moves figures by itself."""
    in_family: bool
    """Whether the judge learnt from what one of the two policies learnt from."""


class CategoryRate(Counts):
    """A comparison's share of one category of prompts."""

    policy: str
    """The policy whose images win or lose."""
    category: str
    """The category, as the prompt set names it."""


class OverSeeds(Counts):
    """Several trainings that differ in their seed only against one baseline; seeds are in the interval."""

    policies: tuple[str, ...]
    """The trainings."""
    p: Share | None
    """Of the two-sided test of a win rate of 1/2, by Student's t over prompts and seeds."""


class Alarm(Record):
    """A figure of one policy's images that was held against a threshold; its words are in alarm_words.py."""

    name: str
    """The alarm; docs/evaluation.md has the list."""
    policy: str
    """The policy whose images were measured."""
    by: str
    """The judges or the features that it was measured with."""
    figure: float | None
    """None where it couldn't be measured, or where there is nothing to alarm about."""
    low: float | None
    """The lower bound of the figure's interval, where it has one."""
    high: float | None
    """The upper bound."""
    threshold: float
    """Of `evaluate.alarms`."""
    verdict: Literal["raised", "quiet", "missing"]
    """raised: all of the interval lies beyond the threshold; missing: it couldn't be measured."""


class Learnt(Record):
    """What a policy learnt from: 'aligned by'."""

    method: str
    """The method in params.yaml; none: it wasn't trained."""
    seed: int | None
    """Of its training; None without one."""
    families: tuple[str, ...]
    """Tags of the preferences that it was trained on; empty without training."""
    raters: tuple[str, ...] = ()
    """The ids of its own raters, where it learnt from theirs only or was made for one."""


class Accuracy(Record):
    """How often a policy's implicit reward ranks a held-out pair as its rater did."""

    policy: str
    """The policy whose implicit reward it is."""
    accuracy: Share | None
    """The share of pairs that are ranked as their rater ranked them; ties count half."""
    ci_low: Share | None
    """The lower bound of the interval, over whole prompts."""
    ci_high: Share | None
    """The upper bound."""
    pairs: Count
    """Held-out pairs."""
    ceiling: Share | None
    """How often the oracle that the simulated raters' answers were drawn from does; None without one."""


class JudgeAccuracy(Judge):
    """A reward that judged, and how often it ranks a held-out pair as its rater did."""

    accuracy: Share | None
    """The share of pairs that are ranked as their rater ranked them; ties count half."""
    ci_low: Share | None
    """The lower bound of the interval, over whole prompts."""
    ci_high: Share | None
    """The upper bound."""
    pairs: Count
    """Pairs that it could score."""
    tie_band: Annotated[float, Field(ge=0)]
    """Scores that differ by no more tie: so much differ scores of the same image that was scored twice."""


class Skill(Record):
    """How often a policy's images show what a skill's questions ask for, by one judge."""

    policy: str
    """The policy whose images were asked about."""
    scorer: str
    """The judge that answers."""
    skill: str
    """The kind of question."""
    share: Share
    """The mean, over images with such a question, of the share of them that is answered right."""
    ci_low: Share
    """The lower bound of the interval, over whole prompts."""
    ci_high: Share
    """The upper bound."""
    images: Count
    """Images that such a question was asked of."""
    prompts: Count
    """Their prompts."""


class RaterRate(Counts):
    """One policy's images against the baseline's by one simulated rater's own utility, or a group's mean."""

    policy: str
    """The policy whose images win or lose."""
    rater: str
    """The rater's id, or the group's name."""
    own: bool
    """Whether the policy's own raters are this one, or of this group."""


class Evaluation(Record):
    """The whole file."""

    version: Literal[3] = Field(alias="schema")
    """Of this file."""
    comparisons: list[Comparison]
    """Every policy over the baseline, by every judge over every set of prompts."""
    head_to_heads: list[Comparison]
    """The first trained policy over each other trained one."""
    categories: list[CategoryRate]
    """Of every policy over the baseline, where prompts have categories."""
    over_seeds: list[OverSeeds]
    """Trainings that differ in their seed only, over the baseline."""
    implicit_reward: list[Accuracy]
    """Of every trained policy."""
    rewards: list[JudgeAccuracy]
    """The judges."""
    skills: tuple[Skill, ...] = ()
    """Empty where no judge asks questions by skill."""
    by_rater: tuple[RaterRate, ...] = ()
    """Of every policy by every rater; empty where the reward `raters` isn't among the judges."""
    alarms: list[Alarm]
    """Of every policy beside the baseline."""
    policies: dict[str, Learnt]
    """What each policy learnt from."""
    images: dict[str, dict[str, Any]]
    """Of each policy how its images were made: sampler, steps, guidance, resolution, noise_seed, ..."""


def read(path: Path = FILE) -> Evaluation:
    """Reads the results; UserError if the file is missing or damaged."""
    return records.read(path, Evaluation, STAGE)
