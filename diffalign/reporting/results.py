"""What the report says: plain results in, what report.html shows out. Everything that is text is escaped by Jinja."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jinja2
import numpy as np

from diffalign.evaluation.scores import Floats, Judge
from diffalign.reporting import charts
from diffalign.reporting.charts import Series
from diffalign.reporting.format import interval, percent

Row = Mapping[str, Any]
STYLES = 6  # colour classes c0..c5 in report.html


@dataclass(frozen=True)
class Roles:
    """Which policy plays what: `hero` is the headline's, `controls` are untrained ones beside the baseline."""

    baseline: str
    hero: str | None
    trained: tuple[str, ...]
    controls: tuple[str, ...]
    style: Mapping[str, str]
    """The colour class of each policy."""


def roles(policies: Mapping[str, Row], baseline: str) -> Roles:
    """The parts of policies, by their methods and order; the hero is the first trained one, else the first other."""
    trained = tuple(name for name, policy in policies.items() if policy["method"] != "none")
    others = [name for name in policies if name != baseline]
    controls = tuple(
        name
        for name in others
        if name not in trained
        and policies[name]["init"] == policies[baseline]["init"]
        and policies[name]["noise_seed"] != policies[baseline]["noise_seed"]
        and policies[baseline]["method"] == "none"
    )
    hero = next((name for name in (*trained, *others) if name != baseline), None)
    ordered = [*trained, *(name for name in policies if name not in trained)]
    return Roles(baseline, hero, trained, controls, {name: f"c{i % STYLES}" for i, name in enumerate(ordered)})


def headline(rows: Sequence[Row], who: Roles, confidence: float, split: str) -> dict[str, Any]:
    """The sentence at the top, from the hero's first comparison that has a win rate, and how to read it."""
    row = next(
        (r for r in rows if (r["policy"], r["baseline"]) == (who.hero, who.baseline) and r["rate"] is not None), None
    )
    if row is None:
        return {"sentence": "No judge compared a policy with the baseline", "notes": []}
    verb = "beats" if row["ci_low"] > 0.5 else "loses to" if row["ci_high"] < 0.5 else "can't be told from"
    won = f"its win rate is {percent(row['rate'])} by the {row['scorer']} score"
    judged = row["wins"] + row["ties"] + row["losses"]
    images = "images" if row["seeds"] == 1 else f"images ({row['seeds']} a prompt)"
    what = f"ties count half; {judged:,} {images} for {row['prompts']:,} prompts of the {split} split, "
    what += "which no policy was trained on."
    return {
        "sentence": f"{row['policy']} {verb} {row['baseline']}: {won}",
        "notes": [f"{confidence:.0%} interval {interval(row)}; {what}"],
    }


def win_rows(comparisons: Sequence[Row], who: Roles, asked: Mapping[str, int]) -> list[dict[str, Any]]:
    """The comparisons with their bars; `missing` is how many of a policy's `asked` images no score could be had for."""
    return [
        {
            **row,
            "rate": row["win_rate"],
            "missing": asked[row["policy"]] - row["wins"] - row["ties"] - row["losses"],
            "control": row["policy"] in who.controls and row["baseline"] == who.baseline,
            "bar": charts.interval_bar(row["win_rate"], row["ci_low"], row["ci_high"], who.style[row["policy"]]),
        }
        for row in comparisons
    ]


def implicit_rows(rows: Sequence[Row], who: Roles) -> list[dict[str, Any]]:
    """The implicit-reward lines with their bars, the ceiling marked."""
    return [
        {
            **row,
            "bar": charts.interval_bar(
                row["accuracy"], row["ci_low"], row["ci_high"], who.style[row["policy"]], row["ceiling"]
            ),
        }
        for row in rows
    ]


def facts(wins: Sequence[Row], implicit: Sequence[Row], who: Roles) -> list[dict[str, str]]:
    """The figures under the headline: win rates over the baseline, controls last; how the hero agrees with raters."""
    found = [
        {
            "value": percent(row["rate"]),
            "label": f"{row['policy']} over {row['baseline']}" + (", A/A control" if row["control"] else ""),
            "detail": f"{interval(row)}, by {row['scorer']}",
        }
        for row in sorted(wins, key=lambda row: (row["control"], row["policy"] != who.hero))
        if row["baseline"] == who.baseline and row["rate"] is not None
    ]
    for row in implicit:
        if row["policy"] == who.hero and row["accuracy"] is not None:
            top = f", ceiling {percent(row['ceiling'])}" if row["ceiling"] is not None else ""
            label = f"implicit-reward accuracy of {row['policy']}"
            found.append({"value": percent(row["accuracy"]), "label": label, "detail": interval(row) + top})
    return found


