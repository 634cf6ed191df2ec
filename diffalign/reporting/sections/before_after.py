"""The report's section of images before and after: random prompts, the largest gains, the largest losses."""

from typing import Any

import numpy as np

from diffalign.reporting import image_grid
from diffalign.reporting.image_grid import Group
from diffalign.reporting.material import Material

CAPTION = 400
"""Characters of a caption that are shown."""
SHOTS = 4
"""Policies side by side, at most."""


def context(report: Material) -> dict[str, Any]:
    """Returns the cards: for each prompt the baseline, the hero, and other trained policies of the same noise."""
    names, captions = shown(report), report.galleries[report.roles.baseline].entries
    groups = [
        {
            "title": group.title,
            "note": group.note,
            "cards": [
                {"caption": cut(captions[i].prompt), "shots": [shot(report, name, i) for name in names]}
                for i in group.slots
            ],
        }
        for group in chosen(report)
    ]
    return {"groups": groups, "note": note(report, names), "card": 2 + 5.8 * len(names)}


def chosen(report: Material) -> list[Group]:
    """Chooses the prompts by the hero's gain over the baseline in the headline judge's score."""
    who, settings = report.roles, report.settings
    entries = report.galleries[who.baseline].entries
    gains = np.full(len(entries), np.nan)
    if who.hero and report.judge:
        gains = report.scores[who.hero][report.judge] - report.scores[who.baseline][report.judge]
    prompts = [entry.prompt_index for entry in entries]
    return image_grid.choose(gains, prompts, settings.best, settings.worst, settings.random, settings.seed)


def picture(report: Material) -> bytes | None:
    """Returns the baseline's and the hero's images as one PNG; None without a hero."""
    who = report.roles
    if who.hero is None:
        return None
    before, after = report.galleries[who.baseline], report.galleries[who.hero]
    return image_grid.picture(chosen(report), before, after, (who.baseline, who.hero))


def noise(report: Material, name: str) -> int:
    """Returns the seed of a policy's initial noise."""
    return int(report.galleries[name].about["noise_seed"])


def shown(report: Material) -> list[str]:
    """Lists the policies that stand side by side."""
    who = report.roles
    same = [name for name in who.trained if noise(report, name) == noise(report, who.baseline)]
    return list(dict.fromkeys([who.baseline, *([who.hero] if who.hero else []), *same]))[:SHOTS]


def note(report: Material, names: list[str]) -> str:
    """Says what stands side by side."""
    text = f"Same prompt, same initial noise: {', '.join(names)}." if len(names) > 1 else f"Images of {names[0]}."
    if len({noise(report, name) for name in names}) > 1:
        text = f"Same prompt, different noise: {', '.join(names)}."
    return text + (f" Beside the names: the {report.judge} score." if report.judge else "")


def shot(report: Material, name: str, slot: int) -> dict[str, Any]:
    """Returns one image as the template wants it, with its score."""
    gallery = report.galleries[name]
    entry = gallery.entries[slot]
    height, width = gallery.pixels(entry).shape[:2]
    value = report.scores[name][report.judge][slot] if report.judge else np.nan
    return {
        "name": name,
        "uri": image_grid.data_uri(gallery.data(entry)),
        "width": width,
        "height": height,
        "score": "" if np.isnan(value) else f"{value:.2f}",
        "alt": f"{name}'s image",
    }


def cut(text: str) -> str:
    """Returns a caption as far as it's shown."""
    return text if len(text) <= CAPTION else text[:CAPTION] + "…"
