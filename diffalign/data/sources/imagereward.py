"""ImageRewardDB (Xu et al. 2023, arXiv 2304.05977): metadata-SPLIT.parquet, a row an image, and images/SPLIT/*.zip.

A row has `image_path`, `prompt_id`, `prompt` and `rank` among the images of its `prompt_id` (1 is best). Any two images
of a prompt make a comparison, a tie where their ranks are equal; those of a prompt share the ranking's name. The images
may stay in their zips, or lie unpacked in folders of the same names.
"""

from collections.abc import Iterator, Mapping
from itertools import combinations
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa

from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import parquet, rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.image_files import ImageFiles
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

_TEXT = pa.string()
COLUMNS = {"image_path": _TEXT, "prompt_id": _TEXT, "prompt": _TEXT, "rank": pa.float64()}
REASONS = {
    "bad_rank": "a rank that isn't a number",
    "alone": "the only image of its prompt",
    "several_prompts": "images of one prompt_id that have different prompts",
}
UNPACK_BYTES = 64 * 2**20


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder of metadata-*.parquet; raises UserError for other settings and files."""
    given = source.check_settings(streamed.SplitSettings, settings)
    return streamed.Streamed(path, given.splits, Reader(path))


class Ranked(NamedTuple):
    """A row of a file, by its number."""

    row: int
    path: Any
    prompt: Any
    rank: Any


class Reader:
    """Reads metadata-*.parquet."""

    suffix, deep = ".parquet", False
    expected = "ImageRewardDB's metadata-*.parquet (image_path, prompt_id, prompt, rank)"
    reasons: Mapping[str, str] = REASONS

    def __init__(self, path: Path) -> None:
        self.images = ImageFiles(path.parent if path.is_file() else path)

    def count(self, path: Path) -> int:
        """Returns the number of any two images of a prompt, and of images that are alone."""
        parquet.check(path, COLUMNS, fits=parquet.alike)
        sizes = [len(group) for group in _groups(path).values()]
        return sum(max(size * (size - 1) // 2, 1) for size in sizes)

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the prompts."""
        for found in parquet.texts(path, "prompt"):
            yield from found

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields the comparisons of each prompt, in the order of the first rows."""
        for prompt_id, group in _groups(file.path).items():
            if len(group) == 1:
                yield Reject(file.name, group[0].row, "alone", f"prompt_id {rows.text(prompt_id)}")
            for one, other in combinations(group, 2):
                yield streamed.made(self._made, file, one.row, prompt_id, one, other)

    def _made(self, file: File, row: int, prompt_id: Any, one: Ranked, other: Ranked) -> Candidate:
        if one.prompt != other.prompt:
            raise Bad("several_prompts", f"prompt_id {rows.text(prompt_id)}: {one.prompt!r:.80}, {other.prompt!r:.80}")
        prompt = rows.prompt_of(one.prompt)
        ranks = rows.number(one.rank), rows.number(other.rank)
        if ranks[0] is None or ranks[1] is None:
            raise Bad("bad_rank", f"found {one.rank!r:.40} and {other.rank!r:.40}")
        sides = Side(self.images.read(one.path)), Side(self.images.read(other.path))
        share = 0.5 + (ranks[0] < ranks[1]) / 2 - (ranks[0] > ranks[1]) / 2
        return rows.comparison(
            file, row, "imagereward", prompt, sides, share=share, ranking=f"imagereward-{rows.text(prompt_id)}"
        )


def _groups(path: Path) -> dict[Any, list[Ranked]]:
    """Returns the rows of each prompt_id; those without one are alone."""
    found: dict[Any, list[Ranked]] = {}
    row = 0
    for raws, _ in parquet.records(path, list(COLUMNS), UNPACK_BYTES):
        for raw in raws:
            key = raw["prompt_id"] if raw["prompt_id"] is not None else row
            found.setdefault(key, []).append(Ranked(row, raw["image_path"], raw["prompt"], raw["rank"]))
            row += 1
    return found
