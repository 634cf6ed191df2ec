"""Settings of each policy's images: the section `generate` of params.yaml."""

from typing import Annotated, Any

from pydantic import Field

from diffalign.config.samplers import Sampler
from diffalign.config.values import Count, HeldOut, Model, Name

Steps = Annotated[int, Field(ge=1, le=500)]
Guidance = Annotated[float, Field(ge=1, allow_inf_nan=False)]


class Override(Model):
    """The settings that differ for one policy's images; a key that isn't there is as for all."""

    sampler: Sampler | None = None
    steps: Steps | None = None
    guidance: Guidance | None = None


class Generate(Model):
    """Images of each policy for held-out prompts."""

    split: HeldOut
    prompts: Count
    seeds: Count
    sampler: Sampler
    steps: Steps
    guidance: Guidance
    overrides: dict[Name, Override]
    batch_size: Count

    def sampling(self, policy: str) -> dict[str, Any]:
        """Returns a policy's `sampler` (its name and settings), `steps` and `guidance`, for its images."""
        shared = {key: getattr(self, key) for key in ("sampler", "steps", "guidance")}
        own = self.overrides.get(policy, Override())
        chosen = shared | {key: value for key in shared if (value := getattr(own, key)) is not None}
        return chosen | {"sampler": chosen["sampler"].model_dump()}
