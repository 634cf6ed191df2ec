"""Tells from a training's probes what is wrong, and which of them saw the best policy.

Pure functions of the probes so far (`points.Point`s with their `step`, oldest first) and of thresholds (params.Probe's;
None: that alarm is off): a resumed run says what an uninterrupted one would.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from diffalign.monitoring.alarm_words import NO_NUMBER, WORDS
from diffalign.monitoring.curve import Point

Thresholds = Mapping[str, float | None]
ONE_SIDED = 1.6448536269514722
"""The normal distribution's 0.95 quantile: an estimate's 95% lower bound lies so many standard errors below it."""
MUCH_WORSE = 2.0
"""An alarm is said again at so many times the value it was said at."""
LOUD = 1e9
"""Stands for the value of a figure that is no number any more."""


@dataclass(frozen=True)
class Alarm:
    """An alarm that was raised in a training."""

    name: str
    step: int
    """Where it was raised first."""
    last: int
    """The last probe at which it held."""
    value: float
    """The worst value while it held."""
    threshold: float

    @property
    def explanation(self) -> str:
        """Returns the alarm in words, at the worst value."""
        return explained(self.name, self.value, self.threshold)

    @property
    def when(self) -> str:
        """Returns the step, or the first and the last one, at which it held."""
        return f"step {self.step}" if self.step == self.last else f"steps {self.step} to {self.last}"


def winner_worse(point: Point) -> float | None:
    """Returns the lower confidence bound of the winners' relative error change.

    None for one prompt, which has none, and for a policy that learns from its own pictures, not from these winners.
    """
    if "winner_relative_se" not in point or "reward" in point:
        return None
    return point["winner_relative"] - ONE_SIDED * point["winner_relative_se"]


def divergence(point: Point) -> float:
    """Returns the mean of the winners' and the losers' relative error change; `LOUD` where it's no number."""
    return LOUD if point.get("broken") else (point["winner_relative"] + point["loser_relative"]) / 2


ALARMS: dict[str, Callable[[Point], float | None]] = {
    "winner_worse": winner_worse,
    "saturation": lambda point: point.get("saturated"),
    "divergence": divergence,
    "reference_changed": lambda point: point.get("reference_drift"),
    "reward_spread": lambda point: point.get("spread_lost"),
    "clip_share": lambda point: point.get("clip_share"),
    "kl": lambda point: point.get("kl"),
    "judge_falls": lambda point: point.get("judge_fall"),
}
"""Each alarm's value at a probe; None where its figures weren't measured. It is raised above the threshold of that name
in the section `probe` of params.yaml, and its text is in alarm_words.py."""


OF_ALL = ("winner_worse", "saturation", "divergence", "reference_changed")
"""The alarms of all trainings; the others are of those on the policy's own pictures."""


def due(point: Point) -> list[str]:
    """Returns the alarms that a probe's training can raise: `judge_falls` only where there is a judge."""
    own = [name for name in ALARMS if name not in OF_ALL and (name != "judge_falls" or "judge" in point)]
    return [*OF_ALL, *own] if "reward" in point else [*OF_ALL]


def of_rollouts(history: Sequence[Point], point: Point) -> Point:
    """Returns what a probe's figures of the policy's own pictures say beside the earlier probes'.

    `spread_lost`: the share by which the rewards' spread has fallen since the first one; `judge_fall`: how far the
    judge is below its best while the reward is above what it was there, in the judge's standard deviations at the
    first probe.
    """
    found: Point = {}
    first = next((p for p in history if "reward_std" in p), point)
    if first.get("reward_std") and "reward_std" in point:
        found["spread_lost"] = max(0.0, 1 - point["reward_std"] / first["reward_std"])
    judged = [p for p in history if "judge" in p and "reward" in p]
    if judged and "judge" in point and "reward" in point and judged[0].get("judge_std"):
        top = max(judged, key=lambda p: p["judge"])
        fall = (top["judge"] - point["judge"]) / judged[0]["judge_std"]
        found["judge_fall"] = max(0.0, fall) if point["reward"] > top["reward"] else 0.0
    return found


