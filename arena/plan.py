"""Plans what each rater is shown: the order of pairs, their sides, repeats and checks, as functions of (seed, rater).

A rater who comes back, or a server that is started again, finds the same plan.
"""

import hashlib
import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import chain, zip_longest

from diffalign.data.votes import FEWEST_CHECKS, Kind, Question


@dataclass(frozen=True)
class Image:
    """Names an image: the SHA-256 of its bytes, and the policy that it's of; None for noise."""

    sha256: str
    model: str | None


@dataclass(frozen=True)
class Pair:
    """Holds two policies' images for one prompt and seed, in the order of the policies' names."""

    pair_id: str
    prompt: str
    seed: int
    images: tuple[Image, Image]


@dataclass(frozen=True)
class Settings:
    """The seed of all draws, the questions, and how many pairs a rater gets; shares are of these.

    `shared` pairs come to every rater, so that agreement can be measured; there is a check in `check_every` pairs, and
    as many as it takes to leave a rater out; a repeat comes at least `lag` pairs after its first showing.
    """

    seed: int
    questions: tuple[Question, ...]
    limit: int
    shared: int = 20
    repeats: float = 0.1
    lag: int = 8
    check_every: int = 10


@dataclass(frozen=True)
class Task:
    """One showing: what stands on the left and on the right, and which questions are asked."""

    kind: Kind
    pair_id: str
    prompt: str
    seed: int
    left: Image
    right: Image
    questions: tuple[Question, ...]
    expected: str | None = None


def plan(pairs: Sequence[Pair], noise: Sequence[Image], rater: str, settings: Settings) -> list[Task]:
    """Returns a rater's tasks in order: pairs, repeats with sides swapped, and checks between them."""
    mine = chosen(pairs, rater, settings)
    tasks = [shown(pair, rater, settings) for pair in mine]
    rng = draws(settings.seed, rater, "places")
    placed = [(float(place), task) for place, task in enumerate(tasks)]
    again = rng.sample(range(len(tasks)), round(settings.repeats * len(tasks)))
    placed += [(place + settings.lag + rng.random(), swapped(tasks[place])) for place in again]
    checks = max(math.ceil(len(tasks) / settings.check_every), min(FEWEST_CHECKS, len(tasks)))
    for n in range(checks):  # one in each of as many equal stretches
        placed.append((len(tasks) * (n + rng.random()) / checks, check(pairs, noise, rater, n, settings)))
    return [task for _, task in sorted(placed, key=lambda one: one[0])]


def chosen(pairs: Sequence[Pair], rater: str, settings: Settings) -> list[Pair]:
    """Returns the pairs that a rater gets: those of all raters and others in turn, each in an order of their own."""
    by_hash = sorted(pairs, key=lambda pair: draws(settings.seed, pair.pair_id, "shared").random())
    shared, others = by_hash[: settings.shared], by_hash[settings.shared :]
    rng = draws(settings.seed, rater, "order")
    rng.shuffle(shared)
    rng.shuffle(others)
    mixed = chain.from_iterable(zip_longest(shared, others))
    return [pair for pair in mixed if pair is not None][: settings.limit]


def shown(pair: Pair, rater: str, settings: Settings) -> Task:
    """Returns a pair's first showing, its sides at random."""
    left, right = pair.images
    if draws(settings.seed, rater, pair.pair_id).random() < 0.5:
        left, right = right, left
    return Task("pair", pair.pair_id, pair.prompt, pair.seed, left, right, settings.questions)


def swapped(task: Task) -> Task:
    """Returns the repeat of a showing, with the sides swapped."""
    return replace(task, kind="repeat", left=task.right, right=task.left)


def check(pairs: Sequence[Pair], noise: Sequence[Image], rater: str, number: int, settings: Settings) -> Task:
    """Returns a check: an image beside noise, and in turn, where alignment is asked, beside another prompt's image."""
    rng = draws(settings.seed, rater, f"check {number}")
    pair = pairs[rng.randrange(len(pairs))]
    right_one = pair.images[rng.randrange(2)]
    others = [one for one in pairs if one.prompt != pair.prompt]
    kind: Kind = "prompt" if number % 2 and "alignment" in settings.questions and others else "noise"
    if kind == "prompt":
        wrong_one = others[rng.randrange(len(others))].images[0]
        questions: tuple[Question, ...] = ("alignment",)
    else:
        wrong_one, questions = noise[rng.randrange(len(noise))], settings.questions
    expected = rng.choice("ab")
    left, right = (right_one, wrong_one) if expected == "a" else (wrong_one, right_one)
    name = hashlib.sha256(repr((settings.seed, rater, number, pair.pair_id)).encode()).hexdigest()[:16]
    return Task(kind, name, pair.prompt, pair.seed, left, right, questions, expected)


def draws(*parts: object) -> random.Random:
    """Returns a generator of its own for what the parts name."""
    return random.Random(repr(parts))


def pairs_of(names: Sequence[str], found: Iterator[tuple[str, int, dict[str, str]]]) -> list[Pair]:
    """Returns every two policies' images for each (prompt, seed, SHA-256 by policy); equal images are no pair."""
    pairs = []
    for prompt, seed, images in found:
        for i, first in enumerate(sorted(names)):
            for second in sorted(names)[i + 1 :]:
                one, other = Image(images[first], first), Image(images[second], second)
                if one.sha256 != other.sha256:
                    pairs.append(Pair(pair_id(prompt, seed, one, other), prompt, seed, (one, other)))
    return pairs


def pair_id(prompt: str, seed: int, one: Image, other: Image) -> str:
    """Returns the name of a pair: 16 hex digits, of all that it is."""
    return hashlib.sha256(repr((prompt, seed, one, other)).encode()).hexdigest()[:16]