def warnings(wins: Sequence[Row], who: Roles, about: Mapping[str, Row]) -> list[str]:
    """What a reader must know before believing the headline; `about` are the galleries' manifests by policy."""
    base = about[who.baseline]
    found = []
    if base["split"] != "test":
        found.append(f"these are prompts of the {base['split']} split; where choices were made on it, results flatter.")
    if base["prompts"] < base["prompts_asked"]:
        found.append(
            f"{base['prompts_asked']:,} prompts were asked for, the {base['split']} split has {base['prompts']:,}."
        )
    for row in wins:
        if row["control"] and row["rate"] is not None and not row["ci_low"] <= 0.5 <= row["ci_high"]:
            found.append(
                f"the A/A control {row['policy']} won {percent(row['rate'])} ({interval(row)}), which misses 50%: by "
                "chance that happens rarely; the intervals may be too narrow."
            )
        if row["missing"] and row["baseline"] == who.baseline:
            asked = row["missing"] + row["wins"] + row["ties"] + row["losses"]
            found.append(
                f"{row['scorer']} couldn't judge {row['missing']:,} of {asked:,} images of {row['policy']} against "
                f"{row['baseline']}: left out."
            )
    if who.hero and about[who.hero]["noise_seed"] != base["noise_seed"]:
        found.append(f"{who.hero} and {who.baseline} started from different noise: the pictures aren't paired.")
    return found


def curve_panels(lines: Sequence[Row]) -> list[dict[str, Any]]:
    """The panels of one policy's training: loss, implicit accuracy, error changes; those that were logged."""
    panels: list[dict[str, Any]] = []
    wanted: list[tuple[str, float | None, dict[str, tuple[str, str]]]] = [
        ("Loss", None, {"loss": ("loss", "c0")}),
        ("Implicit accuracy, training pairs", 0.5, {"implicit_accuracy": ("accuracy", "c0")}),
        (
            "Error change against the reference",
            0.0,
            {"winner_change": ("winners", "c3"), "loser_change": ("losers", "c1")},
        ),
    ]
    for title, level, columns in wanted:
        series = []
        for column, (name, style) in columns.items():
            points = [(line["step"], line[column]) for line in lines if line.get(column) is not None]
            if points:
                series.append(Series(name, style, *np.array(points, np.float64).T))
        if series:
            legend = [{"name": s.name, "style": s.style} for s in series] if len(columns) > 1 else []
            svg = charts.panel(series, f"{title} over training steps", level)
            panels.append({"title": title, "legend": legend, "svg": svg})
    return panels


def about_training(policy: Row) -> str:
    """A trained policy's main parameters in a line."""
    parts = [
        {"dpo": "DPO", "sft": "SFT", "mapo": "MaPO", "kto": "KTO"}[policy["method"]],
        "lora" if policy["lora"] else "full",
        f"{policy['steps']:,} steps of {policy['batch_size']} pairs",
    ]
    parts += [f"lr {policy['lr']:g}"] + ([f"β {policy['beta']:g}"] if "beta" in policy else [])
    parts += [policy["link"]] if policy.get("link", "sigmoid") != "sigmoid" else []
    parts += [f"safeguard {policy['safeguard']:g}"] if policy.get("safeguard") is not None else []
    low, high = policy["timesteps"]
    parts += [f"timesteps {low:.0%} to {high:.0%} of the schedule"] if (low, high) != (0, 1) else []
    parts += ["labels swapped: a control that must lose"] if policy["swap_labels"] else []
    return ", ".join(parts)


def mean_scores(scores: Mapping[str, Mapping[str, Floats]]) -> dict[str, Any]:
    """Each policy's mean of each score, and of how many images where some are missing."""
    columns = list(dict.fromkeys(name for of_policy in scores.values() for name in of_policy))
    rows = []
    for policy, of_policy in scores.items():
        cells = []
        for values in of_policy.values():
            known = values[~np.isnan(values)]
            some = "" if len(known) == len(values) else f" ({len(known):,} of {len(values):,})"
            cells.append(f"{known.mean():.3f}{some}" if len(known) else "–")
        rows.append((policy, cells))
    return {"columns": columns, "rows": rows if columns else []}


def tables(values: Row) -> list[dict[str, Any]]:
    """Nested counts as tables: the plain values first, then one table a section, deeper levels joined by a slash."""
    plain = [
        (words(name), number(value))
        for name, value in values.items()
        if not isinstance(value, Mapping) and name != "schema"
    ]
    found: list[dict[str, Any]] = [{"title": "Counts", "rows": plain}] if plain else []
    for name, value in values.items():
        if isinstance(value, Mapping):
            found.append({"title": words(name), "rows": flat(value) or [("none", "")]})
    return found


def flat(values: Row, prefix: str = "") -> list[tuple[str, str]]:
    """(name, value) of a nested mapping's leaves."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        label = f"{prefix}{name}"
        rows += flat(value, f"{label} / ") if isinstance(value, Mapping) else [(label, number(value))]
    return rows


def words(name: str) -> str:
    """A key as words: its underscores are spaces, its first letter is large."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def number(value: Any) -> str:
    """A value for reading: thousands apart, four figures of a fraction, a dash where there's none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(map(number, value)) if isinstance(value, list) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def caveats(judges: Sequence[Judge], simulated: bool) -> list[str]:
    """What is simulated (the comparisons say so of themselves), and what the figures don't say."""
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


def versions(packages: Sequence[str]) -> list[tuple[str, str]]:
    """(package, version) of installed packages."""
    return [(name, version(name)) for name in packages]


def render(context: Mapping[str, Any]) -> str:
    """The report's HTML; all text is escaped but what is Markup already."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "interval": interval}
    return environment.get_template("report.html").render(context)