def values(point: Point) -> dict[str, float]:
    """Returns each alarm's value at a probe, of those that were measured; of a broken probe the divergence alone."""
    names = ["divergence"] if point.get("broken") else list(ALARMS)
    return {name: value for name in names if (value := ALARMS[name](point)) is not None}


def raised(point: Point, thresholds: Thresholds) -> dict[str, float]:
    """Returns the alarms that hold at a probe, with their values."""
    limits = {name: limit for name in ALARMS if (limit := thresholds.get(name)) is not None}
    found = values(point)
    return {name: found[name] for name, limit in limits.items() if name in found and found[name] > limit}


def listed(history: Sequence[Point], thresholds: Thresholds) -> list[Alarm]:
    """Returns all alarms that were raised, by the step at which they began."""
    found: dict[str, list[tuple[float, int]]] = {}
    for point in history:
        for name, value in raised(point, thresholds).items():
            found.setdefault(name, []).append((value, int(point["step"])))
    alarms = [
        Alarm(name, seen[0][1], seen[-1][1], max(seen)[0], limit)
        for name, seen in found.items()
        if (limit := thresholds[name]) is not None
    ]
    return sorted(alarms, key=lambda alarm: alarm.step)


def news(history: Sequence[Point], thresholds: Thresholds) -> list[str]:
    """Returns the lines on alarms that begin with the newest probe, or got MUCH_WORSE since they were last said."""
    said: dict[str, float] = {}
    lines: list[str] = []
    for point in history:
        now = raised(point, thresholds)
        before = {name: said[name] for name in now if name in said}  # one that has ended is forgotten
        new = {name: v for name, v in now.items() if name not in before or v >= MUCH_WORSE * before[name]}
        lines = [
            f"{name}{', much worse than when it was said' if name in before else ''}: {explained(name, value, limit)}"
            for name, value in new.items()
            if (limit := thresholds[name]) is not None
        ]
        said = before | new
    return lines


def explained(name: str, value: float, threshold: float) -> str:
    """Returns an alarm in words."""
    return NO_NUMBER if value == LOUD else WORDS[name].format(value=value, threshold=threshold)


def best(history: Sequence[Point], thresholds: Thresholds) -> tuple[int, str]:
    """Chooses the probe's step to publish under `choose: probe`, and says why; ValueError without probes.

    Of a policy that learns from its own pictures the one that the judge scores highest; of others the one of the
    largest margin: while winners aren't denoised much worse, a larger margin is more of what the pairs say. Both among
    those without an alarm. Where all have one, or the judge scored nothing, the last: nothing here tells them apart.
    (The one with the lowest winners' errors was tried on the shapes world, at 15 times the default rate: its images
    lost to the last's.)
    """
    if not history:
        raise ValueError("best: expected at least one probe, got none")
    quiet = [point for point in history if not (point["broken"] or raised(point, thresholds))]
    judged = [point for point in quiet if "judge" in point]
    if judged:
        chosen = max(judged, key=lambda point: point["judge"])
        why = f"the judge's highest score, {chosen['judge']:.4g}, of {len(judged)} probes without an alarm"
        return int(chosen["step"]), f"{why}, of {len(history)} in all"
    own = any("reward" in point for point in history)
    if quiet and not own:
        chosen = max(quiet, key=lambda point: point["margin"])
        why = f"the largest margin, {chosen['margin']:.3g}, of {len(quiet)} probes without an alarm"
        return int(chosen["step"]), f"{why}, of {len(history)} in all"
    last = ([point for point in history if not point["broken"]] or history)[-1]
    why = "was scored by the judge" if quiet else "was without an alarm"
    return int(last["step"]), f"none of {len(history)} probes {why}; this is the last"
