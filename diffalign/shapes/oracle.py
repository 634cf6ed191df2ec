"""Scores how well a picture of the shapes world fits its caption, by finding its objects; numpy and scipy only.

`oracle = fidelity × (0.5 + 0.5 × aesthetics)`. Legend: `H W` pixels; pictures are resized to 64 × 64, colours are
RGB 0..255, lengths are in 64ths of the picture, `x` to the right and `y` downwards.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from itertools import permutations

import numpy as np
from PIL import Image
from scipy import ndimage

from diffalign.shapes.scenes import (
    COLOURS,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    Object,
    Scene,
    clean_layout,
    parse_caption,
    signed_distance,
)

SIDE = 64
PALETTE = np.array(list(COLOURS.values()), np.float32)
NAMES = tuple(COLOURS)
VISIBLE = 36.0  # RGB distance from the background above which a pixel belongs to an object
SMALLEST = 40  # pixels; a smaller component is a speck (specks cover up to 21, small objects about 135)
MIDDLE = np.array([SIDE / 2, SIDE / 2])
FLOOR = 0.05  # score of a wholly wrong attribute: fidelity is a geometric mean, in which a zero would erase the rest


@dataclass(frozen=True)
class Seen:
    """One object found in a picture: median `fill` RGB, affinities to the palette and to SHAPES (sums at most 1)."""

    fill: np.ndarray  # [3]
    colours: np.ndarray  # [8]
    shapes: np.ndarray  # [6]
    x: float
    y: float
    radius: float
    cover: np.ndarray  # [64, 64] in [0, 1]: the share of each pixel that the object covers

    @property
    def colour(self) -> str:
        """Returns the name of the nearest palette colour."""
        return NAMES[int(self.colours.argmax())]

    @property
    def shape(self) -> str:
        """Returns the name of the best fitting shape."""
        return SHAPES[int(self.shapes.argmax())]

    @property
    def size(self) -> str:
        """Returns the nearest size word, '' for the middle size."""
        return min(SIZES, key=lambda s: abs(np.log(self.radius / SIZES[s])))


@dataclass(frozen=True)
class Reading:
    """A picture's content: its pixels, the background's RGB and affinities, and its objects, the largest first."""

    pixels: np.ndarray  # [64, 64, 3]
    ground: np.ndarray  # [3]
    grounds: np.ndarray  # [8]
    objects: tuple[Seen, ...]

    @property
    def background(self) -> str:
        """Returns the name of the palette colour nearest to the background."""
        return NAMES[int(self.grounds.argmax())]


@dataclass(frozen=True)
class OracleScore:
    """The oracle's scores of a picture, each in [0, 1], or NaN where the caption isn't one of the shapes world."""

    fidelity: float
    aesthetics: float
    oracle: float


def score(image: np.ndarray, text: str) -> OracleScore:
    """Returns the scores of a picture, uint8 `[H, W, 3]`, against its caption; all NaN for a foreign caption."""
    scene = parse_caption(text)
    return OracleScore(np.nan, np.nan, np.nan) if scene is None else judge(read(image), scene)


def judge(reading: Reading, scene: Scene) -> OracleScore:
    """Returns the scores of a picture that was read, against a caption's scene."""
    matched = match(reading, scene)
    right, made = _fidelity(reading, scene, matched), _aesthetics(reading, scene, matched)
    return OracleScore(right, made, right * (0.5 + 0.5 * made))


def is_right(image: np.ndarray, text: str) -> bool:
    """Tells whether a picture, uint8 `[H, W, 3]`, shows just what its caption asks for, however carelessly.

    Background, objects with their shapes and colours, named sizes, and the relation or the place within about 45°.
    Raises ValueError for a caption that isn't of the shapes world.
    """
    scene = parse_caption(text)
    if scene is None:
        raise ValueError(f"text: expected a caption of the shapes world, got {text!r}")
    reading = read(image)
    asked = sorted((o.colour, o.shape) for o in scene.objects)
    if reading.background != scene.background or sorted((o.colour, o.shape) for o in reading.objects) != asked:
        return False
    matched = match(reading, scene)
    sized = all(s is not None and o.size in ("", s.size) for o, s in zip(scene.objects, matched, strict=True))
    return sized and all(score > 0.8 for score in directions(scene, matched))


