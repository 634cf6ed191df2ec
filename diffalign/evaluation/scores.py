"""The scores of one reward, as its score stage publishes them and evaluate, the report and MLflow read them.

`metrics/scores/NAME.jsonl` has a line for each generated image, `metrics/scores/NAME.json` says which reward it was and
has its scores of the held-out pairs.
"""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.records import Record
from diffalign.evaluation.results import Judge
from diffalign.generation.gallery import Gallery

FOLDER = Path("metrics/scores")
Floats = NDArray[np.float64]
Columns = Mapping[str, Floats]
"""A gallery's scores [images] by the name of a reward, or of a part of one; NaN where it's missing."""


class ImageScores(Record):
    """One image of a policy, and its scores; None where the reward couldn't score it."""

    policy: str
    file: str
    sha256: str
    prompt: str
    prompt_index: int
    seed: int
    scores: dict[str, float | None]


class PairScores(Record):
    """One held-out pair of the comparisons, and its images' scores."""

    pair_id: str
    prompt: str
    winner: float | None
    loser: float | None


class ForAnother(Record):
    """One image's score for its own prompt, and for another image's."""

    policy: str
    prompt_index: int
    own: float | None
    other: float | None


class Scored(Record):
    """A reward that scored, and its scores of the held-out pairs."""

    version: Literal[2] = Field(alias="schema")
    reward: Judge
    pairs: list[PairScores]
    rescored: list[tuple[float, float]]
    """Two scores each of some images: as they were scored, and scored again, alone."""
    shuffled: list[ForAnother]
    """Of each policy the same prompts' images, scored for another one's prompt."""

    @property
    def tie_band(self) -> float:
        """Returns the difference up to which scores tie; see `band`."""
        return band(self.rescored)


def band(rescored: Sequence[tuple[float, float]]) -> float:
    """Returns the difference up to which scores tie: 95% of images scored twice differ by no more; 0 without."""
    twice = np.array(rescored).reshape(-1, 2)
    return float(np.quantile(np.abs(twice[:, 0] - twice[:, 1]), 0.95)) if len(twice) else 0.0


def stage(reward: str) -> str:
    """Returns the name of the stage that makes a reward's scores."""
    return f"score@{reward}"


def write(
    judge: Judge,
    images: Iterable[ImageScores],
    pairs: Sequence[PairScores],
    rescored: Sequence[tuple[float, float]],
    shuffled: Sequence[ForAnother],
) -> None:
    """Writes both files of a reward."""
    records.write_lines(FOLDER / f"{judge.name}.jsonl", images)
    scored = Scored(schema=2, reward=judge, pairs=list(pairs), rescored=list(rescored), shuffled=list(shuffled))
    records.write(FOLDER / f"{judge.name}.json", scored)


def read(reward: str, pairs: Sequence[str]) -> Scored:
    """Reads which reward scored, and its scores of these pairs; UserError if the file is missing or of other pairs."""
    path = FOLDER / f"{reward}.json"
    found = records.read(path, Scored, stage(reward))
    if found.reward.name != reward:
        raise records.damaged(path, stage(reward), [f"expected the scores of {reward}, found {found.reward.name}'s"])
    if [pair.pair_id for pair in found.pairs] != list(pairs):
        raise records.damaged(path, stage(reward), ["expected the scores of evaluate's pairs, found other pairs'"])
    return found


def read_images(reward: str, galleries: Mapping[str, Gallery]) -> dict[str, Columns]:
    """Reads the scores of each policy's images, in the order of its gallery.

    Raises UserError if the file is missing or damaged, or has the scores of other images than the galleries'.
    """
    path = FOLDER / f"{reward}.jsonl"
    lines = records.read_lines(path, ImageScores, stage(reward))
    found = {(line.policy, line.file, line.prompt, line.sha256): line.scores for line in lines}
    names = {tuple(line.scores) for line in lines}
    wanted = {name: [(name, e.file, e.prompt, e.sha256) for e in g.entries] for name, g in galleries.items()}
    missing = [key for keys in wanted.values() for key in keys if key not in found]
    if missing or len(names) > 1 or any(reward not in columns for columns in names):
        example = f" ({missing[0][0]}/{missing[0][1]} for one)" if missing else ""
        raise UserError(
            f"{path} doesn't have the scores of these images{example}: they were made again, or it was edited. "
            f"Make it again: `dvc repro --force --single-item {stage(reward)}`."
        )
    return {
        name: {column: as_column([found[key][column] for key in keys]) for column in next(iter(names), ())}
        for name, keys in wanted.items()
    }


def as_column(values: Iterable[float | None]) -> Floats:
    """Returns scores as a vector, NaN where one is missing."""
    return np.array([np.nan if value is None else value for value in values], np.float64)


def as_values(column: Floats) -> list[float | None]:
    """Returns a vector as JSON has it, None where it's NaN; UserError for infinity, which is no score."""
    if np.isinf(column).any():
        raise UserError(
            f"a reward gave the score {column[np.isinf(column)][0]} to {int(np.isinf(column).sum())} of {len(column)} "
            "images: expected a finite score, or NaN where it can't score. Mend diffalign/rewards/NAME.py"
        )
    return [None if np.isnan(value) else float(value) for value in column]
