"""The schema of metrics/gate.json: of each policy every condition's figure and verdict, and the verdict of all."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from diffalign.core import records
from diffalign.core.records import Record

FILE = Path("metrics/gate.json")
STAGE = "gate"
Verdict = Literal["passed", "failed", "missing"]


class Ruling(Record):
    """One condition's figure for one policy, and the verdict; what wasn't measured is None, and missing."""

    name: str
    """The condition in words, its threshold included."""
    figure: float | None
    low: float | None
    """Bounds of the figure's interval; None where it has none."""
    high: float | None
    threshold: float | None
    verdict: Verdict
    note: str
    """Why it's missing, or what a reader should know; else empty."""


class PolicyRulings(Record):
    """A policy's verdict: passed where all conditions are, failed where one is, else missing."""

    policy: str
    verdict: Verdict
    rulings: list[Ruling]


class Verdicts(Record):
    """The whole file; the baseline isn't in it, since figures are over it."""

    version: Literal[1] = Field(alias="schema")
    baseline: str
    policies: list[PolicyRulings]


def read(path: Path = FILE) -> Verdicts:
    """Reads the verdicts; UserError if the file is missing or damaged."""
    return records.read(path, Verdicts, STAGE)


def overall(rulings: Sequence[Ruling]) -> Verdict:
    """Returns passed only where every condition is: what wasn't measured doesn't open the gate."""
    found = {ruling.verdict for ruling in rulings}
    return "failed" if "failed" in found else "passed" if found == {"passed"} else "missing"


def table(policy: PolicyRulings) -> str:
    """Returns a policy's rulings as lines for a terminal."""
    rows = [[r.verdict, r.name, shown(r), r.note] for r in policy.rulings]
    widths = [max(len(row[i]) for row in rows) for i in range(4)]
    lines = ["  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    return "\n".join([f"{policy.policy}: {policy.verdict}", *(line.rstrip() for line in lines)])


def shown(ruling: Ruling) -> str:
    """Returns a figure with its interval, three decimals."""
    if ruling.figure is None:
        return "-"
    interval = "" if ruling.low is None or ruling.high is None else f" [{ruling.low:.3f}, {ruling.high:.3f}]"
    return f"{ruling.figure:.3f}{interval}"
