"""params.yaml as frozen, typed models. There are no defaults: what isn't in the file isn't set."""

from typing import Annotated, Any, Literal, get_args

from pydantic import ConfigDict, Field, WrapValidator, with_config
from typing_extensions import TypedDict

from diffalign.config.alarms import Alarms
from diffalign.config.audit import Audit
from diffalign.config.filters import Filter, Words
from diffalign.config.gate import Gate
from diffalign.config.generate import Generate
from diffalign.config.methods import (
    alignprop,
    ddpo,
    dpo,
    dpok,
    draft,
    drtune,
    grpo,
    kto,
    mapo,
    nft,
    none,
    online_dpo,
    raft,
    refl,
    sft,
)
from diffalign.config.pairs import Pairs
from diffalign.config.probe import Probe
from diffalign.config.reference import Reference
from diffalign.config.reward_models import RewardModel
from diffalign.config.rewards import (
    aesthetic_v2,
    brisque,
    clip_score_h14,
    clip_score_l14,
    hpsv2,
    hpsv2_1,
    hpsv3,
    http,
    imagereward,
    implicit,
    jpeg_compressibility,
    jpeg_incompressibility,
    learned,
    nsfw,
    ocr,
    oracle,
    pickscore,
    placebo,
    raters,
    unmarked,
    vlm,
)
from diffalign.config.rollout import Rollouts
from diffalign.config.rounds import Round
from diffalign.config.runtime import Runtime
from diffalign.config.training import Training
from diffalign.config.values import Count, Flag, HeldOut, Model, Name, PromptSet, Share, Whole


class Data(Model):
    """The raw comparisons: their source, splits and limits; `settings` are the source's own, checked by its module."""

    source: Literal[
        "arena",
        "folders",
        "hpdv2",
        "hpdv3",
        "huggingface",
        "imagereward",
        "open_image_preferences",
        "pickapic",
        "pickapic_urls",
        "pickapic_webdataset",
        "rapidata",
        "several",
        "table",
    ]
    path: str
    validation: Share
    test: Share
    repeats: Literal["first", "all"]
    near_duplicates: Annotated[int, Field(ge=0, le=10)] | None
    max_rejects: Share
    drop_prompts_of: list[PromptSet]
    max_image_pixels: Count
    max_image_bytes: Count
    filters: dict[Name, Words | Filter]
    settings: dict[str, Any]


class BaseModelParams(Model):
    """The model whose VAE, text encoder and scheduler are used."""

    family: Literal["sd15", "sdxl", "sd3"]
    path: str


class Precompute(Model):
    """The encoding of images and prompts into shards."""

    resolution: Annotated[int, Field(ge=8, multiple_of=8)]
    flips: Flag
    batch_size: Count
    shard_size: Count


Settings = (
    none.Settings
    | alignprop.Settings
    | ddpo.Settings
    | dpo.Settings
    | dpok.Settings
    | draft.Settings
    | drtune.Settings
    | grpo.Settings
    | kto.Settings
    | mapo.Settings
    | nft.Settings
    | online_dpo.Settings
    | raft.Settings
    | refl.Settings
    | sft.Settings
)
Policy = Annotated[Settings, Field(discriminator="method")]
METHODS: tuple[str, ...] = tuple(get_args(one.model_fields["method"].annotation)[0] for one in get_args(Settings))
"""The values of a policy's `method`."""


@with_config(ConfigDict(extra="forbid"))
class Rewards(TypedDict, total=False):
    """The rewards that score the images, each with its settings; the first one is the headline's judge."""

    aesthetic_v2: aesthetic_v2.Settings
    brisque: brisque.Settings
    clip_score_h14: clip_score_h14.Settings
    clip_score_l14: clip_score_l14.Settings
    hpsv2: hpsv2.Settings
    hpsv2_1: hpsv2_1.Settings
    hpsv3: hpsv3.Settings
    http: http.Settings
    imagereward: imagereward.Settings
    implicit: implicit.Settings
    jpeg_compressibility: jpeg_compressibility.Settings
    jpeg_incompressibility: jpeg_incompressibility.Settings
    learned: learned.Settings
    nsfw: nsfw.Settings
    ocr: ocr.Settings
    oracle: oracle.Settings
    pickscore: pickscore.Settings
    placebo: placebo.Settings
    raters: raters.Settings
    unmarked: unmarked.Settings
    vlm: vlm.Settings


def in_order(value: Any, validate: Any) -> Any:
    """Validates a section and keeps the order of its keys, which pydantic would make the fields'."""
    found = validate(value)
    return {name: found[name] for name in value}


class Evaluate(Model):
    """The comparison of policies: its baseline, its held-out pairs, its intervals."""

    baseline: Name
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    split: HeldOut
    pairs: Count
    draws: Count
    batch_size: Count
    seed: Whole
    rescored: Whole
    families: list[Annotated[str, Field(pattern=r"^[a-z0-9_]+$")]]
    alarms: Alarms


class Report(Model):
    """The content of the report."""

    title: str
    best: Whole
    worst: Whole
    random: Whole
    seed: Whole


class Params(Model):
    """The whole of params.yaml."""

    data: Data
    pairs: Pairs
    model: BaseModelParams
    precompute: Precompute
    reference: Reference
    training: Training
    rollouts: Rollouts
    runtime: Runtime
    policies: dict[Name, Policy]
    """Each with all its values, those of `training` too."""
    rounds: dict[Name, Round]
    probe: Probe
    generate: Generate
    reward_models: dict[Name, RewardModel]
    """Those that this project trains; the folder `models/rewards/NAME` of one is a reward's `path`."""
    rewards: Annotated[Rewards, WrapValidator(in_order)]
    evaluate: Evaluate
    audit: Audit
    gate: Gate
    report: Report

    def inputs(self) -> list[str]:
        """Lists the folders that must be there before the first stage: data, models, where trainings begin, prompts."""
        began = [one.init for one in (*self.policies.values(), *self.reward_models.values())]
        sets = dict.fromkeys([*self.generate.fetched, *self.data.drop_prompts_of])
        began += [one.reference for one in self.rounds.values()]
        return [self.data.path, self.model.path, *dict.fromkeys(began), *(f"data/raw/prompts/{name}" for name in sets)]

    def sampling(self, policy: str) -> dict[str, Any]:
        """Returns how a policy's images are to be made: `sampler`, `steps`, `guidance` and `resolution`."""
        return self.generate.sampling(policy) | {"resolution": self.precompute.resolution}
