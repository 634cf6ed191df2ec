"""Makes the shapes world's captions, scenes and pictures, all procedurally.

A *scene* is a caption's content (colours, shapes, sizes, a relation); a *layout* is the way to draw it
(centres and radii in pixels of a 64 px canvas, exact colours, stray specks). Legend: `H W` pixels, `N` images.
Coordinates are `x` to the right and `y` downwards, in 64ths of the picture, whatever its size.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

CANVAS = 64.0
COLOURS = {  # near the corners of the RGB cube: the blend of two at an edge is never closest to a third's core
    "red": (225, 30, 40),
    "green": (25, 155, 55),
    "blue": (35, 70, 225),
    "yellow": (250, 220, 30),
    "purple": (170, 40, 205),
    "cyan": (60, 210, 235),
    "white": (245, 245, 245),
    "black": (20, 20, 20),
}
SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")
SIZES = {"small": 7.5, "": 12.0, "large": 18.0}  # radius in px; every shape covers about 2.4 radius²
PAIR_RADIUS = 9.0  # two unsized objects share the canvas
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # first minus second


@dataclass(frozen=True)
class Object:
    """One object of a caption; `size` is a key of SIZES ('' where the caption names none)."""

    colour: str
    shape: str
    size: str = ""


@dataclass(frozen=True)
class Scene:
    """One or two objects on a background; `relation` (a key of RELATIONS) is the first's to the second."""

    objects: tuple[Object, ...]
    background: str
    relation: str = ""


@dataclass(frozen=True)
class Layout:
    """The geometry and colours of a drawing: `places` (x, y, radius), `fills` (RGB 0..255) per object, and specks."""

    places: tuple[tuple[float, float, float], ...]
    fills: tuple[tuple[float, float, float], ...]
    ground: tuple[float, float, float]
    specks: tuple[tuple[float, ...], ...] = ()  # (x, y, radius, r, g, b) each


def caption(scene: Scene) -> str:
    """Returns the English caption of a scene, e.g. 'a small red circle on a blue background'."""
    named = ["a " + " ".join(w for w in (o.size, o.colour, o.shape) if w) for o in scene.objects]
    return f" {scene.relation} ".join(named) + f" on a {scene.background} background"


_OBJECT = rf"an? (?:({'|'.join(s for s in SIZES if s)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(
    rf"{_OBJECT}(?: ({'|'.join(RELATIONS)}) {_OBJECT})? on an? ({'|'.join(COLOURS)}) background\.?", re.ASCII
)


def parse_caption(text: str | None) -> Scene | None:
    """Returns a caption's scene, or None where it isn't a caption of the shapes world (case and spacing are free)."""
    if not isinstance(text, str) or len(text) > 300:
        return None
    found = _CAPTION.fullmatch(" ".join(text.lower().split()))
    if found is None:
        return None
    size, colour, shape, relation, size2, colour2, shape2, background = (g or "" for g in found.groups())
    objects = [Object(colour, shape, size)]
    if relation:
        objects.append(Object(colour2, shape2, size2))
    return Scene(tuple(objects), background, relation)


def sample_scene(rng: np.random.Generator, pair_share: float = 1 / 3) -> Scene:
    """Draws a random scene: two objects without sizes with probability `pair_share`, else one; all colours differ."""
    pair = rng.random() < pair_share
    colours = [str(c) for c in rng.permutation(list(COLOURS))[:3]]
    shapes = [str(s) for s in rng.choice(SHAPES, 2)]
    if not pair:
        return Scene((Object(colours[0], shapes[0], str(rng.choice(list(SIZES)))),), colours[2])
    relation = str(rng.choice(list(RELATIONS)))
    return Scene((Object(colours[0], shapes[0]), Object(colours[1], shapes[1])), colours[2], relation)


def clean_layout(scene: Scene) -> Layout:
    """Returns a scene's ideal layout: centred, pure colours, exact sizes, no specks."""
    middle = CANVAS / 2
    radii = [SIZES[o.size] for o in scene.objects]
    centres = [(middle, middle)]
    if scene.relation:
        dx, dy = RELATIONS[scene.relation]
        radii = [min(r, 12.0) if o.size else PAIR_RADIUS for r, o in zip(radii, scene.objects, strict=True)]
        centres = [(middle + s * dx * 14.5, middle + s * dy * 14.5) for s in (1, -1)]
    places = tuple((x, y, r) for (x, y), r in zip(centres, radii, strict=True))
    return Layout(places, tuple(COLOURS[o.colour] for o in scene.objects), COLOURS[scene.background])


@dataclass(frozen=True)
class Flaws:
    """The size of a drawing's flaws at worst; each flaw's severity is a uniform random number to the `power`."""

    power: float
    shift: float
    """Standard deviation of the offset, in canvas units."""
    wobble: float
    """Standard deviation of the logarithm of the size."""
    jitter: float
    """Standard deviation of the colours, 0..255."""
    fade: float
    """Share of the way from the object's colour to the background's."""
    specks: float
    """Expected number of specks."""


MILD = Flaws(power=2, shift=9, wobble=0.35, jitter=40, fade=0.55, specks=6)
"""Flaws of the drawings that teach a model shapes: most are good in most respects."""
SEVERE = Flaws(power=0.5, shift=13, wobble=0.2, jitter=25, fade=0.6, specks=12)
"""Flaws of the drawings that teach a model to draw carelessly, so that alignment has flaws to correct."""


