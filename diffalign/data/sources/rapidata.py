"""Rapidata's sets of votes on two images: the 700k set and its like, and the sets *_t2i_human_preference.

The first have `votes_image1` and `votes_image2` for one question, which `data.settings.axis` names: the files don't say
it. The others have `weighted_results_image1_AXIS` and `..image2_AXIS`, shares weighted by the voters' scores, for the
axes preference, coherence and alignment, of which some sets lack some; the number of votes is that in
`detailed_results_AXIS`. There are no ids of raters. Who voted (`userDetails`) is there for about half of the votes.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from diffalign.core.errors import UserError
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import parquet, rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.rows import Side
from diffalign.data.sources.source import Candidate

Axis = Literal["preference", "coherence", "alignment"]
AXES: tuple[Axis, ...] = ("preference", "coherence", "alignment")
_TEXT, _REAL = pa.string(), pa.float64()
SHOWN = {"prompt": _TEXT, "image1": pa.binary(), "image2": pa.binary()}
COUNTED = {"votes_image1": _REAL, "votes_image2": _REAL}
MORE = {"model1": _TEXT, "model2": _TEXT}
UNPACK_BYTES = 512 * 2**20


class Settings(streamed.SplitSettings):
    """`axis`: the question that was asked, for files with one pair of vote counts."""

    axis: Axis = "preference"


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder of Parquet files; raises UserError for other settings, columns and names."""
    given = source.check_settings(Settings, settings)
    return streamed.Streamed(path, given.splits, Reader(given.axis))


class Reader:
    """Reads both kinds of files: a row gives a comparison for each axis that its file has."""

    suffix, deep = ".parquet", True
    expected = "Rapidata's columns (prompt, image1, image2, and votes_image1/2 or weighted_results_image1/2_AXIS)"
    reasons: Mapping[str, str] = {}

    def __init__(self, axis: Axis) -> None:
        self.axis = axis

    def count(self, path: Path) -> int:
        """Returns the number of rows times that of the axes."""
        axes = _axes(path)
        if not axes:
            return parquet.check(path, SHOWN | COUNTED, MORE, parquet.alike)
        weighted = {name: _REAL for axis in axes for name in _weighted(axis)}
        details = {f"detailed_results_{axis}": _TEXT for axis in axes}
        return parquet.check(path, SHOWN | weighted, MORE | details, parquet.alike) * len(axes)

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the prompts."""
        for found in parquet.texts(path, "prompt"):
            yield from found

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields a row's comparisons, in the order of `AXES`."""
        axes = _axes(file.path)
        wanted = [*SHOWN, *MORE]
        wanted += [name for axis in axes for name in (*_weighted(axis), f"detailed_results_{axis}")] or [*COUNTED]
        row = 0
        for raws, _ in parquet.records(file.path, wanted, UNPACK_BYTES):
            for raw in raws:
                for axis in axes or [self.axis]:
                    yield streamed.made(_weighed if axes else _counted, file, row, raw, axis)
                row += 1


def _counted(file: File, row: int, raw: dict[str, Any], axis: Axis) -> Candidate:
    share = rows.share_of(raw["votes_image1"], raw["votes_image2"])
    total = raw["votes_image1"] + raw["votes_image2"]
    return _comparison(file, row, raw, axis, share, int(total) if float(total).is_integer() else None)


def _weighed(file: File, row: int, raw: dict[str, Any], axis: Axis) -> Candidate:
    share = rows.share_of(*(raw[name] for name in _weighted(axis)))
    return _comparison(file, row, raw, axis, share, _votes(raw[f"detailed_results_{axis}"]))


def _comparison(file: File, row: int, raw: dict[str, Any], axis: Axis, share: float, votes: int | None) -> Candidate:
    sides = [Side(rows.image(raw[f"image{i}"]), rows.text(raw[f"model{i}"])) for i in (1, 2)]
    prompt = rows.prompt_of(raw["prompt"])
    return rows.comparison(file, row, "rapidata", prompt, (sides[0], sides[1]), share=share, votes=votes, axis=axis)


def _votes(raw: Any) -> int | None:
    """Returns the number of votes in details, a list or an object with one; None where they can't be read."""
    try:
        found = json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        return None
    given = found.get("votes") if isinstance(found, dict) else found
    return len(given) or None if isinstance(given, list) else None


def _axes(path: Path) -> list[Axis]:
    """Returns the axes that a file has weighted results of; UserError, without its name, for half of a pair."""
    names = set(parquet.schema(path).names)
    halves = [name for axis in AXES for name in _weighted(axis) if len(names.intersection(_weighted(axis))) == 1]
    if halves:
        raise UserError(f"columns missing: {', '.join(name for name in halves if name not in names)}")
    return [axis for axis in AXES if names.issuperset(_weighted(axis))]


def _weighted(axis: Axis) -> tuple[str, str]:
    return f"weighted_results_image1_{axis}", f"weighted_results_image2_{axis}"
