"""The before/after grid: which prompts are shown, and a picture of them.

Prompts are drawn at random, or are those with the largest gain and the largest loss; a group's title says which.
"""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from diffalign.generation.gallery import Entry, Gallery

LONGEST = 400  # characters of a caption that are looked at


@dataclass(frozen=True)
class Group:
    """Some prompts and why they are shown; `slots` are indices into the galleries' entries."""

    title: str
    note: str
    slots: tuple[int, ...]


def choose(
    gains: NDArray[np.float64], prompts: Sequence[int], best: int, worst: int, random: int, seed: int
) -> list[Group]:
    """Chooses the groups: random prompts, the largest gains, the largest losses; each prompt at most once a group.

    `gains` [N] are differences of scores, NaN where there's none: such images appear among the random ones only.
    `prompts` [N] tells which images share a prompt. Equal gains are taken in the galleries' order.
    """
    order = [int(i) for i in np.argsort(-gains, kind="stable") if not np.isnan(gains[i])]
    backwards = [int(i) for i in np.argsort(gains, kind="stable") if not np.isnan(gains[i])]
    shuffled = [int(i) for i in np.random.default_rng(seed).permutation(len(prompts))]
    groups = [
        Group("At random", "Drawn at random from all prompts, not picked.", _distinct(shuffled, prompts, random)),
        Group("Best", "The largest gains in score: the best case, not the usual one.", _distinct(order, prompts, best)),
        Group(
            "Worst",
            "The largest losses in score, or the smallest gains.",
            _distinct(backwards, prompts, worst),
        ),
    ]
    return [group for group in groups if group.slots]


def _distinct(order: Sequence[int], prompts: Sequence[int], count: int) -> tuple[int, ...]:
    """Returns the first `count` of an order that have different prompts."""
    seen: dict[int, int] = {}
    for i in order:
        if len(seen) == count:
            break
        seen.setdefault(prompts[i], i)
    return tuple(seen.values())


def picture(
    groups: Sequence[Group], before: Gallery, after: Gallery, names: tuple[str, str], columns: int = 4, side: int = 128
) -> bytes:
    """Draws a PNG of the grid: pairs of images, before and after, the caption beneath, `columns` pairs a row."""
    small, normal, large = (_font(size) for size in (15, 17, 22))
    cell, gap, margin = 2 * side + 4, 28, 28
    width = 2 * margin + columns * cell + (columns - 1) * gap
    captions = {i: _wrap(before.entries[i].prompt, small, cell) for group in groups for i in group.slots}
    canvas = Image.new("RGB", (width, _height(groups, captions, columns, side, margin)), "white")
    draw, y = ImageDraw.Draw(canvas), margin
    for group in groups:
        draw.text((margin, y), f"{group.title}: {names[0]} (left) and {names[1]} (right)", "#1b1f24", large)
        draw.text((margin, y + 28), group.note, "#59636e", normal)
        y += 58
        for row in _rows(group.slots, columns):
            for column, i in enumerate(row):
                x = margin + column * (cell + gap)
                for offset, gallery in ((0, before), (side + 4, after)):
                    canvas.paste(_tile(gallery, gallery.entries[i], side), (x + offset, y))
                for n, line in enumerate(captions[i]):
                    draw.text((x, y + side + 6 + 18 * n), line, "#1b1f24", small)
            y += _row_height(row, captions, side)
        y += 14
    buffer = io.BytesIO()
    canvas.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _rows(slots: Sequence[int], columns: int) -> list[Sequence[int]]:
    return [slots[i : i + columns] for i in range(0, len(slots), columns)]


def _row_height(row: Sequence[int], captions: Mapping[int, list[str]], side: int) -> int:
    return side + 22 + 18 * max(len(captions[i]) for i in row)


def _height(groups: Sequence[Group], captions: Mapping[int, list[str]], columns: int, side: int, margin: int) -> int:
    rows = [row for group in groups for row in _rows(group.slots, columns)]
    return 2 * margin - 14 + 72 * len(groups) + sum(_row_height(row, captions, side) for row in rows)


def _tile(gallery: Gallery, entry: Entry, side: int) -> Image.Image:
    return Image.fromarray(gallery.pixels(entry)).resize((side, side), Image.Resampling.LANCZOS)


def _wrap(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int = 3) -> list[str]:
    """Wraps text in at most `lines` lines of `width` pixels, cut with an ellipsis; control characters become spaces."""
    rest = " ".join("".join(c if c.isprintable() else " " for c in text[:LONGEST]).split())
    wrapped: list[str] = []
    while rest and len(wrapped) < lines:
        end = next((n for n in range(len(rest), 1, -1) if font.getlength(rest[:n]) <= width), 1)
        if end < len(rest) and " " in rest[: end + 1]:
            end = rest[: end + 1].rindex(" ")
        wrapped.append(rest[:end].strip())
        rest = rest[end:].strip()
    if rest:
        wrapped[-1] = wrapped[-1][:-1].rstrip() + "…"
    return wrapped or [""]


def _font(size: int) -> ImageFont.FreeTypeFont:
    """Loads DejaVu Sans, which matplotlib brings: no system font is needed."""
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), size)
