"""Settings that rewards over HTTP share."""

from typing import Annotated

from pydantic import Field

from diffalign.config.values import Count, Model, Name, Positive, Whole

Address = Annotated[str, Field(pattern=r"^https?://[^\s@]+$")]
Variable = Annotated[str, Field(pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")]


class Service(Model):
    """How a service is asked, and what it learnt from.

    `url`: its address, without user and password. `token_variable`: the environment variable that holds its token, null
    for none. `per_minute`: requests at most, null for no limit. `parallel`: requests at a time. `timeout`: seconds.
    `retries`: how often a question is asked again. `families`: tags of what it learnt from, such as pickapic.
    """

    url: Address
    token_variable: Variable | None
    per_minute: Count | None
    parallel: Count
    timeout: Positive
    retries: Whole
    families: tuple[Name, ...]
