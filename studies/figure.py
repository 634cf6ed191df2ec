"""Draws the study's runs on rewards as one SVG that stands alone: by pictures, by seconds, by distance."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from markupsafe import escape

from diffalign.reporting import charts
from diffalign.reporting.charts import Series
from studies import results
from studies.claims import BASE
from studies.shapes_world import RUNS, SEEDS

BLIND = ("ddpo", "grpo", "dpok", "nft", "raft", "online_dpo")
GRADIENTS = ("draft_lv", "alignprop", "refl")
FOLLOWING = (*GRADIENTS, "ddpo_proxy")
LONG = ("refl", "refl_long", "refl_long_kl")
FRONTIER = {
    "DPOK": ("ddpo", "dpok_loose", "dpok", "dpok_tied"),
    "GRPO": ("grpo",),
    "ReFL": ("refl", "refl_long", "refl_long_kl"),
    "DPO": ("dpo",),
    "SFT": ("sft",),
}
"""Runs that are drawn as one line, by their distance from the base; DPOK without a pull is DDPO. NFT isn't among them:
its distance is of chains without guidance."""
HOW: Mapping[str, Any] = {"resamples": 2000, "confidence": 0.95, "seed": 0}
"""Of all intervals here and in the tables."""
JUDGED = "probe/score_oracle"
PICTURES, SECONDS, NATS = "pictures made", "seconds on one core", "nats from the base"
STYLE = (
    "text{fill:#59636e;font:11px sans-serif}.title{fill:#1b1f24;font-size:12px;font-weight:600}"
    ".axis,.gridline{stroke:#d5dae0}.half{stroke:#59636e;stroke-dasharray:3 3}polyline{fill:none}"
    ".raw{opacity:.4}.mean{stroke-width:2.2}.whisker{stroke-width:3;opacity:.5}"
)
COLOURS = ("#0b63c5", "#c2410c", "#6d28d9", "#0f766e", "#be185d", "#4d7c0f")
WIDE, TALL, TOP = 400, 270, 40
"""Of a panel with its title and its legend, and the height of those."""
Row = Mapping[str, Any]
Found = Mapping[str, Row]


def drawing(found: Found) -> str:
    """Returns the SVG of the runs that were made; panels without any are left out."""
    shown = [(title, series, axis) for title, series, axis in panels(found) if series]
    parts = [
        placed(title, series, axis, WIDE * (i % 2), TALL * (i // 2)) for i, (title, series, axis) in enumerate(shown)
    ]
    height = TALL * -(-len(shown) // 2)
    colours = "".join(f".c{i}{{stroke:{c}}}text.c{i}{{fill:{c};stroke:none}}" for i, c in enumerate(COLOURS))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {2 * WIDE} {height}" width="{2 * WIDE}">'
        f'<style>{STYLE}{colours}</style><rect width="100%" height="100%" fill="#fff"/>{"".join(parts)}</svg>\n'
    )


def placed(title: str, series: Sequence[Series], axis: str, x: int, y: int) -> str:
    """Returns a panel with its title and legend, at its place."""
    drawn = charts.panel(series, f"{title}, over {axis}", axis=axis)
    where = f'<svg x="{x}" y="{y + TOP}" width="{charts.WIDTH}" height="{charts.HEIGHT}" '
    legend = "".join(
        f'<text class="{escape(s.style)}" x="{x + 10 + 62 * i}" y="{y + 34}">{escape(s.name)}</text>'
        for i, s in enumerate(series)
    )
    return f'<text class="title" x="{x + 10}" y="{y + 16}">{escape(title)}</text>{legend}' + str(drawn).replace(
        "<svg ", where, 1
    )


def panels(found: Found) -> Iterator[tuple[str, list[Series], str]]:
    """Yields the panels: title, lines, what the horizontal axis is."""
    for names, what in ((BLIND, "the oracle is the reward"), (GRADIENTS, "the proxy is the reward")):
        for axis in (PICTURES, SECONDS):
            lines = courses(names, JUDGED, axis, found)
            yield f"Oracle, held-out prompts; {what}", lines, axis
    for axis in (PICTURES, SECONDS):
        yield "Proxy, in training; it is the reward", courses(FOLLOWING, "reward_learned", axis, found), axis
    yield "Proxy, in training", courses(LONG, "reward_learned", PICTURES, found), PICTURES
    yield "Oracle, held-out prompts, of the same runs", courses(LONG, JUDGED, PICTURES, found), PICTURES
    yield "Wins over the base, by distance from it", frontier(found) if BASE in found else [], NATS


def courses(names: Sequence[str], figure: str, axis: str, found: Found) -> list[Series]:
    """Returns the course of a figure in each run, the mean over its seeds; whiskers from the lowest to the highest."""
    lines = []
    for number, name in enumerate(names):
        runs = [found[one] for one in family(name) if one in found]
        points = [np.array(p, float) for run in runs for key, p in run["course"].items() if key.startswith(figure)]
        if not points:
            continue
        x, y = points[0][:, 0], np.stack([one[:, 1] for one in points])
        if axis == SECONDS:
            x = x / x[-1] * np.mean([run["training_seconds"] for run in runs])
        ends = (y.min(axis=0), y.max(axis=0)) if len(points) > 1 else (None, None)
        lines.append(Series(short(name), f"c{number}", x, y.mean(axis=0), *ends))
    return lines


def frontier(found: Found) -> list[Series]:
    """Returns win rates over the base by the distance from it, with intervals over prompts, and seeds if several."""
    lines = []
    for number, (label, names) in enumerate(FRONTIER.items()):
        made = [one for name in names if (one := [seed for seed in family(name) if seed in found])]
        if made:
            points = sorted(point(one, found) for one in made)
            lines.append(Series(label, f"c{number}", *np.array(points, float).T))
    return lines


def family(name: str) -> Sequence[str]:
    """Returns a run's seeds; the run alone without others."""
    return SEEDS.get(f"{name}_seeds", (name,))


def point(names: Sequence[str], found: Found) -> tuple[float, float, float, float]:
    """Returns a run's distance from the base, its win rate over it, and that one's interval; over seeds if several."""
    rate = results.over([(name, BASE) for name in names], found, HOW)
    return float(np.mean([found[name]["kl"] for name in names])), rate["win_rate"], rate["ci_low"], rate["ci_high"]


def short(name: str) -> str:
    """Returns the label of a run without its reward."""
    return RUNS[name].label.replace(", oracle", "").replace(", proxy", "").replace(", no guidance", "")
