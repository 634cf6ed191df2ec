"""The settings of every trained policy: the section `training` of params.yaml, which a policy may differ from."""

from typing import Annotated, Any, ClassVar, Literal

from pydantic import Field

from diffalign.config.pairs import Pairs
from diffalign.config.values import Count, Density, Flag, Flip, Model, Positive, Share, Span, Whole


class Lora(Model):
    """Low-rank adapters: matrices of `rank`, scaled by `alpha / rank`, at the modules named in `targets`."""

    rank: Count
    alpha: Count
    targets: Annotated[list[str], Field(min_length=1)] | None
    """None: the family's attention projections."""


class RaterTokens(Model):
    """A vector for each rater, trained with the policy or alone."""

    drop: Share
    """Share of pairs that are trained as nobody's."""
    lr: Positive
    """The vectors' own learning rate, after the warm-up."""
    only: Flag
    """Whether only the vectors are trained."""


class Training(Model):
    """The section `training`: values that all trained policies share."""

    reference: Literal["live", "cached", "none"]
    lora: Lora | None
    """None: all weights of the denoiser are trained."""
    gradient_checkpointing: Flag
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
    stratified: Flag
    prompt_drop: Share
    flip: Flip
    swap_labels: Flag
    seed: Whole
    choose: Literal["last", "probe"]


class Trained(Training):
    """A trained policy: its own values, and those of `training` where it gives none.

    A method's `Settings` adds its keys.
    """

    title: ClassVar[str]
    """The method's name in reports."""
    method: str
    init: str
    noise_seed: Whole
    round: str | None = None
    """The round that it learns from, which params name as its init; None: `data/comparisons`."""
    reference_init: str | None = None
    """The model that it's held to, which its round names; None: its init."""
    raters: Annotated[list[str], Field(min_length=1)] | None = None
    """The ids of the raters whose answers it learns from; None: those of `pairs`."""
    rater_tokens: RaterTokens | None = None
    """A vector for each of these raters; None: the policy doesn't know whose answer a pair is."""

    @property
    def adapter(self) -> Literal["full", "lora"]:
        """Returns what is trained and published: all weights, or low-rank adapters."""
        return "full" if self.lora is None else "lora"

    @property
    def rows(self) -> int:
        """Returns how many rows of a pair or picture may share a forward: 1 where a micro-batch is whole ones."""
        return 1

    @property
    def held_to(self) -> str:
        """Returns the model that is the reference: its init, unless its round names another."""
        return self.reference_init or self.init

    def of_method(self) -> dict[str, Any]:
        """Returns the keys that the policy's method adds, with their values, in their order."""
        return {name: getattr(self, name) for name in type(self).model_fields if name not in Trained.model_fields}

    def problems(self, pairs: Pairs) -> list[str]:
        """Returns what the method can't do with these values or this rule for pairs, as `key: what`; a method's own."""
        del pairs
        return []
