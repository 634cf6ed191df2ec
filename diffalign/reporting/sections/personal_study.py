"""The report's section of the study's personal policies: the matrix, policy by group of raters, and the verdicts."""

from collections.abc import Mapping
from typing import Any

from diffalign.reporting.format import seeds_words
from diffalign.reporting.material import Material
from diffalign.reporting.personal_file import Personal
from diffalign.reporting.sections.matrix import EMPTY, written
from diffalign.reporting.sections.study import claim_row, verdict_counts

Row = Mapping[str, Any]


def context(report: Material) -> dict[str, Any] | None:
    """Returns the matrix and the claims; None where no seed was made, and the section isn't shown."""
    return None if report.personal is None else section(report.personal)


def section(personal: Personal) -> dict[str, Any]:
    """Returns the rows with a cell a group, how many claims had which verdict, and how it was made."""
    found = personal.model_dump()
    return {
        "counts": verdict_counts(personal.claims),
        "about": about(found),
        "rule": personal.rule,
        "groups": personal.groups,
        "rows": [
            {"policy": row["name"], "label": row["label"], "cells": [cell(row, group) for group in personal.groups]}
            for row in found["policies"]
        ],
        "claims": [claim_row(claim) for claim in found["claims"]],
        "seconds": ", ".join(f"{seconds:,.0f}" for seconds in personal.seconds),
        "commits": ", ".join(personal.commits),
    }


def about(found: Row) -> str:
    """Says how the policies were made and judged, in words."""
    steps = f", {found['steps']:,} steps each," if found["steps"] else ""
    return (
        f"{len(found['policies'])} policies{steps} trained on simulated raters' answers ({found['world']} tastes); "
        f"each makes one image for each of {found['prompts']:,} prompts of the {found['split']} split, from the base's "
        f"noise. Figures with {found['confidence']:.0%} intervals are of "
        f"{seeds_words(len(found['seeds']), found['meant'])}; of many intervals some miss."
    )


def cell(row: Row, group: str) -> dict[str, Any]:
    """Returns a group's cell of a policy: the rate, its interval, and whether the policy is the group's own."""
    rate, own = row["by"][group], {"own": row["own"] == group}
    return (EMPTY if rate["win_rate"] is None else written(rate["win_rate"], rate)) | own
