"""The report's section on what is simulated, and what the figures don't say."""

from collections.abc import Sequence
from typing import Any

from diffalign.evaluation.results import Judge
from diffalign.reporting.ingested import Ingested
from diffalign.reporting.material import Material


def context(report: Material) -> dict[str, Any]:
    """Returns the caveats."""
    return {"caveats": caveats(report.results.rewards, report.ingested)}


def caveats(judges: Sequence[Judge], ingested: Ingested) -> list[str]:
    """Returns what is simulated (the comparisons say so of themselves), and what the figures don't say."""
    found = [f"The raters are simulated: {note.removeprefix('simulated: ')}." for note in ingested.notes]
    simulated = ingested.simulated
    if simulated and not found:
        found.append("The raters are simulated, some or all: programs answered.")
    if any(judge.name == "oracle" for judge in judges):
        found.append("Captions and pictures are of a small procedural world, which the oracle reads.")
    if any(judge.name == "oracle" for judge in judges) and any("oracle" in note for note in ingested.notes):
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
