"""Everything that the report shows: the settings, the files that stages left, and which policy plays which part."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from diffalign.config.methods import none
from diffalign.config.training import Trained
from diffalign.core import records
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import data_card, people_results, results, scores, verdicts
from diffalign.evaluation.audits import findings
from diffalign.evaluation.audits.findings import Audit
from diffalign.evaluation.data_card import DataCard
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.people_results import People
from diffalign.evaluation.results import Comparison, Evaluation
from diffalign.evaluation.scores import Columns
from diffalign.evaluation.verdicts import Verdicts
from diffalign.generation import gallery
from diffalign.generation.gallery import Gallery
from diffalign.monitoring import curve
from diffalign.reporting import personal_file, policy_file, reward_file, study_file
from diffalign.reporting.ingested import Ingested, read_ingested
from diffalign.reporting.personal_file import Personal
from diffalign.reporting.policy_file import PolicyWork
from diffalign.reporting.reward_file import RewardModel
from diffalign.reporting.study_file import Study

METRICS, CURVES, IMAGES, POLICIES = map(Path, ("metrics", "curves", "images", "models/policies"))
COMPARISONS, SHARDS = Path("data/comparisons"), Path("data/shards/manifest.json")
STYLES = 6
"""Colour classes c0 to c5 of the page."""


@dataclass(frozen=True)
class Settings:
    """The values of params.yaml that the report needs."""

    title: str
    best: int
    worst: int
    random: int
    seed: int
    policies: Mapping[str, Trained | none.Settings]
    baseline: str
    rewards: Sequence[str]
    """The judges, the headline's first."""
    interval: Interval
    sampling: Mapping[str, Mapping[str, Any]]
    """Of each policy how its images are to be made."""
    draws: int
    """(t, noise) draws a pair of the implicit reward."""
    thresholds: Mapping[str, float | None]
    """Of alarms."""
    parameters: Mapping[str, Any]
    """All of params.yaml, as plain values."""
    reward_models: Sequence[str] = ()
    """The names of those that this project trains."""


@dataclass(frozen=True)
class Roles:
    """The parts that policies play: `hero` is the headline's, `controls` are untrained ones beside the baseline."""

    baseline: str
    hero: str | None
    trained: tuple[str, ...]
    controls: tuple[str, ...]
    style: Mapping[str, str]
    """The colour class of each policy."""


@dataclass(frozen=True)
class Material:
    """The settings, and what stages left."""

    settings: Settings
    results: Evaluation
    ingested: Ingested
    galleries: Mapping[str, Gallery]
    scores: Mapping[str, Columns]
    """Of each policy's images, by the names of rewards and of their parts."""
    curves: Mapping[str, list[dict[str, float]]]
    """The lines of each trained policy's curve."""
    work: Mapping[str, PolicyWork]
    """Of each trained policy what its training took."""
    people: People | None
    """What people's votes say, where the stage ran."""
    audit: Audit | None
    """What audits found, where they ran."""
    gate: Verdicts | None
    """The gate's verdicts, where it was asked."""
    study: Study | None
    """The study's results, where one was made."""
    personal: Personal | None
    """Of the study's personal policies, where some were made."""
    reward_models: Sequence[RewardModel] = ()
    """Those that this project trained."""
    card: DataCard | None = None
    """What the comparisons are; None where no ingest of this version ran."""
    pictures: Mapping[str, bytes] = field(default_factory=dict)
    """The images of the card's examples, by SHA-256."""
    cut_prompts: Mapping[str, int] | None = None
    """The prompts that are longer than each text encoder reads."""

    @cached_property
    def roles(self) -> Roles:
        """Gives each policy its part."""
        return roles(self.settings.policies, self.settings.baseline, self.settings.sampling)

    @cached_property
    def sets(self) -> set[str]:
        """Returns the names of the prompts' sets."""
        return {entry.set for entry in self.galleries[self.roles.baseline].entries}

    @property
    def judge(self) -> str | None:
        """Returns the headline's judge; None without any."""
        return next(iter(self.settings.rewards), None)

    @cached_property
    def comparisons(self) -> list[Comparison]:
        """Returns the policies against the baseline, then the hero against the other trained ones."""
        return [*self.results.comparisons, *self.results.head_to_heads]

    def missing(self, row: Comparison) -> int:
        """Returns how many of the images that a comparison was asked for its judge couldn't score."""
        return sum(entry.set == row.set for entry in self.galleries[row.policy].entries) - row.judged

    def is_control(self, row: Comparison) -> bool:
        """Tells whether a comparison is an A/A control's with the baseline."""
        return row.policy in self.roles.controls and row.baseline == self.roles.baseline


def read(settings: Settings) -> Material:
    """Reads what stages left; UserError where a file is missing, was edited, or is of another run's images."""
    galleries = {name: gallery.read(IMAGES / name) for name in settings.policies}
    gallery.check_comparable(galleries.values())
    for name, found_gallery in galleries.items():
        gallery.check_made(found_gallery, settings.sampling[name])
    columns: dict[str, dict[str, scores.Floats]] = {name: {} for name in galleries}
    for reward in settings.rewards:
        for name, found in scores.read_images(reward, galleries).items():
            columns[name].update(found)
    trained = [name for name, policy in settings.policies.items() if isinstance(policy, Trained)]
    card = data_card.read() if data_card.FILE.exists() else None
    return Material(
        settings=settings,
        results=results.read(),
        ingested=read_ingested(),
        galleries=galleries,
        scores=columns,
        curves={name: curve.read(CURVES / f"{name}.jsonl", name) for name in trained},
        work={name: policy_file.read(POLICIES / name) for name in trained},
        reward_models=[reward_file.read(name) for name in settings.reward_models],
        people=people_results.read() if people_results.FILE.exists() else None,
        audit=findings.read() if findings.FILE.exists() else None,
        gate=verdicts.read() if verdicts.FILE.exists() else None,
        study=study_file.read() if study_file.FILE.exists() else None,
        personal=personal_file.read() if personal_file.FILE.exists() else None,
        card=card,
        pictures=pictures(card),
        cut_prompts=records.plain(SHARDS, ["cut_prompts"], "dvc repro precompute")["cut_prompts"]
        if SHARDS.exists()
        else None,
    )


def pictures(card: DataCard | None) -> dict[str, bytes]:
    """Reads the images of a card's examples; UserError where one isn't among the comparisons'."""
    wanted = {image for one in card.examples for image in (one.image_a, one.image_b)} if card else set()
    return dict(comparisons.iter_images(COMPARISONS, wanted)) if wanted else {}


def roles(
    policies: Mapping[str, Trained | none.Settings], baseline: str, sampling: Mapping[str, Mapping[str, Any]]
) -> Roles:
    """Gives policies their parts by method and order; the hero is the first trained one, else the first other.

    `sampling` says of each how its images are made: a control's are made as the baseline's.
    """
    trained = tuple(name for name, policy in policies.items() if isinstance(policy, Trained))
    others, base = [name for name in policies if name != baseline], policies[baseline]
    controls = tuple(
        name
        for name in others
        if name not in trained
        and baseline not in trained
        and policies[name].init == base.init
        and policies[name].noise_seed != base.noise_seed
        and sampling[name] == sampling[baseline]
    )
    hero = next((name for name in (*trained, *others) if name != baseline), None)
    ordered = [*trained, *(name for name in policies if name not in trained)]
    return Roles(baseline, hero, trained, controls, {name: f"c{i % STYLES}" for i, name in enumerate(ordered)})
