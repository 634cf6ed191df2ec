"""Rounds: a policy's own images for training prompts, compared by people or a reward, as the next policy's data."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import Field

from diffalign.config.values import Count, Flag, Model, Name, Positive, Whole

FOLDER = "data/rounds"
"""Where `label@NAME` writes the round NAME."""
POLICIES = "models/policies"
PEOPLE = "people"
"""The `label` of a round that is put to a vote."""
WAITS = "answers of people are there"
"""What `label` says where they are too few, and the flow `round` looks for: it then waits."""
ASKED: Literal["overall"] = "overall"
"""The arena's question whose answers are the labels of a round."""


class Round(Model):
    """One round: whose images, for how many training prompts, and who compares them."""

    policy: Name
    prompts: Count
    images_per_prompt: Annotated[int, Field(ge=2)]
    label: Name
    """One of `rewards`, or PEOPLE."""
    least_votes: Count | None
    """People's answers that there must be before the round is labelled; None with a reward."""
    temperature: Positive | None
    """Of simulated raters, in units of the reward; None: the higher score wins."""
    rule: Literal["best_worst", "all_pairs"]
    with_base: Flag
    """Whether the raters' own train comparisons are learned from beside."""
    with_rounds: list[Name]
    """Earlier rounds of its chain whose comparisons are learned from beside."""
    reference: str
    """The model that policies of this round are held to: `models/policies/NAME`, or a model's folder."""
    seed: Whole

    @property
    def by_people(self) -> bool:
        """Tells whether people compare the images."""
        return self.label == PEOPLE

    def problems(self) -> list[str]:
        """Lists values that don't suit who compares the images, as `key: what`."""
        if not self.by_people:
            return [] if self.least_votes is None else [f"least_votes: expected null, since {self.label} is a reward"]
        lines = []
        if self.rule != "all_pairs":
            lines.append(f"rule: expected all_pairs, since nothing is known before people vote, got {self.rule!r}")
        if self.temperature is not None:
            lines.append(f"temperature: expected null, since no rater is simulated, got {self.temperature}")
        if self.least_votes is None:
            lines.append("least_votes: expected the number of people's answers that the round waits for, got null")
        return lines


def of_init(init: object, rounds: Mapping[Any, Any]) -> str | None:
    """Returns the round that an init names as the folder that `label` writes; None for another init."""
    path = PurePosixPath(init) if isinstance(init, str) else PurePosixPath()
    return path.name if path.parent == PurePosixPath(FOLDER) and path.name in rounds else None


def started(policy: Mapping[str, Any], rounds: Mapping[Any, Any], policies: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns a policy's values with the init and reference that its round means.

    The init is the policy whose images it has. What isn't a mapping where one should be is left as it is.
    """
    name = of_init(policy.get("init"), rounds)
    found = rounds[name] if name else None
    if not isinstance(found, Mapping) or "policy" not in found:
        return dict(policy)
    init = weights(f"{POLICIES}/{found['policy']}", policies)
    reference = weights(found.get("reference"), policies)
    return {**policy, "init": init, "round": name, "reference_init": None if reference == init else reference}


def weights(folder: Any, policies: Mapping[Any, Any]) -> Any:
    """Returns where a model's weights are: of a policy without training, which has none of its own, in its init."""
    policy = policies.get(made_by(folder))
    if isinstance(policy, Mapping) and policy.get("method") == "none":
        return policy.get("init", folder)
    return folder


def made_by(folder: Any) -> str | None:
    """Returns the name of the policy whose folder this would be; None for another folder."""
    path = PurePosixPath(folder) if isinstance(folder, str) else PurePosixPath()
    return path.name if path.parent == PurePosixPath(POLICIES) else None