def read(image: np.ndarray) -> Reading:
    """Finds the background and the objects of a picture, uint8 `[H, W, 3]`, resized to 64 × 64.

    Raises ValueError for an array of another type or shape.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ValueError(f"image: expected uint8 [H, W, 3], got {image.dtype} {list(image.shape)}")
    if image.shape[:2] != (SIDE, SIDE):
        image = np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))
    pixels = image.astype(np.float32)
    edge = np.concatenate([pixels[:3].reshape(-1, 3), pixels[-3:].reshape(-1, 3)])
    sides = np.concatenate([pixels[3:-3, :3].reshape(-1, 3), pixels[3:-3, -3:].reshape(-1, 3)])
    ground = np.median(np.concatenate([edge, sides]), axis=0)
    away = np.linalg.norm(pixels - ground, axis=2)
    labels, count = ndimage.label(away > VISIBLE)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:]
    parts = [p for i in np.flatnonzero(areas >= SMALLEST) + 1 for p in _split(pixels, labels == i)]
    seen = [o for o in (_look(pixels, ground, part) for part in parts) if o is not None]
    return Reading(pixels, ground, _affinity(ground), tuple(sorted(seen, key=lambda o: -o.radius)))


def _affinity(rgb: np.ndarray, spread: float = 50.0) -> np.ndarray:
    """Returns a colour's affinities `[8]` to the palette's: they sum to 1; about 1 at a palette colour itself."""
    squared = ((PALETTE - rgb) ** 2).sum(axis=1)
    weights = np.exp(-(squared - squared.min()) / (2 * spread**2))
    return weights / weights.sum()


def _split(pixels: np.ndarray, mask: np.ndarray) -> list[np.ndarray]:
    """Returns a component's mask, or two where it holds two touching objects of different colours."""
    core = ndimage.binary_erosion(mask, iterations=2)
    if core.sum() < SMALLEST / 2:
        return [mask]
    nearest = ((pixels[core][:, None] - PALETTE) ** 2).sum(axis=2).argmin(axis=1)
    shares = np.bincount(nearest, minlength=len(PALETTE)) / len(nearest)
    first, second = np.argsort(-shares)[:2]
    if shares[second] < 0.25:
        return [mask]
    fills = [np.median(pixels[core][nearest == k], axis=0) for k in (first, second)]
    closer = np.linalg.norm(pixels - fills[0], axis=2) < np.linalg.norm(pixels - fills[1], axis=2)
    parts = [mask & closer, mask & ~closer]
    return parts if min(p.sum() for p in parts) >= SMALLEST else [mask]


def _look(pixels: np.ndarray, ground: np.ndarray, mask: np.ndarray) -> Seen | None:
    """Measures the object under a boolean mask `[64, 64]`; returns None where too little of it is solid."""
    away = np.linalg.norm(pixels - ground, axis=2)
    solid = mask & (away >= 0.6 * np.percentile(away[mask], 85))
    fill = np.median(pixels[solid], axis=0)
    axis = (fill - ground) / max(float(((fill - ground) ** 2).sum()), 1.0)
    near = ndimage.binary_dilation(mask, iterations=2)
    cover = np.clip((pixels - ground) @ axis, 0, 1) * near
    area = float(cover[cover > 0.25].sum())
    if area < SMALLEST / 2:
        return None
    grid = np.arange(SIDE, dtype=np.float32) + 0.5
    x, y = (float((cover.sum(axis=a) @ grid) / cover.sum()) for a in (0, 1))
    radius = float(np.sqrt(area / 2.39))
    return Seen(fill, _affinity(fill), _shape_affinity(cover, x, y, radius), x, y, radius, cover)


def _shape_affinity(cover: np.ndarray, x: float, y: float, radius: float) -> np.ndarray:
    """Returns affinities `[6]` to SHAPES: a softmax of the overlaps (soft IoU), times the best overlap's quality."""
    grid = np.arange(SIDE, dtype=np.float32) + 0.5
    u, v = (grid[None] - x) / radius, (grid[:, None] - y) / radius
    ideals = [np.clip(0.5 - signed_distance(shape, u, v) * radius, 0, 1) for shape in SHAPES]
    overlaps = np.array([np.minimum(cover, i).sum() / np.maximum(cover, i).sum() for i in ideals])
    weights = np.exp((overlaps - overlaps.max()) / 0.03)
    quality = np.clip((overlaps.max() - 0.5) / 0.4, 0, 1)
    return weights / weights.sum() * quality


