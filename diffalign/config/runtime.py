"""Settings of runs that change no result: how they are kept and shown; `runtime` in params.yaml, no DVC param."""

from diffalign.config.values import Count, Model


class Runtime(Model):
    """The section `runtime`: how often curves get a point and checkpoints are saved, and how many of those stay."""

    log_every: Count
    checkpoint_every: Count
    keep_checkpoints: Count
