"""From the results of the group `personal`, a seed each, to metrics/personal.json and to text for the terminal."""

from collections.abc import Mapping
from typing import Any

from diffalign.reporting.format import interval, percent, seeds_words
from diffalign.reporting.personal_file import SCHEMA
from studies import claims, results
from studies import personal_world as world
from studies.claims import BASE, Found

Row = Mapping[str, Any]
Side = tuple[str, str]
"""A policy's images as a group's raters score them: the policy, the group."""
Results = Mapping[str, Row]
"""By the names of SEEDS: `scores` by policy, then group, a figure an image; `prompts` and `indices` of the images."""


def summary(found: Results, about: Row, how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the contents of metrics/personal.json: the matrix, policy by group, and the claims with their verdicts.

    `found` isn't empty; `how`: resamples, confidence and seed of the intervals; `about`: split, prompts and steps.
    """
    return {
        "schema": SCHEMA,
        **about,
        "world": world.WORLD,
        "confidence": how["confidence"],
        "rule": claims.RULE,
        "seeds": [world.SEEDS[name] for name in found],
        "meant": len(world.SEEDS),
        "seconds": [one["seconds"] for one in found.values()],
        "commits": list(dict.fromkeys(one["commit"] for one in found.values())),
        "groups": list(world.GROUPS),
        "policies": [
            {
                "name": name,
                "label": words,
                "own": world.owner(name),
                "by": {group: contest((name, group), (BASE, group), found, how) for group in world.GROUPS},
            }
            for name, words in world.described(about["steps"]).items()
        ],
        "claims": verdicts(found, how),
    }


def contest(a: Side, b: Side, found: Results, how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a head to head of two sides, seed against seed, from the same noise; of several, seeds in the interval.

    With how many seeds there are, and how many were meant.
    """
    pairs = [tuple(f"{name}: {world.by(*side)}" for side in (a, b)) for name in found]
    rows = {
        f"{name}: {world.by(*side)}": {**one, "scores": one["scores"][side[0]][side[1]]}
        for name, one in found.items()
        for side in (a, b)
    }
    rate = results.over([(first, second) for first, second in pairs], rows, how)
    return rate | {"seeds": len(pairs), "meant": len(world.SEEDS)}


def verdicts(found: Results, how: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the claims with their verdicts."""
    sides = {
        world.by(policy, group): (policy, group) for policy in (BASE, *world.described()) for group in world.GROUPS
    }
    wanted = {pair for claim in world.CLAIMS for line in claim.lines for pair in line.contests}
    contests = {(a, b): contest(sides[a], sides[b], found, how) for a, b in sorted(wanted)}
    return [claims.verdict(claim, Found(contests, {}), world.labels()) for claim in world.CLAIMS]


def text(found: Row) -> str:
    """Returns the matrix and the verdicts for a terminal."""
    lines = [f"Over the base, by each group's own utility; {seeds_words(len(found['seeds']), found['meant'])}:"]
    lines.append(" " * 14 + "".join(f"{group:>22}" for group in found["groups"]))
    for row in found["policies"]:
        cells = (row["by"][group] for group in found["groups"])
        told = (f"{percent(cell['win_rate'])} ({interval(cell)})" for cell in cells)
        lines.append(f"{row['name']:<14}" + "".join(f"{cell:>22}" for cell in told))
    for claim in found["claims"]:
        held = [line["holds"] for line in claim["lines"]]
        lines.append(f"{claim['verdict']}: {claim['claim']} ({held.count(True)} of {len(held)} lines hold)")
        lines += [f"  {line['expected']}: {line['seen']}" for line in claim["lines"]]
    return "\n".join(lines)
