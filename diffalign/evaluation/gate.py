"""The gate's conditions: pure functions from metrics to rulings; what wasn't measured is missing, never passed."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from diffalign.core.home import COMMAND
from diffalign.evaluation.audits.findings import Audit, Estimated
from diffalign.evaluation.people_results import People
from diffalign.evaluation.results import Alarm, Evaluation
from diffalign.evaluation.verdicts import PolicyRulings, Ruling, Verdict, Verdicts, overall

if TYPE_CHECKING:
    from diffalign.config.gate import Alarms, Condition, Flagged, RaterGap, Shift, TrainingAlarms, Votes, WinRate


HELD_OUT, ALL = "held_out", "all"
"""Words of params: each judge of another family than what a policy learned from; each set of prompts."""
OFF = "it's off in evaluate.alarms"


@dataclass(frozen=True)
class Figures:
    """All that conditions may ask for."""

    baseline: str
    evaluation: Evaluation
    audit: Audit
    training_alarms: Mapping[str, Sequence[str]]
    """Of each policy that was trained and probed, the names of the alarms that were raised."""
    people: People


def judge(conditions: "Sequence[Condition]", policies: Sequence[str], figures: Figures) -> Verdicts:
    """Rules on every policy but the baseline."""
    found = [
        (name, [ruling for condition in conditions for ruling in rule(condition, name, figures)])
        for name in policies
        if name != figures.baseline
    ]
    return Verdicts(
        schema=1,
        baseline=figures.baseline,
        policies=[PolicyRulings(policy=name, verdict=overall(rulings), rulings=rulings) for name, rulings in found],
    )


def rule(condition: "Condition", policy: str, figures: Figures) -> list[Ruling]:
    """Returns a condition's rulings on a policy: one, or one for each judge or set that it speaks of."""
    return CONDITIONS[condition.figure](condition, policy, figures)


def win_rate(condition: "WinRate", policy: str, figures: Figures) -> list[Ruling]:
    """Asks that the lower bound of the win rate over the baseline be above a threshold, by each judge and set."""
    held_out = condition.judge == HELD_OUT
    rows = [
        row
        for row in figures.evaluation.comparisons
        if row.policy == policy
        and (not row.in_family if held_out else row.scorer == condition.judge)
        and condition.set in (ALL, row.set)
    ]
    if not rows:
        who = "no judge of another family judged" if held_out else f"{condition.judge} didn't judge"
        name = f"win rate by {condition.judge} on {condition.set}, lower bound above {condition.above:g}"
        return [missing(name, f"{who} it: see rewards and generate.prompts", condition.above)]
    return [
        lower_bound(
            f"win rate by {row.scorer} on {row.set}, lower bound above {condition.above:g}",
            row.win_rate,
            row.ci_low,
            row.ci_high,
            condition.above,
        )
        for row in rows
    ]


def votes(condition: "Votes", policy: str, figures: Figures) -> list[Ruling]:
    """Asks the same of people's votes on one question; missing where none counts, or programs were among the voters."""
    name = f"win rate by votes ({condition.question}), lower bound above {condition.above:g}"
    if figures.people.simulated:
        return [missing(name, "simulated voters are no people: remove data/votes/simulated.parquet", condition.above)]
    baseline = figures.baseline
    for row in figures.people.win_rates:
        if (row.policy, row.baseline, row.question) == (policy, baseline, condition.question):
            return [lower_bound(name, row.win_rate, row.ci_low, row.ci_high, condition.above)]
    return [missing(name, f"nobody compared it with {baseline}: {COMMAND} arena", condition.above)]


def alarms(condition: "Alarms", policy: str, figures: Figures) -> list[Ruling]:
    """Asks that each of some alarms of evaluation be quiet: one that is off, or wasn't measured, is missing."""
    return [
        of_alarm(name, [a for a in figures.evaluation.alarms if (a.policy, a.name) == (policy, name)])
        for name in condition.quiet
    ]


def of_alarm(name: str, found: Sequence[Alarm]) -> Ruling:
    """Rules on an alarm by all the judges or features that measured it: one that raised it counts, then a quiet one.

    A judge that can't measure it, such as one without an eye for prompts their alignment, leaves it to the others.
    """
    said: dict[str, Verdict] = {"raised": "failed", "quiet": "passed", "missing": "missing"}
    worst = next((alarm for verdict in said for alarm in found if alarm.verdict == verdict), None)
    words = f"alarm {name}, quiet"
    if worst is None:
        return missing(words, OFF if name != "hacking" else f"{OFF}, or the policy learnt from no preferences", 0.0)
    return ruling(words, worst.figure, worst.low, worst.high, worst.threshold, said[worst.verdict], worst.by)


