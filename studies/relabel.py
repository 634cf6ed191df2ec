"""Comparisons to train on instead: with a reward's or other raters' answers, or of one model's images only."""

from functools import partial
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.table import COMPARISONS, IMAGES, SPLITS, Split
from diffalign.evaluation import relabel as answers
from diffalign.evaluation import scoring
from diffalign.evaluation.relabel import Asked
from diffalign.evaluation.scoring import Score
from diffalign.rewards import reward as rewards
from diffalign.rewards.reward import Reward


def relabel(
    folder: Path, out: Path, score: Score, reward: str, tie_below: float, max_pixels: int, split: Split = "train"
) -> None:
    """Writes `folder`'s comparisons to `out`, those of `split` answered by a reward; images are linked, not copied.

    The other splits keep their raters' answers. comparisons.parquet is written last, so `out` is whole when it's there.
    """
    table = comparisons.read(folder)
    found = scoring.score_images(folder, answers.asked(table, [split]), score, reward, max_pixels)
    _write(answers.relabelled(table, found, reward, tie_below, [split]), folder, out)


def by_raters(folder: Path, out: Path, reward: Reward, how: Asked, max_pixels: int) -> None:
    """Writes `folder`'s comparisons to `out`, of all splits, answered by the simulated raters that a reward is."""
    table, raters = comparisons.read(folder), rewards.answering(reward)
    wanted, score = answers.asked(table, SPLITS), partial(rewards.score_images, reward)
    found = scoring.score_parts(folder, wanted, score, reward.name, max_pixels)
    own = {key: {rater: row[f"{reward.name}_{rater}"] for rater in raters} for key, row in found.items()}
    _write(answers.by_raters(table, own, raters, how, SPLITS), folder, out)


def keep_makers(folder: Path, out: Path, maker: str, split: Split = "train") -> None:
    """Writes `folder`'s comparisons to `out`, of `split` only those between two images that the model `maker` made.

    Raises UserError where there are none.
    """
    table = comparisons.read(folder)
    if not count_by(table, maker, split):
        raise UserError(f"{folder}: expected comparisons of images by {maker}, which this run learns from, found none")
    _write(only_by(table, maker, split), folder, out)


def count_by(table: pa.Table, maker: str, split: Split) -> int:
    """Returns how many comparisons of a split are between two images that the model `maker` made."""
    found: int = pc.sum(pc.equal(only_by(table, maker, split)["split"], split)).as_py()
    return found or 0


def only_by(table: pa.Table, maker: str, split: Split) -> pa.Table:
    """Returns the table without the rows of `split` in which another model than `maker` made an image."""
    by = [pc.fill_null(pc.equal(table[column], maker), False) for column in ("model_a", "model_b")]
    return table.filter(pc.or_(pc.not_equal(table["split"], split), pc.and_(*by)))


def _write(table: pa.Table, folder: Path, out: Path) -> None:
    """Writes comparisons of `folder`'s images to `out`; images are linked, and the table is written last."""
    out.mkdir(parents=True, exist_ok=True)
    for path in folder.resolve().glob(IMAGES):
        link = out / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    with files.writing(out / COMPARISONS) as file:
        pq.write_table(table, file, compression="zstd", write_page_checksum=True)
