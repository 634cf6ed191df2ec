"""Makes the shapes world's captions, scenes and pictures, all procedurally.

A *scene* is a caption's content (colours, shapes, sizes, a relation); a *layout* is the way to draw it
(centres and radii in pixels of a 64 px canvas, exact colours, stray specks). Legend: `H W` pixels, `N` images.
Coordinates are `x` to the right and `y` downwards, in 64ths of the picture, whatever its size.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

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
SHARED = {2: 9.0, 3: 8.0}  # radius of unsized objects that share the canvas, by their number
STEP = 14.5  # distance of an object's centre from the canvas's, where a relation, a number or a place moves it
RELATIONS = {"left of": (-1, 0), "right of": (1, 0), "above": (0, -1), "below": (0, 1)}  # first minus second
PLACES = {"left": (-1, 0), "right": (1, 0), "top": (0, -1), "bottom": (0, 1)}
NUMBERS = {2: "two", 3: "three"}


@dataclass(frozen=True)
class Object:
    """One object of a caption; `size` is a key of SIZES ('' where the caption names none)."""

    colour: str
    shape: str
    size: str = ""


@dataclass(frozen=True)
class Scene:
    """Objects on a background: one, at a `place` if it's named; two in a `relation`; or two or three alike.

    `place` is a key of PLACES, `relation` one of RELATIONS, the first object's to the second.
    """

    objects: tuple[Object, ...]
    background: str
    relation: str = ""
    place: str = ""

    @property
    def kind(self) -> str:
        """Returns which skill the caption asks for: single, place, relation or number."""
        if self.relation:
            return "relation"
        return "number" if len(self.objects) > 1 else "place" if self.place else "single"


@dataclass(frozen=True)
class Layout:
    """The geometry and colours of a drawing: `places` (x, y, radius), `fills` (RGB 0..255) per object, and specks."""

    places: tuple[tuple[float, float, float], ...]
    fills: tuple[tuple[float, float, float], ...]
    ground: tuple[float, float, float]
    specks: tuple[tuple[float, ...], ...] = ()  # (x, y, radius, r, g, b) each


def caption(scene: Scene) -> str:
    """Returns a scene's English caption, such as 'a small red circle on a blue background'."""
    first = scene.objects[0]
    if scene.kind == "number":
        asked = f"{NUMBERS[len(scene.objects)]} {plural(_words(first))}"
    else:
        asked = f" {scene.relation} ".join(f"a {_words(o)}" for o in scene.objects)
    where = f"at the {scene.place} of" if scene.place else "on"
    return f"{asked} {where} a {scene.background} background"


def plural(noun: str) -> str:
    """Returns a shape's plural, words before it or not."""
    return f"{noun}{'es' if noun.endswith('s') else 's'}"


def _words(thing: Object) -> str:
    """Returns an object's words without the article."""
    return " ".join(word for word in (thing.size, thing.colour, thing.shape) if word)


_THING = rf"(?:({'|'.join(s for s in SIZES if s)}) )?({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})"
_CAPTION = re.compile(
    rf"(?:an?|({'|'.join(NUMBERS.values())})) {_THING}((?:e?s)?)(?: ({'|'.join(RELATIONS)}) an? {_THING})?"
    rf" (?:on|at the ({'|'.join(PLACES)}) of) an? ({'|'.join(COLOURS)}) background\.?",
    re.ASCII,
)


def parse_caption(text: str | None) -> Scene | None:
    """Returns a caption's scene, or None where it isn't a caption of the shapes world (case and spacing are free)."""
    if not isinstance(text, str) or len(text) > 300:
        return None
    found = _CAPTION.fullmatch(" ".join(text.lower().split()))
    if found is None:
        return None
    number, size, colour, shape, plural, relation, size2, colour2, shape2, place, background = (
        group or "" for group in found.groups()
    )
    if bool(number) != bool(plural) or sum(map(bool, (number, relation, place))) > 1:
        return None
    count = next((n for n, word in NUMBERS.items() if word == number), 1)
    objects = [Object(colour, shape, size)] * count
    if relation:
        objects.append(Object(colour2, shape2, size2))
    return Scene(tuple(objects), background, relation, place)


def sample_scene(rng: np.random.Generator) -> Scene:
    """Draws a random scene; all colours differ.

    A third have two objects in a relation, a sixth two or three alike; a quarter of single objects have a place.
    Sizes are named for single objects only.
    """
    kind = rng.choice(["relation", "number", "place", "single"], p=[1 / 3, 1 / 6, 1 / 8, 3 / 8])
    first, second, background = (str(c) for c in rng.permutation(list(COLOURS))[:3])
    shapes = [str(s) for s in rng.choice(SHAPES, 2)]
    plain = Object(first, shapes[0])
    if kind == "relation":
        return Scene((plain, Object(second, shapes[1])), background, relation=str(rng.choice(list(RELATIONS))))
    if kind == "number":
        return Scene((plain,) * int(rng.choice(list(NUMBERS))), background)
    sized = replace(plain, size=str(rng.choice(list(SIZES))))
    return Scene((sized,), background, place=str(rng.choice(list(PLACES))) if kind == "place" else "")