def messy_layout(scene: Scene, rng: np.random.Generator, flaws: Flaws = MILD) -> Layout:
    """Returns a random flawed layout of a scene: off-centre, inexact sizes, faded and jittered colours, specks.

    Position, size, colour and specks have a severity each, so that preferences can tell these flaws apart.
    """
    shift, wobble, fade, litter = rng.random(4) ** flaws.power
    clean = clean_layout(scene)
    offset = rng.normal(0, flaws.shift * shift, 2)
    places: list[tuple[float, float, float]] = []
    for x, y, r in clean.places:
        r = r * float(np.exp(rng.normal(0, flaws.wobble * wobble)))
        x, y = np.array([x, y]) + offset + rng.normal(0, 2.0 * shift, 2) * (len(clean.places) > 1)
        x, y = (float(np.clip(v, min(r, 16), CANVAS - min(r, 16))) for v in (x, y))
        places.append((x, y, r))
    ground = np.clip(np.array(clean.ground) + rng.normal(0, flaws.jitter * fade, 3), 0, 255)
    fills = []
    for fill in clean.fills:
        jittered = np.array(fill) + rng.normal(0, flaws.jitter * fade, 3)
        fills.append(_rgb(np.clip(jittered + (ground - jittered) * flaws.fade * fade, 0, 255)))
    palette = list(COLOURS.values())
    specks = tuple(
        (*rng.uniform(2, CANVAS - 2, 2).tolist(), rng.uniform(1.2, 2.6), *palette[rng.integers(len(palette))])
        for _ in range(rng.poisson(flaws.specks * litter))
    )
    return Layout(tuple(places), tuple(fills), _rgb(ground), specks)


def _rgb(values: np.ndarray) -> tuple[float, float, float]:
    """Returns an array of three numbers as a tuple of floats."""
    red, green, blue = values.tolist()
    return red, green, blue


def render(scene: Scene, size: int = 64, layout: Layout | None = None) -> np.ndarray:
    """Draws a scene, anti-aliased, uint8 `[size, size, 3]`, in its ideal layout where none is given."""
    layout = layout or clean_layout(scene)
    scale = size / CANVAS
    axis = (np.arange(size, dtype=np.float32) + 0.5) / scale
    picture = np.empty((size, size, 3), np.float32)
    picture[:] = layout.ground
    for x, y, r, *rgb in layout.specks:
        _paint(picture, axis, "circle", (x, y, r), rgb, scale)
    for spec, place, fill in zip(scene.objects, layout.places, layout.fills, strict=True):
        _paint(picture, axis, spec.shape, place, fill, scale)
    return (picture + 0.5).astype(np.uint8)


def _paint(
    picture: np.ndarray,
    axis: np.ndarray,
    shape: str,
    place: tuple[float, float, float],
    fill: Sequence[float],
    scale: float,
) -> None:
    """Blends one shape into `picture` `[H, W, 3]` in place, only inside its bounding box."""
    x, y, radius = place
    reach = 1.5 * radius + 1
    rows, cols = (slice(*np.searchsorted(axis, [c - reach, c + reach])) for c in (y, x))
    distance = signed_distance(shape, (axis[None, cols] - x) / radius, (axis[rows, None] - y) / radius)
    cover = np.clip(0.5 - distance * (radius * scale), 0, 1)[..., None]
    box = picture[rows, cols]
    box += (np.asarray(fill, np.float32) - box) * cover


def signed_distance(shape: str, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Returns distances to the outline of a shape of unit radius, negative inside; exact near the edges' middles.

    Each shape covers about 2.4 square units, so that the area gives the radius of any shape. Raises
    ValueError for an unknown shape.
    """
    if shape == "circle":
        return np.hypot(x, y) - 0.874
    if shape == "square":
        return np.maximum(np.abs(x), np.abs(y)) - 0.775
    if shape == "diamond":
        return (np.abs(x) + np.abs(y) - 1.095) * np.float32(np.sqrt(0.5))
    if shape == "triangle":
        return np.maximum(y, np.abs(x) * 0.8660254 - y * 0.5) - 0.68
    if shape == "cross":
        ax, ay = np.abs(x), np.abs(y)
        return np.minimum(np.maximum(ax - 1.05, ay - 0.34), np.maximum(ay - 1.05, ax - 0.34))
    if shape == "star":
        return _star(x, y)
    raise ValueError(f"shape: expected one of {', '.join(SHAPES)}, got {shape!r}")


def _star(x: np.ndarray, y: np.ndarray, outer: float = 1.32, inner: float = 0.58) -> np.ndarray:
    """Returns the signed distance to a five-pointed star, point up: the plane is folded so that one edge is enough."""
    fifth = 2 * np.pi / 5
    angle = np.abs((np.arctan2(x, -y) + fifth / 2) % fifth - fifth / 2)
    length = np.hypot(x, y)
    u, v = length * np.cos(angle), length * np.sin(angle)
    tip, notch = np.array([outer, 0.0]), inner * np.array([np.cos(fifth / 2), np.sin(fifth / 2)])
    edge = (notch - tip) / np.linalg.norm(notch - tip)
    return (u - tip[0]) * np.float32(edge[1]) - (v - tip[1]) * np.float32(edge[0])
