"""The report's section of images before and after: random prompts, the largest gains, the largest losses."""

import io
from typing import Any

import numpy as np
from PIL import Image

from diffalign.core.progress import Progress
from diffalign.evaluation.scores import Floats
from diffalign.reporting import image_grid, thumbnails
from diffalign.reporting.image_grid import Group
from diffalign.reporting.material import Material

CAPTION = 400
"""Characters of a caption that are shown."""
SHOTS = 4
"""Policies side by side, at most."""


def context(report: Material) -> dict[str, Any]:
    """Returns the cards: for each prompt the baseline, the hero, and other trained policies of the same noise."""
    names, groups = shown(report), chosen(report)
    count = len(names) * sum(len(group.slots) for group in groups)
    limit, progress = thumbnails.share(thumbnails.CARDS, count), Progress("report: images", count)

    def card(slot: int) -> dict[str, Any]:
        shots = [shot(report, name, slot, limit) for name in names]
        progress.update(len(shots))
        return {"caption": caption(report, slot), "shots": shots}

    return {
        "groups": [
            {"title": group.title, "note": group.note, "cards": [card(i) for i in group.slots]} for group in groups
        ],
        "note": note(report, names),
        "card": 2 + (5.8 if report.judge else 11.6) * len(names),
    }


def chosen(report: Material) -> list[Group]:
    """Chooses the prompts by the hero's gain over the baseline in the headline judge's score.

    Without a judge the pictures are what there is: all places go to random ones, and as many more.
    """
    settings = report.settings
    prompts = [entry.prompt_index for entry in report.galleries[report.roles.baseline].entries]
    shown = settings.random if report.judge else settings.best + settings.worst + 2 * settings.random
    return image_grid.choose(gains(report), prompts, settings.best, settings.worst, shown, settings.seed)


def gains(report: Material) -> Floats:
    """Returns by how much the hero's images score above the baseline's [N]; NaN where a judge is missing."""
    who, judge = report.roles, report.judge
    if who.hero is None or judge is None:
        return np.full(len(report.galleries[who.baseline].entries), np.nan)
    difference: Floats = report.scores[who.hero][judge] - report.scores[who.baseline][judge]
    return difference


def caption(report: Material, slot: int) -> str:
    """Returns the prompt of a slot as far as it's shown, and its set and seed where there are several."""
    gallery = report.galleries[report.roles.baseline]
    entry = gallery.entries[slot]
    told = [entry.set] if len(report.sets) > 1 else []
    told += [f"seed {entry.seed}"] if gallery.about["seeds"] > 1 else []
    return cut(entry.prompt) + (f" ({', '.join(told)})" if told else "")


def picture(report: Material) -> bytes | None:
    """Returns the baseline's and the hero's images as one PNG; None without a hero."""
    who = report.roles
    if who.hero is None:
        return None
    before, after = report.galleries[who.baseline], report.galleries[who.hero]
    return image_grid.picture(chosen(report), before, after, (who.baseline, who.hero))


def shown(report: Material) -> list[str]:
    """Lists the policies that stand side by side."""
    who = report.roles
    shared = report.galleries[who.baseline].noise
    same = [name for name in who.trained if report.galleries[name].noise == shared]
    return list(dict.fromkeys([who.baseline, *([who.hero] if who.hero else []), *same]))[:SHOTS]


def note(report: Material, names: list[str]) -> str:
    """Says what stands side by side."""
    text = f"Same prompt, same initial noise: {', '.join(names)}." if len(names) > 1 else f"Images of {names[0]}."
    if len({report.galleries[name].noise for name in names}) > 1:
        text = f"Same prompt, different noise: {', '.join(names)}."
    if any(report.galleries[name].made["sampler"] is None for name in names):  # given images, not generate's
        text = f"Same prompt: {', '.join(names)}."
    return text + (f" Beside the names: the {report.judge} score." if report.judge else "")


def shot(report: Material, name: str, slot: int, limit: int) -> dict[str, Any]:
    """Returns one image of at most `limit` bytes as the template wants it, with its score."""
    gallery = report.galleries[name]
    data = gallery.data(gallery.entries[slot])
    width, height = Image.open(io.BytesIO(data)).size
    value = report.scores[name][report.judge][slot] if report.judge else np.nan
    return {
        "name": name,
        "uri": thumbnails.data_uri(data, limit),
        "width": width,
        "height": height,
        "score": "" if np.isnan(value) else f"{value:.2f}",
        "alt": f"{name}'s image for: {caption(report, slot)}",
    }


def cut(text: str) -> str:
    """Returns a caption as far as it's shown."""
    return text if len(text) <= CAPTION else text[:CAPTION] + "…"
