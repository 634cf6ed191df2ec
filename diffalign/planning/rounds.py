"""The work of rounds before they are made: images and labels."""

from collections.abc import Iterator
from math import comb
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.config.rounds import Round

if TYPE_CHECKING:
    from diffalign.config.params import Params


def images(one: Round) -> int:
    """Returns how many images a round asks for; fewer are made where the data has fewer prompts."""
    return one.prompts * one.images_per_prompt


def labels(one: Round) -> int:
    """Returns how many labels a round has, at most by a reward, at least by people."""
    if one.by_people:
        return one.least_votes or 0
    return one.prompts * (1 if one.rule == "best_worst" else comb(one.images_per_prompt, 2))


def told(name: str, one: Round) -> str:
    """Returns a round's images and labels in words."""
    made = f"round {name}: {images(one):,} images of {one.policy} for {one.prompts:,} training prompts"
    if one.by_people:
        questions = one.prompts * comb(one.images_per_prompt, 2)
        return f"{made}, {questions:,} questions for people, of whom {labels(one):,} answers are waited for"
    kind = "raters who follow " if one.temperature is not None else ""
    return f"{made}, {labels(one):,} labels by {kind}{one.label}"


def inits(params: "Params") -> Iterator[tuple[str, Path]]:
    """Yields the folders that rounds name as a reference, by their params."""
    for name, one in params.rounds.items():
        yield f"rounds.{name}.reference", Path(one.reference)
