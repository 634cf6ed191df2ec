"""What every trained policy sets, whatever its method."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from diffalign.config.values import Count, Density, Flip, Model, Positive, Share, Span, Whole


class Trained(Model):
    """The keys that every trained policy has; a method's `Settings` adds its own, and says what `method` is."""

    title: ClassVar[str]
    """What reports call the method."""
    method: str
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
