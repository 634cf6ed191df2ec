"""The head of the report: the headline, the figures beneath it, and what to know before believing them."""

from collections.abc import Mapping
from typing import Any

from diffalign.core.home import COMMAND
from diffalign.data.comparisons.table import SPLITS
from diffalign.evaluation.results import Comparison
from diffalign.monitoring import alarms
from diffalign.monitoring.curve import points
from diffalign.reporting import made_by
from diffalign.reporting.format import interval, percent
from diffalign.reporting.material import Material
from diffalign.reporting.sections import gate, image_alarms

UNJUDGED = "Nobody has judged these images: look at them below"
UNSCORED = "No judge could compare a policy with the baseline: look at the images below"
HOW_TO_JUDGE = (
    "For win rates name a judge in the section rewards of params.yaml: pickscore, hpsv2_1, a vision-language model, "
    f"one trained on these pairs (docs/evaluation.md has all), then dvc repro. Or ask people: {COMMAND} arena."
)
FEW = 30
"""Pairs below which an implicit reward's accuracy is no figure for the head."""


def context(report: Material) -> dict[str, Any]:
    """Returns the title, the headline, the figures and the warnings."""
    return {
        "title": report.settings.title,
        "headline": headline(report),
        "made": made_by.line(report),
        "facts": facts(report),
        "warnings": [
            *of_images(report),
            *of_comparisons(report),
            *of_noise(report),
            *of_training(report),
            *of_evaluation(report),
        ],
    }


def headline(report: Material) -> dict[str, Any]:
    """Returns the sentence at the top, from the hero's first comparison that has a win rate, and how to read it."""
    who, settings = report.roles, report.settings
    heros = [row for row in report.comparisons if (row.policy, row.baseline) == (who.hero, who.baseline)]
    row = next((row for row in heros if row.win_rate is not None), None)
    if row is None:
        return {"sentence": UNJUDGED if report.judge is None else UNSCORED, "notes": [HOW_TO_JUDGE]}
    won = f"its win rate is {percent(row.win_rate)} by the {row.scorer} score"
    images = "images" if row.seeds == 1 else f"images ({row.seeds} a prompt)"
    note = (
        f"{settings.interval.confidence:.0%} interval {interval(row.model_dump())}; ties count half; {row.judged:,} "
        f"{images} for {row.prompts:,} prompts {origin(report.galleries[who.baseline].about)}."
    )
    rivals = [
        f"{other.policy} {verb(other)} {other.baseline}, {percent(other.win_rate)} ({interval(other.model_dump())})"
        for other in report.results.head_to_heads
        if other.scorer == row.scorer and other.win_rate is not None
    ]
    heads = [f"Head to head: {'; '.join(rivals)}."] if rivals else []
    ruled = gate.summary(report.gate, row.policy) if report.gate else ""
    notes = [text for text in (*heads, ruled, note) if text]
    return {"sentence": f"{row.policy} {verb(row)} {row.baseline}: {won}", "notes": notes}


def origin(about: Mapping[str, Any]) -> str:
    """Says which sets the prompts of images are of, as their manifest tells, and whether no policy learnt from them."""
    sets = about["sets"]
    names = [f"the {one['name']} split" if one["name"] in SPLITS else one["name"] for one in sets]
    trained = any(one["in_training"] for one in sets)
    return f"of {' and '.join(names)}" + ("" if trained else ", which no policy was trained on")


def verb(row: Comparison) -> str:
    """Returns what a comparison's interval lets one say."""
    if row.ci_low is not None and row.ci_low > 0.5:
        return "beats"
    return "loses to" if row.ci_high is not None and row.ci_high < 0.5 else "can't be told from"


