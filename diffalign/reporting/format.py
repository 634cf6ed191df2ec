"""Figures as text: shares, intervals, alarms."""

from collections.abc import Mapping, Sequence
from typing import Any


def percent(value: float | None) -> str:
    """Returns a share as `91.2%`; a missing one as a dash."""
    return "–" if value is None else f"{100 * value:.1f}%"


def interval(row: Mapping[str, Any]) -> str:
    """Returns a result's interval as `87.0–94.1%`; a dash where it has none."""
    return "–" if row["ci_low"] is None else f"{percent(row['ci_low'])[:-1]}–{percent(row['ci_high'])}"


def seeds_words(made: int, meant: int) -> str:
    """Says of how many seeds of training figures are, and what their intervals cover."""
    if made == 1:
        return f"one of {meant} seeds: intervals are over prompts and don't cover another seed"
    lacking = "" if made == meant else f" of {meant}"
    return f"{made}{lacking} seeds, which intervals cover as they do prompts"


def duration(seconds: float) -> str:
    """Returns a time as `9 min 51 s`, from an hour on as `3 h 20 min`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"


def chance(p: float | None) -> str:
    """Returns a p value for reading: two figures, `< 0.001` below that, a dash where there's none."""
    return "–" if p is None else "< 0.001" if p < 0.001 else f"{p:.2g}"


def alarm_words(alarms: Sequence[Mapping[str, Any]] | None) -> str:
    """Says which alarms were raised in a training, each with its first step; or that there was none, or no probe."""
    if alarms is None:
        return "no probe"
    return ", ".join(f"{alarm['name']} from step {alarm['step']:,}" for alarm in alarms) or "no alarm"
