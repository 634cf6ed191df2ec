"""Judges what claims expect of runs: pure functions of win rates with intervals, and alarms."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from diffalign.reporting.format import alarm_words, interval, percent
from diffalign.reporting.study_file import Verdict

Row = Mapping[str, Any]
Labels = Mapping[str, str]
"""The names of the runs."""
BASE = "base"
"""The name by which claims call the model before alignment, whatever it's called in params.yaml."""
CLOSE = 0.1
"""How far from one half is near."""
RULE = (
    "A line about a win rate, image by image from the same noise, holds if the whole interval is where the line says, "
    "and fails if the whole interval is elsewhere. Reproduced: all lines hold. Not reproduced: one fails. Otherwise it "
    "can't be told."
)


@dataclass(frozen=True)
class Found:
    """What was seen: contests head to head, by the names of both, and the rows of the runs, by name."""

    contests: Mapping[tuple[str, str], Row]
    runs: Mapping[str, Row]


@dataclass(frozen=True)
class Wins:
    """The images of `a` win against those of `b` at a rate above `low` and at most `high`."""

    a: str
    b: str
    low: float
    high: float

    @property
    def contests(self) -> list[tuple[str, str]]:
        """Returns the names of both sides of each comparison that the line needs."""
        return [(self.a, self.b)]

    def words(self, labels: Labels) -> str:
        """Returns the expectation in words."""
        if (self.low, self.high) == (0.5, 1.0):
            return f"{labels[self.a]} beats {labels[self.b]}"
        return f"{labels[self.a]} wins {self.low:.0%} to {self.high:.0%} over {labels[self.b]}"

    def holds(self, found: Found) -> bool | None:
        """Returns True with the interval within the limits, False with it outside, None where a limit is inside it.

        None, too, for one seed where several were meant: its interval says nothing of others.
        """
        row = found.contests[self.a, self.b]
        if row["win_rate"] is None or row["seeds"] == 1 < row["meant"]:
            return None
        if row["ci_low"] > self.low and row["ci_high"] <= self.high:
            return True
        return False if row["ci_high"] < self.low or row["ci_low"] > self.high else None

    def seen(self, found: Found, labels: Labels) -> str:
        """Returns the win rate with its interval, and how many seeds that is of where some weren't run."""
        row = found.contests[self.a, self.b]
        lacking = "" if row["seeds"] == row["meant"] else f", {row['seeds']} of {row['meant']} seeds"
        return f"{percent(row['win_rate'])} ({interval(row)}){lacking}"


def beats(a: str, b: str) -> Wins:
    """Returns the line that images of `a` win against those of `b`: the interval is above one half."""
    return Wins(a, b, 0.5, 1.0)


def near(a: str, b: str) -> Wins:
    """Returns the line that images of `a` win about as often as `b`'s: the interval is within CLOSE of one half."""
    return Wins(a, b, 0.5 - CLOSE, 0.5 + CLOSE)


@dataclass(frozen=True)
class AlarmsTell:
    """Of some runs those whose images lose to a good run's had an alarm in training, and the good ones had none."""

    good: tuple[str, ...]
    """Good runs, of which the first is the measure."""
    runs: tuple[str, ...]

    @property
    def contests(self) -> list[tuple[str, str]]:
        """Returns the names of both sides of each comparison that the line needs."""
        return [(name, self.good[0]) for name in (*self.runs, *self.good[1:])]

    def words(self, labels: Labels) -> str:
        """Returns the expectation in words."""
        quiet = " and ".join(labels[name] for name in self.good)
        return f"an alarm in every run that loses to {labels[self.good[0]]}, and none in {quiet}"

    def holds(self, found: Found) -> bool | None:
        """Returns True if it's so; None if no run lost, a run wasn't watched, or a win rate is missing."""
        watched = [found.runs[name]["alarms"] for name in (*self.good, *self.runs)]
        rates = [found.contests[name, self.good[0]] for name in self.runs]
        if any(alarms is None for alarms in watched) or any(row["win_rate"] is None for row in rates):
            return None
        lost = [name for name, row in zip(self.runs, rates, strict=True) if row["ci_high"] < 0.5]
        if not lost:
            return None
        silent = not any(found.runs[name]["alarms"] for name in self.good)
        return silent and all(found.runs[name]["alarms"] for name in lost)

    def seen(self, found: Found, labels: Labels) -> str:
        """Returns each run's alarms, and how it did against the good one."""
        told = [f"{labels[name]}: {alarm_words(found.runs[name]['alarms'])}" for name in self.good]
        for name in self.runs:
            row, alarms = found.contests[name, self.good[0]], alarm_words(found.runs[name]["alarms"])
            told.append(f"{labels[name]} wins {percent(row['win_rate'])} ({interval(row)}) over the first, {alarms}")
        return "; ".join(told)


Line = Wins | AlarmsTell


@dataclass(frozen=True)
class Claim:
    """What is claimed, by whom, and what would be seen here if it's so."""

    words: str
    source: str
    lines: tuple[Line, ...]


def outcome(held: Sequence[bool | None]) -> Verdict:
    """Returns the verdict on a claim from whether each of its lines holds (None: it can't be told), by RULE."""
    if False in held:
        return "not reproduced"
    return "can't be told" if None in held else "reproduced"


def verdict(claim: Claim, found: Found, labels: Labels) -> dict[str, Any]:
    """Returns a claim with its verdict, and of each line what was expected, what was seen, and whether it holds."""
    lines, held = [], []
    for line in claim.lines:
        made = all(names in found.contests for names in line.contests)
        held.append(line.holds(found) if made else None)
        seen = line.seen(found, labels) if made else "not run yet"
        lines.append({"expected": line.words(labels), "seen": seen, "holds": held[-1]})
    everything = all(names in found.contests for line in claim.lines for names in line.contests)
    result = outcome(held) if everything else "not run yet"
    return {"claim": claim.words, "source": claim.source, "lines": lines, "verdict": result}
