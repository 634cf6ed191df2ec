"""relabel: the comparisons of the pipeline with a reward's answers (AI feedback), as a source that ingest reads."""

import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from diffalign.commands import judges
from diffalign.core import publishing
from diffalign.core.errors import UserError
from diffalign.core.progress import Progress
from diffalign.data import pickapic_file
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.table import SPLITS
from diffalign.data.pickapic_file import LABELS, Row
from diffalign.data.sources.pickapic import SCORER
from diffalign.evaluation import relabel, scoring
from diffalign.evaluation.relabel import Asked
from diffalign.judging.judge import Judge
from diffalign.rewards import reward as rewards

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS = Path("data/comparisons")
NAMES = {"train": "train", "validation": "validation_unique", "test": "test_unique"}


def run(params: "Params", reward: str, to: Path, how: Asked) -> str:
    """Writes the comparisons that ingest made, answered by a reward, into a new folder; returns what is there.

    A reward that is simulated raters answers as `how` says; of another only `tie_below` counts, the difference of
    scores below which they tie. Two images that were compared for one prompt several times stand there once. Left out
    and said: comparisons that the reward can't score. Raises UserError where `to` has something.
    """
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise UserError(f"{to} is there already: expected a new folder. Remove it, or name another.")
    table = comparisons.read(COMPARISONS)
    (judge,) = judges.load(params, [reward])
    rows = answers(table, judge, how, params.data.max_image_pixels)
    answered = [row for row in rows if row["answer"] in LABELS]
    if unscored := len(rows) - len(answered):
        sys.stderr.write(f"relabel: {reward} can't score {unscored} of {len(rows)} comparisons: left out\n")
    if not answered:
        raise UserError(f"relabel: expected comparisons that {reward} can score in {COMPARISONS}, found none.")
    write(answered, to, f"{SCORER}{reward} v{judge.reward.version}", (reward, *judge.reward.families))
    return told(answered, len(table), to)


def answers(table: pa.Table, judge: Judge, how: Asked, limit: int) -> list[Row]:
    """Returns the comparisons as a reward answers them, or each of the raters that it is; UserError for other options.

    Images have at most `limit` pixels.
    """
    raters = rewards.answering(judge.reward)
    if not raters and (how.noise or how.answers != 1):
        raise UserError(
            f"relabel: --noise and --answers are of simulated raters by their ids, which {judge.name} has none of: "
            "expected neither."
        )
    if raters and how.answers > len(raters):
        raise UserError(f"relabel: --answers: expected at most the {len(raters)} raters of rewards, got {how.answers}.")
    wanted = relabel.asked(table, SPLITS)
    scores = scoring.score_parts(COMPARISONS, wanted, judge.score, judge.name, limit, judge.cache)
    if not raters:
        found = {key: row[judge.name] for key, row in scores.items()}
        told = relabel.relabelled(table, found, judge.name, how.tie_below, SPLITS)
        return [row | {"rater_id": None} for row in once(told.to_pylist())]
    own = {key: {rater: row[f"{judge.name}_{rater}"] for rater in raters} for key, row in scores.items()}
    asked = pa.Table.from_pylist(once(table.to_pylist()), schema=table.schema)
    return list(relabel.by_raters(asked, own, raters, how, SPLITS).to_pylist())


def once(rows: list[Row]) -> list[Row]:
    """Returns the first comparison of each two images for a prompt, whichever side they were on."""
    first: dict[tuple[str, frozenset[str]], Row] = {}
    for row in rows:
        first.setdefault((row["prompt"], frozenset((row["image_a"], row["image_b"]))), row)
    return list(first.values())


def write(rows: list[Row], to: Path, note: str, families: Sequence[str]) -> None:
    """Writes a file for each split; the folder is there with all of them, or not at all."""
    progress, number = Progress("relabel: writes comparisons", len(rows)), 0
    with publishing.replacing(to) as new:
        for split, name in NAMES.items():
            of_split = [row for row in rows if row["split"] == split]
            if of_split:
                path = new / f"{name}-00000-of-00001.parquet"
                pickapic_file.write(path, of_split, COMPARISONS, note, families, number, progress.update)
            number += len(of_split)


def told(rows: list[Row], before: int, to: Path) -> str:
    """Returns how many comparisons there are, by answer and split, and how training takes them."""
    answers, splits = Counter(row["answer"] for row in rows), Counter(row["split"] for row in rows)
    return (
        f"{len(rows)} comparisons of {before}: {answers['a']} for the first image, {answers['b']} for the second, "
        f"{answers['tie']} ties; {splits['train']} train, {splits['validation']} validation, {splits['test']} test.\n"
        f"They are in {to}, simulated. Train on them: data.path: {to} in params.yaml, then dvc repro"
    )
