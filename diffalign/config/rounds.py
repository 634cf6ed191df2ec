"""Rounds: a policy's own images for training prompts, compared by a reward; the next policy's `init` names one."""

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field

from diffalign.config.values import Count, Flag, Model, Name, Positive, Whole

if TYPE_CHECKING:
    from diffalign.config.params import Params

FOLDER = "data/rounds"
"""Where `collect@NAME` writes the round NAME."""


class Round(Model):
    """One round: whose images, for how many training prompts, and who compares them."""

    policy: Name
    prompts: Count
    images_per_prompt: Annotated[int, Field(ge=2)]
    label: Name
    """One of `rewards`."""
    temperature: Positive | None
    """Of simulated raters, in units of the reward; None: the higher score wins."""
    rule: Literal["best_worst", "all_pairs"]
    with_base: Flag
    """Whether the raters' own train comparisons are learned from beside."""
    seed: Whole


def of_init(init: object, rounds: Mapping[Any, Any]) -> str | None:
    """Returns the round that an init names as the folder that `collect` writes; None for another init."""
    path = PurePosixPath(init) if isinstance(init, str) else PurePosixPath()
    return path.name if path.parent == PurePosixPath(FOLDER) and path.name in rounds else None


def started(policy: Mapping[str, Any], rounds: Mapping[Any, Any], policies: Mapping[Any, Any]) -> dict[str, Any]:
    """Returns a policy's values with the init that its round means: the weights of the policy whose images it has.

    A policy without training has none of its own, so that is its init. What isn't a mapping where one should be is left
    as it is.
    """
    name = of_init(policy.get("init"), rounds)
    found = rounds[name] if name else None
    if not isinstance(found, Mapping) or "policy" not in found:
        return dict(policy)
    maker = policies.get(found["policy"])
    init = f"models/policies/{found['policy']}"
    if isinstance(maker, Mapping) and maker.get("method") == "none":
        init = maker.get("init", init)
    return {**policy, "init": init, "round": name}


def problems(params: "Params") -> list[str]:
    """Lists rounds of policies or by rewards that there aren't, and chains of rounds that come back to themselves."""
    lines = []
    for name, one in params.rounds.items():
        if one.policy not in params.policies:
            known = ", ".join(params.policies)
            lines.append(f"rounds.{name}.policy: expected one of the policies {known}, got {one.policy!r}")
        elif loop(params, one.policy):
            lines.append(f"rounds.{name}.policy: expected a policy before this round, {one.policy} learns from it")
        if one.label not in params.rewards:
            known = ", ".join(params.rewards) or "none so far"
            lines.append(f"rounds.{name}.label: expected one of rewards, {known}, got {one.label!r}")
    for name, policy in params.policies.items():
        known, given = ", ".join(params.rounds) or "none so far", getattr(policy, "round", None)
        if of_init(policy.init, {PurePosixPath(policy.init).name: 1}):
            lines.append(f"policies.{name}.init: expected one of rounds, {known}, got {policy.init!r}")
        elif given is not None and given not in params.rounds:
            lines.append(f"policies.{name}.round: expected no such key, but a round as init, such as {FOLDER}/r1")
        elif given is not None:
            lines += unheard(params, name, getattr(policy, "raters", None))
    return lines


def unheard(params: "Params", policy: str, own: list[str] | None) -> list[str]:
    """Lists the keys of `pairs` that would leave out, unsaid, the answers of a policy's round."""
    how = params.pairs
    named = {"raters": how.raters if own is None else [], "axes": list(how.axes), "sources": list(how.sources)}
    return [
        f"pairs.{key}: expected none, since policies.{policy} learns from a round, which isn't among them, got {values}"
        for key, values in named.items()
        if values
    ]


def loop(params: "Params", policy: str) -> bool:
    """Tells whether a policy's round, the policy of that round and so on come back to a policy."""
    seen: set[str] = set()
    while policy in params.policies and policy not in seen:
        seen.add(policy)
        name = getattr(params.policies[policy], "round", None)
        if name not in params.rounds:
            return False
        policy = params.rounds[name].policy
    return policy in seen