def facts(report: Material) -> list[dict[str, str]]:
    """Returns the figures: win rates over the baseline by the headline's judge, controls last; the hero's accuracy.

    None without a judge: the implicit reward is the policy's opinion of itself. Of fewer pairs than FEW it isn't shown.
    """
    who = report.roles
    rows = [row for row in report.results.comparisons if row.baseline == who.baseline and row.win_rate is not None]
    first = next((row for row in rows if row.policy == who.hero), None)
    rows = [row for row in rows if first and (row.scorer, row.set) == (first.scorer, first.set)]
    found = [
        {
            "value": percent(row.win_rate),
            "label": f"{row.policy} over {row.baseline}" + (", A/A control" if report.is_control(row) else ""),
            "detail": f"{interval(row.model_dump())}, by {row.scorer}",
        }
        for row in sorted(rows, key=lambda row: (report.is_control(row), row.policy != who.hero))
    ]
    for accuracy in report.results.implicit_reward if found else []:
        if accuracy.policy == who.hero and accuracy.accuracy is not None and accuracy.pairs >= FEW:
            top = f", ceiling {percent(accuracy.ceiling)}" if accuracy.ceiling is not None else ""
            found.append(
                {
                    "value": percent(accuracy.accuracy),
                    "label": f"implicit-reward accuracy of {accuracy.policy}",
                    "detail": interval(accuracy.model_dump()) + top,
                }
            )
    return found


def of_images(report: Material) -> list[str]:
    """Says whether prompts are of the validation split, fewer than were asked for, or were trained on."""
    found = []
    for one in report.galleries[report.roles.baseline].about["sets"]:
        name, count = one["name"], one["prompts"]
        if name == "validation":
            found.append(f"prompts of the {name} split are among these: where choices were made on it, it flatters.")
        if one["asked"] is not None and count < one["asked"]:
            found.append(f"{one['asked']:,} prompts of {name} were asked for, there are {count:,}.")
        if one["in_training"]:
            found.append(f"{one['in_training']:,} of {count:,} prompts of {name} were trained on, too: that flatters.")
    return found


def of_comparisons(report: Material) -> list[str]:
    """Says which images were made differently, which control misses one half, and what a judge couldn't score."""
    found = []
    for a, b, keys in dict.fromkeys((row.policy, row.baseline, row.differs) for row in report.comparisons):
        if keys:
            found.append(
                f"images of {a} and {b} were made with different {', '.join(keys)}: that alone moves figures, so the "
                "comparison isn't one of the policies."
            )
    for row in report.comparisons:
        low, high = row.ci_low, row.ci_high
        if report.is_control(row) and low is not None and high is not None and not low <= 0.5 <= high:
            found.append(
                f"the A/A control {row.policy} won {percent(row.win_rate)} ({interval(row.model_dump())}), which "
                "misses 50%: by chance that happens rarely; the intervals may be too narrow."
            )
        missing = report.missing(row)
        if missing and row.baseline == report.roles.baseline:
            found.append(
                f"{row.scorer} couldn't judge {missing:,} of {missing + row.judged:,} images of {row.policy} against "
                f"{row.baseline}: left out."
            )
    return found


def of_noise(report: Material) -> list[str]:
    """Says where the hero's images and the baseline's aren't of the same noise."""
    who = report.roles
    seeds = {report.galleries[name].noise for name in (who.hero, who.baseline) if name is not None}
    different = f"{who.hero} and {who.baseline} started from different noise: the pictures aren't paired."
    return [different] if len(seeds) > 1 else []


def of_training(report: Material) -> list[str]:
    """Says which trainings raised alarms."""
    found = {name: alarms.listed(points(lines), report.settings.thresholds) for name, lines in report.curves.items()}
    return [
        f"training {name} raised {', '.join(alarm.name for alarm in raised)}: see Training."
        for name, raised in found.items()
        if raised
    ]


def of_evaluation(report: Material) -> list[str]:
    """Says which policies' images raised alarms."""
    found: dict[str, list[str]] = {}
    for alarm in image_alarms.raised(report):
        found.setdefault(alarm.policy, []).append(alarm.name)
    return [
        f"the images of {name} raised {', '.join(names)}: see Alarms about the images." for name, names in found.items()
    ]
