"""The report's section on what is simulated, and what the figures don't say."""

from collections.abc import Sequence
from typing import Any

from diffalign.evaluation.results import Judge
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any]:
    """Returns the caveats."""
    return {"caveats": caveats(report.results.rewards, report.ingested.simulated)}


def caveats(judges: Sequence[Judge], simulated: bool) -> list[str]:
    """Returns what is simulated (the comparisons say so of themselves), and what the figures don't say."""
    found = []
    if simulated:
        found.append(
            "The raters are simulated: programs that prefer what the oracle prefers, with a taste of their own and "
            "noise. No person answered. Captions and pictures are of a small procedural world."
        )
    if simulated and any(judge.name == "oracle" for judge in judges):
        found.append(
            "The oracle is in-family: it made the labels that the policies learnt from, and it judges them here. It "
            "shows that the pipeline optimises what it was given, not that people would agree."
        )
    if judges and not simulated:
        found.append("A judge that was trained on data like the comparisons favours policies that learnt from them.")
    return [
        *found,
        "Best and worst prompts are chosen by the score, so they are extremes; the random ones are the usual case.",
        "Intervals are over prompts. They say nothing about another training seed, other raters or other prompts.",
        "The implicit reward is the policy's own: it is measured on held-out pairs, but by what training moves.",
    ]
