"""Checks of rounds beside the other params: policies and rewards that there aren't, chains that come back, votes."""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import TYPE_CHECKING

from diffalign.config.rounds import ASKED, FOLDER, PEOPLE, POLICIES, made_by, of_init
from diffalign.core.errors import UserError

if TYPE_CHECKING:
    from diffalign.config.params import Params


def problems(params: "Params") -> list[str]:
    """Lists rounds of policies or by rewards that there aren't, and chains of rounds that come back to themselves."""
    lines = list[str]()
    for name, one in params.rounds.items():
        lines += [f"rounds.{name}.{line}" for line in one.problems()]
        if one.policy not in params.policies:
            known = ", ".join(params.policies)
            lines.append(f"rounds.{name}.policy: expected one of the policies {known}, got {one.policy!r}")
        elif loop(params, name, one.policy):
            lines.append(f"rounds.{name}.policy: expected a policy before this round, {one.policy} learns from it")
        earlier = before(params, name)
        if unknown := [other for other in one.with_rounds if other not in earlier]:
            known = ", ".join(earlier) or "none, since it's the first"
            lines.append(f"rounds.{name}.with_rounds: expected rounds before it, {known}, got {', '.join(unknown)}")
        held_to = made_by(one.reference)
        if held_to is not None and held_to not in params.policies:
            lines.append(f"rounds.{name}.reference: expected a model's folder or a policy's, got {one.reference!r}")
        elif held_to is not None and loop(params, name, held_to):
            lines.append(f"rounds.{name}.reference: expected a policy before this round, {held_to} learns from it")
        for key, folder in (("policy", f"{POLICIES}/{one.policy}"), ("reference", one.reference)):
            lines += [f"rounds.{name}.{key}: {line}" for line in without_weights(params, folder)]
        if one.label not in params.rewards and not one.by_people:
            known = ", ".join([*params.rewards, PEOPLE])
            lines.append(f"rounds.{name}.label: expected one of rewards or people, {known}, got {one.label!r}")
    for name, policy in params.policies.items():
        known, given = ", ".join(params.rounds) or "none so far", getattr(policy, "round", None)
        if of_init(policy.init, {PurePosixPath(policy.init).name: 1}):
            lines.append(f"policies.{name}.init: expected one of rounds, {known}, got {policy.init!r}")
        elif given is not None and given not in params.rounds:
            lines.append(f"policies.{name}.round: expected no such key, but a round as init, such as {FOLDER}/r1")
        elif given is None:
            lines += [f"policies.{name}.init: {line}" for line in without_weights(params, policy.init)]
        else:
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


def without_weights(params: "Params", folder: str) -> list[str]:
    """Returns what to name instead of the folder of a policy that has raters' vectors and no weights; none for others.

    Where such a policy began with a LoRA, it has all weights: the sum.
    """
    made = params.policies.get(made_by(folder) or "")
    tokens = getattr(made, "rater_tokens", None)
    if made is None or tokens is None or not tokens.only:
        return []
    before = params.policies.get(made_by(made.init) or "")
    if made.init.endswith(".safetensors") or getattr(before, "lora", None) is not None:
        return []
    return [f"expected a model with weights, {folder} has raters' vectors only; name its init, {made.init}"]


def unheard(params: "Params", policy: str, own: list[str] | None) -> list[str]:
    """Lists the keys of `pairs` that would leave out, unsaid, the answers of a policy's round."""
    how = params.pairs
    named = {"raters": how.raters if own is None else [], "axes": list(how.axes), "sources": list(how.sources)}
    return [
        f"pairs.{key}: expected none, since policies.{policy} learns from a round, which isn't among them, got {values}"
        for key, values in named.items()
        if values
    ]


def before(params: "Params", name: str) -> list[str]:
    """Returns the rounds that the policy of a round comes from, the latest first: DVC makes it after all of them."""
    found: list[str] = []
    while name in params.rounds and name not in found:
        found.append(name)
        name = getattr(params.policies.get(params.rounds[name].policy), "round", None) or ""
    return found[1:]


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
