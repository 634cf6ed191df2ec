"""Settings that rewards with published weights share."""

from typing import Annotated

from pydantic import Field

from diffalign.config.rewards.weights_folder import WeightsFolder


class PublishedWeights(WeightsFolder):
    """Also `sha256`: the first 12 digits of the weights' SHA-256, as `fetch --rewards` prints them; null for any.

    Other weights are refused, and where the value is changed score@NAME runs again: DVC sees params, not the folder.
    """

    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{12}(-[0-9a-f]{12})*$")] | None
