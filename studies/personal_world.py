"""Personal policies on the shapes world's strong raters: the policies, who judges them, and the claims.

Two raters of each of four groups are known, whom all learn from; a third of each is new, and gets a vector only.
"""

from collections.abc import Mapping
from typing import Any

from diffalign.shapes.tastes import WORLDS
from studies.claims import BASE, Claim, Wins, beats

NAME = "personal"
WORLD = "strong"
GROUPS = tuple(WORLDS[WORLD].groups)
KNOWN, NEW = WORLDS[WORLD].ids[: 2 * len(GROUPS)], WORLDS[WORLD].ids[2 * len(GROUPS) :]
SEEDS = {NAME: 0, f"{NAME}_seed_1": 1, f"{NAME}_seed_2": 2}
"""The seed with which all of a chain is trained, by the name of its results; noise and base are the same."""
SHARED, TOKENS = "shared", "tokens"
STEPS = {SHARED: 150, TOKENS: 150, "own": 80, "new": 60}
OWN_LR = 1.0e-4
"""Of policies that go on from the shared one; at its own rate 80 steps hardly moved them."""
VECTORS = {"drop": 0.1, "lr": 1.0e-2, "only": False}
Policy = dict[str, Any]


def members(group: str, known: bool = True) -> list[str]:
    """Returns the ids of a group's raters who are known, or who are new."""
    world = WORLDS[WORLD]
    return [name for name in (world.ids[i] for i in world.members(group)) if (name in KNOWN) is known]


def own(group: str) -> str:
    """Returns the name of the policy that goes on from the shared one on a group's answers only."""
    return f"own_{group}"


def view(group: str) -> str:
    """Returns the name of the conditioned policy's view for a known rater of a group."""
    return f"view_{group}"


def new(group: str) -> str:
    """Returns the name of the conditioned policy with the vector of a group's new rater."""
    return f"new_{group}"


def policies(dpo: Mapping[str, Any], base: Mapping[str, Any], seed: int, steps: int | None = None) -> dict[str, Policy]:
    """Returns the policies in the order in which they're made; each but the first begins as one before it.

    `dpo` and `base` are the project's; `seed` and `steps` of all trainings, the latter for a quick look.
    """

    def trained(kind: str, init: str, raters: list[str], **more: Any) -> Policy:
        values = {"init": init, "raters": raters, "steps": steps or STEPS[kind], "seed": seed}
        return {**dpo, **values, "noise_seed": base["noise_seed"], **more}

    shared, tokens = (f"models/policies/{name}" for name in (SHARED, TOKENS))
    found = {
        BASE: dict(base),
        SHARED: trained(SHARED, base["init"], list(KNOWN)),
        **{own(group): trained("own", shared, members(group), lr=OWN_LR) for group in GROUPS},
        TOKENS: trained(TOKENS, shared, list(KNOWN), rater_tokens=VECTORS),
        **{view(group): {**base, "init": tokens} for group in GROUPS},
    }
    only = {"drop": 0.0, "lr": 2.0e-2, "only": True}
    return found | {new(g): trained("new", tokens, members(g, known=False), rater_tokens=only) for g in GROUPS}


def overrides() -> dict[str, dict[str, str]]:
    """Returns whom policies draw for, as in `generate.overrides`."""
    known = {view(group): {"rater": members(group)[0]} for group in GROUPS}
    return known | {new(group): {"rater": members(group, known=False)[0]} for group in GROUPS}


def by(policy: str, group: str) -> str:
    """Returns the name of a side of a contest: a policy's images, as a group's raters score them."""
    return f"{policy} by {group}"


def owner(policy: str) -> str | None:
    """Returns the group whose own a policy is; None of those that are nobody's."""
    return next((group for group in GROUPS if policy in (own(group), view(group), new(group))), None)


def described(steps: int | None = None) -> dict[str, str]:
    """Returns what each policy is, in words, with its steps, or `steps` of all; in the order of `policies`."""
    length = {kind: f"{steps or count} steps" for kind, count in STEPS.items()}
    return {
        SHARED: f"DPO on all {len(KNOWN)} known raters' pairs, {length[SHARED]}",
        **{own(g): f"goes on from {SHARED} on the pairs of {g}'s two known raters, {length['own']}" for g in GROUPS},
        TOKENS: f"goes on from {SHARED} with a vector a rater, {length[TOKENS]}; drawn as nobody's",
        **{view(g): f"{TOKENS}, drawn for a known rater of {g}" for g in GROUPS},
        **{new(g): f"{TOKENS} with the vector of a new rater of {g}, {length['new']}" for g in GROUPS},
    }


def labels() -> dict[str, str]:
    """Returns how sides are called; who judges is the group of the line's first side."""
    kinds = {own: "{}'s own policy", view: "{}'s view", new: "{}'s new rater's vector"}
    names = {BASE: "the base", SHARED: "the shared policy", TOKENS: "nobody's"}
    names |= {kind(group): words.format(group) for kind, words in kinds.items() for group in GROUPS}
    return {by(name, group): words for name, words in names.items() for group in GROUPS}


def over(kind: Any, other: str) -> tuple[Wins, ...]:
    """Returns the lines that each group's policy of a kind beats another policy by the group's own utility."""
    return tuple(beats(by(kind(group), group), by(other, group)) for group in GROUPS)


def diagonal(kind: Any) -> tuple[Wins, ...]:
    """Returns the lines that by each group its own policy of a kind beats every other group's."""
    return tuple(
        beats(by(kind(group), group), by(kind(other), group)) for group in GROUPS for other in GROUPS if other != group
    )


HERE = "this project"
CLAIMS = (
    Claim(
        "A policy that goes on from the shared one on one group's answers beats it by that group",
        HERE,
        over(own, SHARED),
    ),
    Claim("By each group its own policy beats the other groups'", HERE, diagonal(own)),
    Claim(
        "The conditioned policy's view for a rater beats it as nobody's by that rater's group", HERE, over(view, TOKENS)
    ),
    Claim("By each group its view beats the other groups'", HERE, diagonal(view)),
    Claim("A new rater's vector alone beats nobody's by the rater's group", HERE, over(new, TOKENS)),
    Claim("By each group its new rater's vector beats the other groups'", HERE, diagonal(new)),
)


def listing() -> list[str]:
    """Returns the group with its policies and claims, as `study --list` shows it; only its name makes it."""
    kinds = [SHARED, TOKENS, *(kind(group) for kind in (own, view, new) for group in GROUPS)]
    about = f"{len(SEEDS)} seeds, by each group's own utility (made by --only {NAME}, not counted below)"
    lines = [f"{NAME}: Personal policies, {about}"]
    return [*lines, *(f"  policy: {name}" for name in kinds), *(f"  claim: {claim.words}" for claim in CLAIMS)]