def clean_layout(scene: Scene) -> Layout:
    """Returns a scene's ideal layout: centred unless a place is named, pure colours, exact sizes, no specks."""
    count = len(scene.objects)
    largest = SIZES[""] if count > 1 else SIZES["large"]
    radii = [min(SIZES[o.size], largest) if o.size or count == 1 else SHARED[count] for o in scene.objects]
    steps: Sequence[tuple[float, float]] = [(0, 0)]
    if scene.kind == "place":
        dx, dy = PLACES[scene.place]
        share = min(1.0, (CANVAS / 2 - 1.35 * radii[0]) / STEP)  # a large one stays inside
        steps = [(dx * share, dy * share)]
    elif scene.kind == "relation":
        dx, dy = RELATIONS[scene.relation]
        steps = [(dx, dy), (-dx, -dy)]
    elif scene.kind == "number":
        steps = [(-1, 0), (1, 0)] if count == 2 else [(0, -0.9), (-1, 0.75), (1, 0.75)]
    places = tuple((CANVAS / 2 + x * STEP, CANVAS / 2 + y * STEP, r) for (x, y), r in zip(steps, radii, strict=True))
    return Layout(places, tuple(COLOURS[o.colour] for o in scene.objects), COLOURS[scene.background])


@dataclass(frozen=True)
class Flaws:
    """What may be wrong with a drawing: how often, and how bad it is then."""

    often: float
    """Probability of each flaw: off-centre, washed-out, specks, each independently."""
    shift: float
    """Standard deviation of the offset, in canvas units."""
    fade: tuple[float, float]
    """Range of the share of the way from the object's colour to the background's."""
    specks: float
    """Expected number of specks."""
    missing: float
    """Probability that the last of several objects isn't drawn."""
    wobble: float = 0.04
    """Standard deviation of the logarithm of each size, always."""
    jitter: float = 4.0
    """Standard deviation of the colours, 0..255, always."""


GOOD = Flaws(often=0.08, shift=5, fade=(0.1, 0.4), specks=3, missing=0.0)
"""Flaws of the drawings that teach a model the world: nearly all are as they should be."""
CARELESS = Flaws(often=0.75, shift=9, fade=(0.35, 0.75), specks=10, missing=0.5)
"""Flaws of the drawings that teach a model to draw carelessly, so that alignment has flaws to mend."""


def flawed_layout(scene: Scene, rng: np.random.Generator, flaws: Flaws) -> Layout:
    """Returns a random flawed layout of a scene: off-centre, washed-out, littered with specks, an object missing.

    Each flaw comes by itself, so that preferences can tell them apart. A layout may have fewer places than the scene
    has objects: the last isn't drawn.
    """
    off, pale, littered = rng.random(3) < flaws.often
    missing = len(scene.objects) > 1 and rng.random() < flaws.missing
    clean = clean_layout(scene)
    dx, dy = rng.normal(0, flaws.shift, 2) * off
    places: list[tuple[float, float, float]] = []
    for x, y, r in clean.places[: len(clean.places) - missing]:
        r = r * float(np.exp(rng.normal(0, flaws.wobble)))
        near = min(1.2 * r, CANVAS / 2)
        x, y = (float(np.clip(v, near, CANVAS - near)) for v in (x + dx, y + dy))
        places.append((x, y, r))
    ground = np.clip(np.array(clean.ground) + rng.normal(0, flaws.jitter, 3), 0, 255)
    share = rng.uniform(*flaws.fade) * pale
    fills = []
    for fill in clean.fills[: len(places)]:
        jittered = np.array(fill) + rng.normal(0, flaws.jitter, 3)
        fills.append(_rgb(np.clip(jittered + (ground - jittered) * share, 0, 255)))
    palette = [colour for colour in COLOURS.values() if colour != clean.ground]
    specks = tuple(
        (*rng.uniform(2, CANVAS - 2, 2).tolist(), rng.uniform(1.4, 2.6), *palette[rng.integers(len(palette))])
        for _ in range(rng.poisson(flaws.specks) * littered)
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
    for thing, place, fill in zip(scene.objects, layout.places, layout.fills, strict=False):  # the last may be missing
        _paint(picture, axis, thing.shape, place, fill, scale)
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
