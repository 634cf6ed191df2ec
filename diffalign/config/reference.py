"""The reference's kept errors: the section `reference` of params.yaml."""

from diffalign.config.values import Count, Density, Flip, Model, Share, Span, Whole


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
