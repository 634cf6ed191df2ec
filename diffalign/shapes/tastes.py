"""Simulated raters' tastes: what each likes in a picture beside the oracle, in two worlds, `mild` and `strong`.

A rater's utility of a picture is its oracle score plus a weighted sum of the picture's features; the weights are the
rater's taste. A rater's group is the hundreds of its id. Legend: F features, N pictures, R raters.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from diffalign.shapes.oracle import Reading

Floats = NDArray[np.float64]


def radius(reading: "Reading") -> float:
    """Returns the radius of the largest object, in 64ths of the picture."""
    return max(o.radius for o in reading.objects)


def warmth(reading: "Reading") -> float:
    """Returns red minus blue of the objects' mean colour."""
    fill = np.mean([o.fill for o in reading.objects], axis=0)
    return float(fill[0] - fill[2])


def brightness(reading: "Reading") -> float:
    """Returns the difference in brightness of the objects' mean colour from the background, without its sign."""
    fill = np.mean([o.fill for o in reading.objects], axis=0)
    return abs(float((fill - reading.ground).mean()))


def place(reading: "Reading") -> float:
    """Returns how far right the objects are: the mean of their centres' x, in 64ths of the picture."""
    return float(np.mean([o.x for o in reading.objects]))


def contrast(reading: "Reading") -> float:
    """Returns the mean distance of the objects' colours from the background's, in RGB 0..255."""
    return float(np.mean([np.linalg.norm(o.fill - reading.ground) for o in reading.objects]))


@dataclass(frozen=True)
class Feature:
    """What tastes weigh: (value - `centre`) / `spread`; 0 for a picture in which no object is found."""

    of: Callable[["Reading"], float]
    centre: float
    spread: float

    def standard(self, reading: "Reading") -> float:
        """Returns a picture's value, as it is weighed."""
        return (self.of(reading) - self.centre) / self.spread if reading.objects else 0.0


@dataclass(frozen=True)
class World:
    """Raters in groups, and what they weigh."""

    features: tuple[Feature, ...]
    groups: Mapping[str, tuple[float, ...]]
    """The taste [F] of each group, by its name; a rater's own is around it."""
    own: tuple[float, ...]
    """Standard deviations [F + 1] of raters around their group's taste; the last is of their bias to the left image."""
    raters: int

    @property
    def ids(self) -> tuple[str, ...]:
        """Returns the raters' ids, as comparisons have them; of four groups 100, 201, 302, 403, 104, ..."""
        return tuple(str(100 * (1 + number % len(self.groups)) + number) for number in range(self.raters))

    @property
    def names(self) -> tuple[str, ...]:
        """Returns the names of all that have a utility: the groups, then the raters by their ids."""
        return (*self.groups, *self.ids)

    def members(self, name: str) -> list[int]:
        """Returns the numbers of a group's raters, or that of a rater's id; `name` is one of `names`."""
        if name in self.groups:
            return list(range(list(self.groups).index(name), self.raters, len(self.groups)))
        return [self.ids.index(name)]

    def tastes(self, seed: int = 0) -> Floats:
        """Returns all raters' tastes [R, F + 1], the bias to the left image last; they depend on the seed.

        They average to none: the oracle is all that raters share.
        """
        own = np.random.default_rng((seed, 1)).normal(0, self.own, (self.raters, len(self.own)))
        groups = np.array([(*taste, 0.0) for taste in self.groups.values()])
        tastes = groups[np.arange(self.raters) % len(groups)] + own
        return np.asarray(tastes - tastes.mean(axis=0))

    def read(self, reading: "Reading") -> Floats:
        """Returns a picture's features [F], as tastes weigh them."""
        return np.array([feature.standard(reading) for feature in self.features])

    def utilities(self, oracle: Floats, features: Floats, seed: int = 0) -> Floats:
        """Returns the utilities [N, R] of pictures by their oracle scores [N] and features [N, F], for all raters."""
        return np.asarray(oracle[:, None] + features @ self.tastes(seed)[:, :-1].T)


WORLDS: Mapping[str, World] = {
    "mild": World(
        # Centre and spread over the pictures of `assets/comparisons`, among which the oracle's spread is 0.28.
        features=(Feature(radius, 11.7, 3.94), Feature(warmth, -5.3, 112.0), Feature(brightness, 63.3, 45.0)),
        groups={
            "large": (0.08, 0.0, 0.0),
            "warm": (0.0, 0.08, 0.0),
            "cool": (0.0, -0.08, 0.0),
            "contrast": (0.0, 0.0, 0.08),
        },
        own=(0.02, 0.02, 0.02, 0.05),
        raters=20,
    ),
    "strong": World(
        # Spread over the pictures of one prompt there, among which the oracle's is 0.17: tastes count thrice as much.
        features=(Feature(radius, 11.7, 1.2), Feature(place, 32.0, 5.3), Feature(contrast, 200.0, 31.0)),
        groups={
            "left": (0.0, -0.5, 0.0),
            "right": (0.0, 0.5, 0.0),
            "large": (0.5, 0.0, 0.0),
            "pale": (0.0, 0.0, -0.5),
        },
        own=(0.05, 0.05, 0.05, 0.0),
        raters=12,
    ),
}
"""`mild`: those who answered `assets/comparisons`, whose features were centred on those pictures exactly; `strong`: who
want visibly different pictures."""
