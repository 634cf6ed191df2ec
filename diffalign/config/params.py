"""params.yaml as frozen, typed models. No defaults: what isn't in the file isn't set, so the file says it all."""

from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from diffalign.config import checks
from diffalign.core.errors import UserError

HeldOut = Literal["validation", "test"]
Share = Annotated[float, Field(ge=0, le=1)]
Count = Annotated[int, Field(ge=1)]
Whole = Annotated[int, Field(ge=0)]
Span = tuple[Share, Share]
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Density = Literal["uniform", "logit_normal", "logit_normal_shifted"]
Flip = Literal["none", "pair", "independent"]
Scorers = list[Literal["oracle"]]
Name = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")]


class Model(BaseModel):
    """Frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=False)


class Data(Model):
    """Where the comparisons come from and what is let in."""

    source: Literal["pickapic"]
    path: str
    validation: Share
    test: Share
    max_image_pixels: Count
    max_image_bytes: Count


class Pairs(Model):
    """The rule that turns comparisons into pairs."""

    rule: Literal["each", "majority"]
    raters: list[str]
    weights: list[Literal["prompt", "strength", "rater"]]


class BaseModelParams(Model):
    """The model whose VAE, text encoder and scheduler are used."""

    family: Literal["sd15", "sdxl", "sd3"]
    path: str


class Precompute(Model):
    """How images and prompts are encoded into shards."""

    resolution: Annotated[int, Field(ge=8, multiple_of=8)]
    flips: bool
    batch_size: Count
    shard_size: Count


class Reference(Model):
    """The reference's errors, kept for the policies with `reference: cached`; 0 draws keep none."""

    draws: Whole
    init: str
    seed: Whole
    timesteps: Span
    timestep_density: Density
    prompt_drop: Share
    flip: Flip
    batch_size: Count


class Untrained(Model):
    """A policy that is its `init`: the base, or the base from other noise."""

    method: Literal["none"]
    init: str
    noise_seed: Whole


class Trained(Model):
    """What every trained policy has."""

    init: str
    noise_seed: Whole
    reference: Literal["live", "cached", "none"]
    adapter: Literal["full", "lora"]
    lora_rank: Count
    lora_alpha: Count
    lora_targets: Annotated[list[str], Field(min_length=1)] | None
    gradient_checkpointing: bool
    ema: Annotated[float, Field(gt=0, lt=1)] | None
    optimizer: Literal["adamw", "adafactor", "adamw8bit"]
    lr: Positive
    warmup_steps: Whole
    steps: Count
    batch_size: Count
    micro_batch_size: Count
    weight_decay: Annotated[float, Field(ge=0)]
    max_grad_norm: Positive
    skip_grad_norm: Positive
    max_skips: Count
    timesteps: Span
    timestep_density: Density
    stratified: bool
    prompt_drop: Share
    flip: Flip
    swap_labels: bool
    seed: Whole
    log_every: Count
    checkpoint_every: Count
    keep_checkpoints: Count
    choose: Literal["last", "probe"]


class DPO(Trained):
    """Diffusion-DPO; `beta` in the official code's convention."""

    method: Literal["dpo"]
    beta: Positive
    link: Literal["sigmoid", "hinge", "ipo"]
    safeguard: Share | None


class MaPO(Trained):
    """MaPO, which needs no reference; `beta` weighs the preference against fine-tuning on the winner."""

    method: Literal["mapo"]
    beta: Positive


class KTO(Trained):
    """Diffusion-KTO, on images by themselves; `beta` as in `DPO`."""

    method: Literal["kto"]
    beta: Positive
    desirable_share: Share


class SFT(Trained):
    """Fine-tuning on the winners."""

    method: Literal["sft"]


Policy = Annotated[Untrained | DPO | KTO | MaPO | SFT, Field(discriminator="method")]


class Probe(Model):
    """How trained policies are watched: fixed held-out draws every so many steps, and what raises an alarm."""

    every: Whole
    pairs: Count
    draws: Count
    seed: Whole
    on_alarm: Literal["warn", "stop"]
    winner_worse: Positive | None
    saturation: Share | None
    divergence: Positive | None
    reference_changed: Positive | None
    images: Whole
    image_steps: Annotated[int, Field(ge=1, le=500)]
    guidance: Annotated[float, Field(ge=1)]
    scorers: Scorers


class Generate(Model):
    """Images of each policy for held-out prompts."""

    split: HeldOut
    prompts: Count
    seeds: Count
    steps: Annotated[int, Field(ge=1, le=500)]
    guidance: Annotated[float, Field(ge=1)]
    batch_size: Count


class Evaluate(Model):
    """Who judges, and how sure we are."""

    baseline: Name
    scorers: Scorers
    bootstrap: Annotated[int, Field(ge=100)]
    confidence: Annotated[float, Field(gt=0.5, lt=1)]
    split: HeldOut
    pairs: Count
    draws: Count
    batch_size: Count
    seed: Whole


class Report(Model):
    """What the report shows."""

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
    policies: dict[Name, Policy]
    probe: Probe
    generate: Generate
    evaluate: Evaluate
    report: Report


class _Loader(yaml.SafeLoader):
    """Refuses a key that is there twice: YAML's own readers take the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: list[Any] = []
        for key in (key for key, _ in node.value if key.tag != "tag:yaml.org,2002:merge"):
            name = self.construct_object(key, deep=True)
            if name in seen:
                raise yaml.constructor.ConstructorError(None, None, f"the key {name!r} is there twice", key.start_mark)
            seen.append(name)
        return super().construct_mapping(node, deep)


def load(path: Path = Path("params.yaml")) -> Params:
    """Reads and checks a params file; raises one UserError that lists every error with its path in the YAML."""
    try:
        raw = yaml.load(path.read_text(), _Loader)  # noqa: S506 (a SafeLoader)
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing. Run this from the project's folder, or make one: python pipeline.py preset sd15"
        ) from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path} is not readable YAML: {error}") from None
    return parse(raw, str(path))


def parse(raw: Any, name: str = "params") -> Params:
    """Checks parsed YAML; raises one UserError that lists every error."""
    params = None
    try:
        params = Params.model_validate(raw)
        lines = checks.found(params)
    except ValidationError as error:
        lines = [f"{_where(e)}: {_what(e)}" for e in error.errors()]
    if params is None or lines:
        listed = "".join(f"\n  {line}" for line in lines)
        raise UserError(f"{name} has {len(lines)} error{'s' if len(lines) > 1 else ''}:{listed}")
    return params


def _where(error: Any) -> str:
    # The tag of a policy's union (its method) stands in pydantic's path but not in the YAML.
    location = [str(part) for part in error["loc"]]
    if len(location) > 2 and location[0] == "policies":
        location = location[:2] + location[3:]
    return ".".join(location) or "(top)"


def _what(error: Any) -> str:
    kind, got = error["type"], repr(error.get("input"))
    got = got if len(got) <= 80 else got[:77] + "..."
    if kind == "extra_forbidden":
        return f"unknown key (misspelt?), got {got}; remove it or correct its name"
    if kind == "missing":
        return "missing; expected a value (see params.yaml of the project for its meaning)"
    return f"{error['msg'][0].lower()}{error['msg'][1:]}, got {got}"