def match(reading: Reading, scene: Scene) -> list[Seen | None]:
    """Returns the found object for each of the scene's, None if missing: the best assignment by colour and shape."""
    candidates = [*reading.objects[:4], *[None] * len(scene.objects)]

    def fit(chosen: Iterable[Seen | None]) -> float:
        return sum(
            float(2 * s.colours[NAMES.index(o.colour)] + s.shapes[SHAPES.index(o.shape)] + 0.01 * s.radius)
            for s, o in zip(chosen, scene.objects, strict=True)
            if s is not None
        )

    return list(max(permutations(candidates, len(scene.objects)), key=fit))


def _fidelity(reading: Reading, scene: Scene, matched: list[Seen | None]) -> float:
    """Returns the weighted geometric mean of the attributes' scores, halved for each object beyond the scene's."""
    scores = [(1.0, float(reading.grounds[NAMES.index(scene.background)]))]
    ideal = clean_layout(scene)
    for asked, seen, (_, _, radius) in zip(scene.objects, matched, ideal.places, strict=True):
        share = 1 / len(scene.objects)
        if seen is None:
            scores.append((4 * share, 0.0))
            continue
        scores.append((1.5 * share, float(seen.colours[NAMES.index(asked.colour)])))
        scores.append((1.5 * share, float(seen.shapes[SHAPES.index(asked.shape)])))
        scores.append((1.0 * share, _size_score(asked, seen.radius, radius)))
    scores += [(1.5, score) for score in directions(scene, matched)]
    total = sum(w for w, _ in scores)
    mean = np.exp(sum(w * np.log(max(s, FLOOR)) for w, s in scores) / total)
    extra = max(len(reading.objects) - len(scene.objects), 0)
    return float(mean * 0.5**extra)


def _size_score(asked: Object, radius: float, wanted: float) -> float:
    """Returns a size's score: 1 at the wanted size; lenient where the caption names none."""
    return float(np.exp(-0.5 * (np.log(radius / wanted) / (0.2 if asked.size else 0.5)) ** 2))


def _centre(seen: Seen | None) -> np.ndarray | None:
    """Returns an object's centre [2], None where it's missing."""
    return None if seen is None else np.array([seen.x, seen.y])


def directions(scene: Scene, matched: list[Seen | None]) -> list[float]:
    """Returns the score of the scene's relation or place, if it has one."""
    if scene.relation:
        return [_direction_score(RELATIONS[scene.relation], *map(_centre, matched))]
    return [_direction_score(PLACES[scene.place], _centre(matched[0]), MIDDLE)] if scene.place else []


def _direction_score(wanted: tuple[int, int], first: np.ndarray | None, second: np.ndarray | None) -> float:
    """Returns how well the first centre lies from the second as wanted: 1 within 30° of it, 0 from 90° on.

    It's 0 where an object is missing, less than 1 where they are nearer than 6.
    """
    if first is None or second is None:
        return 0.0
    step = first - second
    along = float(step @ np.array(wanted))
    cosine = along / max(float(np.linalg.norm(step)), 1e-6)
    return float(np.clip(cosine / 0.866, 0, 1) * np.clip(along / 6, 0, 1))


def _aesthetics(reading: Reading, scene: Scene, matched: list[Seen | None]) -> float:
    """Returns the mean of cleanliness, centring and contrast, each in [0, 1].

    Cleanliness: exp(-r/6), r the mean absolute difference (0..255) from flat objects on a flat background.
    Centring: exp(-d/12), d the distance in pixels of the objects' mean centre from where it should be.
    Contrast: 1 - exp(-3q), q the objects' colour distance from the background over that of the pure colours.
    """
    seen = [s for s in matched if s is not None]
    flat = np.broadcast_to(reading.ground, reading.pixels.shape).copy()
    for s in seen:
        flat += (s.fill - flat) * s.cover[..., None]
    clean = float(np.exp(-np.abs(reading.pixels - flat).mean() / 6))
    if not seen:
        return clean / 3
    ideal = clean_layout(scene)
    there = [place[:2] for place, s in zip(ideal.places, matched, strict=True) if s is not None]
    off = np.mean([(s.x, s.y) for s in seen], axis=0) - np.mean(there, axis=0)
    ratios = [
        np.linalg.norm(s.fill - reading.ground) / np.linalg.norm(np.subtract(fill, ideal.ground))
        for s, fill in zip(matched, ideal.fills, strict=True)
        if s is not None
    ]
    return (clean + float(np.exp(-np.linalg.norm(off) / 12)) + float(1 - np.exp(-3 * np.mean(ratios)))) / 3
