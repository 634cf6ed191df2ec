"""What the probes of a training say is wrong, in plain words, and which of them saw the best policy.

Pure functions of the probes so far (`points.Point`s with their `step`, oldest first) and of thresholds (params.Probe's;
None: that alarm is off): a resumed run says what an uninterrupted one would.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy.special import ndtri

from diffalign.monitoring.curve import Point

Thresholds = Mapping[str, float | None]
ONE_SIDED = float(ndtri(0.95))
"""Standard errors below an estimate where its 95% lower confidence bound lies."""
MUCH_WORSE = 2.0
"""An alarm is said again at so many times the value it was said at."""
LOUD = 1e9
"""Stands for the value of a figure that is no number any more."""

EXPLANATIONS = {
    "winner_worse": (
        "the policy denoises held-out winners worse than its reference does, by {value:.2%} at least (with 95% "
        "confidence; threshold {threshold:.2%}). Its margin then grows because losers get worse faster: loss and "
        "accuracy can look fine while the images get worse. Lower lr, raise beta, set safeguard, or publish an earlier "
        "step (choose: probe)."
    ),
    "saturation": (
        "{value:.1%} of the held-out draws have a margin so large that they pull with less than a twentieth of their "
        "weight (threshold {threshold:.1%}): the policy has moved far from the reference for this beta, and what is "
        "left to learn from are the pairs it gets wrong. Lower lr or beta, or stop earlier."
    ),
    "divergence": (
        "the policy's denoising error on held-out images has grown by {value:.0%} of the reference's (threshold "
        "{threshold:.0%}), winners' and losers' together: it forgets how to denoise. Lower lr, or raise warmup_steps "
        "or beta."
    ),
    "reference_changed": (
        "the reference's errors at the same draws differ by {value:.2%} from those measured first (threshold "
        "{threshold:.2%}): its weights have moved (with LoRA: the network without its adapters isn't the init any "
        "more), so no change against it means anything. That's a fault: start anew from the init."
    ),
}
"""Each alarm in words; its keys are the alarms there are."""


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
    explanation: str
    """At the worst value."""

    @property
    def when(self) -> str:
        """The step, or the first and the last one, at which it held."""
        return f"step {self.step}" if self.step == self.last else f"steps {self.step} to {self.last}"


def values(point: Point) -> dict[str, float]:
    """Each alarm's value at a probe; an alarm whose figures weren't measured there isn't in it.

    winner_worse: the lower confidence bound of the winner's relative error change. saturation: the share of saturated
    draws. divergence: the mean of the winner's and the loser's relative error change. reference_changed: the drift.
    """
    if point.get("broken"):
        return {"divergence": LOUD}
    found = {"divergence": (point["winner_relative"] + point["loser_relative"]) / 2}
    if "winner_relative_se" in point:  # one prompt alone has none
        found["winner_worse"] = point["winner_relative"] - ONE_SIDED * point["winner_relative_se"]
    if "saturated" in point:
        found["saturation"] = point["saturated"]
    if "reference_drift" in point:
        found["reference_changed"] = point["reference_drift"]
    return found


def raised(point: Point, thresholds: Thresholds) -> dict[str, float]:
    """The alarms that hold at a probe, with their values."""
    limits = {name: limit for name in EXPLANATIONS if (limit := thresholds[name]) is not None}
    found = values(point)
    return {name: found[name] for name, limit in limits.items() if name in found and found[name] > limit}


def listed(history: Sequence[Point], thresholds: Thresholds) -> list[Alarm]:
    """All alarms that were raised, by the step at which they began."""
    found: dict[str, list[tuple[float, int]]] = {}
    for point in history:
        for name, value in raised(point, thresholds).items():
            found.setdefault(name, []).append((value, int(point["step"])))
    alarms = [
        Alarm(name, seen[0][1], seen[-1][1], worst := max(seen)[0], limit, explained(name, worst, limit))
        for name, seen in found.items()
        if (limit := thresholds[name]) is not None
    ]
    return sorted(alarms, key=lambda alarm: alarm.step)


def news(history: Sequence[Point], thresholds: Thresholds) -> list[str]:
    """What is to be said of the newest probe: alarms that begin with it, or got MUCH_WORSE since they were said."""
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
    """An alarm in plain words."""
    if value == LOUD:
        return "the policy's denoising error on held-out images is no number any more. Lower lr, or raise warmup_steps."
    return EXPLANATIONS[name].format(value=value, threshold=threshold)


def best(history: Sequence[Point], thresholds: Thresholds) -> tuple[int, str]:
    """The step of the probe whose policy is to be published under `choose: probe`, and why; ValueError without probes.

    The one of the largest margin among those without an alarm: while winners aren't denoised much worse, a larger
    margin is more of what the pairs say. Where all have one, the last: nothing here tells them apart. (The one with the
    lowest winners' errors was tried on the shapes world, at 15 times the default rate: its images lost to the last's.)
    """
    if not history:
        raise ValueError("best: expected at least one probe, got none")
    quiet = [point for point in history if not (point["broken"] or raised(point, thresholds))]
    if quiet:
        chosen = max(quiet, key=lambda point: point["margin"])
        why = f"the largest margin, {chosen['margin']:.3g}, of {len(quiet)} probes without an alarm"
        return int(chosen["step"]), f"{why}, of {len(history)} in all"
    last = ([point for point in history if not point["broken"]] or history)[-1]
    return int(last["step"]), f"none of {len(history)} probes was without an alarm; this is the last"
