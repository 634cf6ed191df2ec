"""AI feedback: the same comparisons with a scorer's answers in place of the raters'."""

import math
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from diffalign.core import files
from diffalign.core.progress import Progress
from diffalign.data import images
from diffalign.data.comparisons import table as comparisons
from diffalign.data.comparisons.table import COMPARISONS, IMAGES, Answer, Split
from diffalign.rewards.reward import Scorer

Scores = Mapping[tuple[str, str], float]
"""By (image, prompt)."""


def relabel(folder: Path, out: Path, scorer: Scorer, tie_below: float, max_pixels: int, split: Split = "train") -> None:
    """Writes `folder`'s comparisons to `out`, those of `split` answered by `scorer`; images are linked, not copied.

    The other splits keep their raters' answers. comparisons.parquet is written last, so `out` is whole when it's there.
    """
    table = comparisons.read(folder)
    scores = score_images(folder, table.filter(pc.equal(table["split"], split)), scorer, max_pixels)
    out.mkdir(parents=True, exist_ok=True)
    for path in folder.resolve().glob(IMAGES):
        link = out / path.name
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    with files.writing(out / COMPARISONS) as file:
        changed = relabelled(table, scores, scorer.name, tie_below, split)
        pq.write_table(changed, file, compression="zstd", write_page_checksum=True)


def score_images(folder: Path, table: pa.Table, scorer: Scorer, max_pixels: int) -> dict[tuple[str, str], float]:
    """A scorer's scores of all images of some comparisons, each for each of its prompts."""
    prompts: dict[str, set[str]] = {}
    for column in ("image_a", "image_b"):
        for key, prompt in zip(table[column].to_pylist(), table["prompt"].to_pylist(), strict=True):
            prompts.setdefault(key, set()).add(prompt)
    found: dict[tuple[str, str], float] = {}
    progress = Progress(f"{scorer.name} labels", len(prompts))
    for key, data in comparisons.iter_images(folder, set(prompts)):
        pixels = np.asarray(images.decode(data, max_pixels))
        for prompt in prompts[key]:
            found[key, prompt] = float(scorer([pixels], [prompt])[scorer.name][0])
        progress.update()
    return found


def relabelled(table: pa.Table, scores: Scores, scorer: str, tie_below: float, split: Split) -> pa.Table:
    """The table with the answers of `split` by score: a tie where scores differ by less than `tie_below`.

    `none` where the scorer can't score one of the images. A flag says who answered.
    """
    rows = table.to_pylist()
    for row in rows:
        if row["split"] == split:
            a, b = (scores[row[image], row["prompt"]] for image in ("image_a", "image_b"))
            row["answer"] = answer(a, b, tie_below)
            row["flags"] = [*(row["flags"] or []), f"answered by {scorer}"]
    return pa.Table.from_pylist(rows, schema=table.schema)


def answer(a: float, b: float, tie_below: float) -> Answer:
    """Which of two scores is higher, if by at least `tie_below`; `none` with a NaN among them."""
    if math.isnan(a) or math.isnan(b):
        return "none"
    return "tie" if abs(a - b) < tie_below else "a" if a > b else "b"