def training_alarms(condition: "TrainingAlarms", policy: str, figures: Figures) -> list[Ruling]:
    """Asks that training raised no alarm but the allowed ones; missing where nothing was probed."""
    name = "alarms in training" + (f" but {', '.join(condition.allowed)}" if condition.allowed else "") + ", none"
    if policy not in figures.training_alarms:
        return [missing(name, "it wasn't trained with probes", 0.0)]
    raised = [alarm for alarm in figures.training_alarms[policy] if alarm not in condition.allowed]
    return [count(name, raised)]


def flagged(condition: "Flagged", policy: str, figures: Figures) -> list[Ruling]:
    """Asks that a filter flag no more of a policy's images than of the baseline's, but for a margin, in each set."""
    rows = [r for r in figures.audit.safety if r.policy == policy and r.filter == condition.filter]
    return estimates(
        f"rise of images flagged by {condition.filter}, upper bound at most {condition.at_most:g}",
        [(row.set, row.difference) for row in rows],
        f"no such filter: is {condition.filter} in audit.filters?",
        condition.at_most,
    )


def shift(condition: "Shift", policy: str, figures: Figures) -> list[Ruling]:
    """Asks that an attribute's distribution have moved at most so far from the baseline's, in each set."""
    rows = [r for r in figures.audit.shifts if r.policy == policy and r.audit == condition.attribute]
    return estimates(
        f"shift of {condition.attribute}, upper bound at most {condition.at_most:g}",
        [(row.set, row.distance) for row in rows],
        f"no open prompts, or {condition.attribute} isn't in audit.attributes",
        condition.at_most,
    )


def rater_gap(condition: "RaterGap", policy: str, figures: Figures) -> list[Ruling]:
    """Asks that groups of raters agree about as often with a policy's implicit reward."""
    rows = [r for r in figures.audit.composition if r.kind == "policy" and r.name == policy]
    return estimates(
        f"gap between groups of raters, upper bound at most {condition.at_most:g}",
        [("", row.gap) for row in rows],
        "no groups: are there audit.rater_groups, and was the policy trained?",
        condition.at_most,
    )


CONDITIONS: dict[str, Callable[[Any, str, Figures], list[Ruling]]] = {
    "win_rate": win_rate,
    "votes": votes,
    "alarms": alarms,
    "training_alarms": training_alarms,
    "flagged": flagged,
    "shift": shift,
    "rater_gap": rater_gap,
}
"""The function of each `figure` in params."""


def estimates(name: str, found: Sequence[tuple[str, Estimated]], absent: str, most: float) -> list[Ruling]:
    """Rules by the upper bound of each estimate, with its set; missing, for the reason given, without any."""
    if not found:
        return [missing(name, absent, most)]
    return [
        upper_bound(f"{name} ({group})" if group else name, one.value, one.low, one.high, most) for group, one in found
    ]


def lower_bound(name: str, figure: float | None, low: float | None, high: float | None, above: float) -> Ruling:
    """Rules by the interval's lower bound, which must be above the threshold."""
    if figure is None or low is None:
        return missing(name, "nothing was judged", above)
    return ruling(name, figure, low, high, above, "passed" if low > above else "failed")


def upper_bound(name: str, figure: float | None, low: float | None, high: float | None, most: float) -> Ruling:
    """Rules by the interval's upper bound, which must be at most the threshold."""
    if figure is None or high is None:
        return missing(name, "nothing was measured", most)
    return ruling(name, figure, low, high, most, "passed" if high <= most else "failed")


def count(name: str, raised: Sequence[str]) -> Ruling:
    """Rules by a number of alarms, which must be none."""
    return ruling(name, float(len(raised)), None, None, 0.0, "failed" if raised else "passed", ", ".join(raised))


def missing(name: str, note: str, threshold: float) -> Ruling:
    """Says that there's nothing to rule by."""
    return ruling(name, None, None, None, threshold, "missing", note)


def ruling(
    name: str,
    figure: float | None,
    low: float | None,
    high: float | None,
    threshold: float,
    verdict: Verdict,
    note: str = "",
) -> Ruling:
    """Returns a ruling."""
    return Ruling(name=name, figure=figure, low=low, high=high, threshold=threshold, verdict=verdict, note=note)
