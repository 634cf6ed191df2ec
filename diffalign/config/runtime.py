"""How a run is kept and shown, which changes no result: the section `runtime` of params.yaml, not a DVC param."""

from diffalign.config.values import Count, Model


class Runtime(Model):
    """The section `runtime`: how often curves get a point and checkpoints are saved, and how many of those stay."""

    log_every: Count
    checkpoint_every: Count
    keep_checkpoints: Count
