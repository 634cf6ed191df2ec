"""Curates the images of a training before it starts: scores them, and keeps the list under a name made of its content.

So the list is part of what a run is: a killed one goes on with the same images, and others start afresh.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from diffalign.config.methods.sft import VOTES, Curate
from diffalign.config.pairs import Pairs
from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.files import RUNS, canonical_json, sha256_bytes
from diffalign.data.batches import curated
from diffalign.data.batches.curated_file import Curated, Key
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import scoring
from diffalign.judging import judge as judges

FOLDER = RUNS / "curated"


def prepared(
    name: str, settings: Curate, swapped: bool, pairs: Pairs, folder: Path, rewards: Mapping[str, Any], max_pixels: int
) -> tuple[str, Curated]:
    """Returns the file that has the images that a policy is trained on, and the list.

    `folder` has the comparisons, `rewards` the settings of rewards by name; images have at most `max_pixels` pixels.
    `swapped`: the worst are kept, a control. Raises UserError where nothing is left.
    """
    table = comparisons.read(folder)
    if settings.by == VOTES:
        scores, by = curated.by_votes(table, pairs), VOTES
    else:
        scores, by = by_reward(table, settings.by, rewards[settings.by], pairs, folder, max_pixels)
    found = curated.chosen(scores, settings, by, swapped)
    if not found.kept:
        raise UserError(
            f"policies.{name}.curate: expected images to be left, found none of {found.images:,} by {by}, of which "
            f"{found.unscored:,} have no score, and the others are below least {settings.least}"
        )
    content = found.model_dump(mode="json")
    file = FOLDER / f"{sha256_bytes(canonical_json(content).encode())[:16]}.json"
    records.write(file, found)
    return str(file), found


def by_reward(
    table: pa.Table, reward: str, settings: Any, pairs: Pairs, folder: Path, max_pixels: int
) -> tuple[dict[Key, float], str]:
    """Returns a reward's scores of the candidates, NaN where it has none, and its name with its version.

    A killed run finds what it scored before in the score cache.
    """
    judge = judges.load(reward, settings)
    wanted = curated.candidates(table, pairs)
    scores = scoring.score_images(folder, wanted, judge.score, judge.name, max_pixels, judge.cache)
    return scores, f"{judge.name}, version {judge.reward.version}"


def read(file: str) -> Curated:
    """Reads a list that `prepared` wrote."""
    return records.read(Path(file), Curated, "train")
