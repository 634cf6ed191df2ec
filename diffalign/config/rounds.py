"""Rounds: a policy's own images for training prompts, compared by people or a reward, as the next policy's data."""

from collections.abc import Mapping, Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from diffalign.config.values import Count, Flag, Model, Name, Positive, Whole
from diffalign.core.errors import UserError

if TYPE_CHECKING:
    from diffalign.config.params import Params

FOLDER = "data/rounds"
"""Where `label@NAME` writes the round NAME."""
POLICIES = "models/policies"
PEOPLE = "people"
"""The `label` of a round that is put to a vote."""
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


def problems(params: "Params") -> list[str]:
    """Lists rounds of policies or by rewards that there aren't, and chains of rounds that come back to themselves."""
    lines = []
    for name, one in params.rounds.items():
        lines += [f"rounds.{name}.{line}" for line in one.problems()]
        if one.policy not in params.policies:
            known = ", ".join(params.policies)
            lines.append(f"rounds.{name}.policy: expected one of the policies {known}, got {one.policy!r}")
        elif loop(params, name, one.policy):
            lines.append(f"rounds.{name}.policy: expected a policy before this round, {one.policy} learns from it")
        held_to = made_by(one.reference)
        if held_to is not None and held_to not in params.policies:
            lines.append(f"rounds.{name}.reference: expected a model's folder or a policy's, got {one.reference!r}")
        elif held_to is not None and loop(params, name, held_to):
            lines.append(f"rounds.{name}.reference: expected a policy before this round, {held_to} learns from it")
        if one.label not in params.rewards and not one.by_people:
            known = ", ".join([*params.rewards, PEOPLE])
            lines.append(f"rounds.{name}.label: expected one of rewards or people, {known}, got {one.label!r}")
    for name, policy in params.policies.items():
        known, given = ", ".join(params.rounds) or "none so far", getattr(policy, "round", None)
        if of_init(policy.init, {PurePosixPath(policy.init).name: 1}):
            lines.append(f"policies.{name}.init: expected one of rounds, {known}, got {policy.init!r}")
        elif given is not None and given not in params.rounds:
            lines.append(f"policies.{name}.round: expected no such key, but a round as init, such as {FOLDER}/r1")
        elif given is not None:
            lines += unheard(params, name, getattr(policy, "raters", None))
        held_to = getattr(policy, "reference_init", None)
        if held_to is not None and given is None:
            lines.append(f"policies.{name}.reference_init: expected no such key, but rounds.NAME.reference")
        elif held_to is not None and getattr(policy, "reference", None) == "none":
            lines.append(f"policies.{name}.reference: expected live, since its round names a reference, got 'none'")
    return lines


def check_vote(params: "Params", name: str, policies: Sequence[str], questions: Sequence[str]) -> None:
    """Raises UserError where a vote on a round's images can't be: no such round, a reward's, other questions."""
    by_people = [key for key, one in params.rounds.items() if one.by_people]
    if name not in by_people:
        known = ", ".join(by_people) or "none so far"
        raise UserError(f"arena: --round: expected one of rounds with label people, {known}, got {name!r}")
    if policies:
        raise UserError(f"arena: expected no policies beside --round, got {', '.join(policies)}")
    if questions and ASKED not in questions:
        raise UserError(f"arena: --question: expected {ASKED} with --round, got {', '.join(questions)}")


def unheard(params: "Params", policy: str, own: list[str] | None) -> list[str]:
    """Lists the keys of `pairs` that would leave out, unsaid, the answers of a policy's round."""
    how = params.pairs
    named = {"raters": how.raters if own is None else [], "axes": list(how.axes), "sources": list(how.sources)}
    return [
        f"pairs.{key}: expected none, since policies.{policy} learns from a round, which isn't among them, got {values}"
        for key, values in named.items()
        if values
    ]


def loop(params: "Params", name: str, policy: str) -> bool:
    """Tells whether a policy comes after a round: learns from it, or from one whose policy or reference does."""
    waiting, seen = [policy], set[str]()
    while waiting:
        found = getattr(params.policies.get(waiting.pop()), "round", None)
        if found == name:
            return True
        if found in params.rounds and found not in seen:
            seen.add(found)
            one = params.rounds[found]
            waiting += [one.policy, *([held_to] if (held_to := made_by(one.reference)) else [])]
    return False
