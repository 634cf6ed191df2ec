"""Rapidata's sets of votes on two images: the 700k set and its like, and the sets *_t2i_human_preference.

The first have `votes_image1` and `votes_image2` for one question, which `data.settings.axis` names: the files don't say
it. The others have `weighted_results_image1_AXIS` and `..image2_AXIS`, shares weighted by the voters' scores, for the
axes preference, coherence and alignment, of which some sets lack some; the number of votes is that in
`detailed_results_AXIS`. There are no ids of raters. Who voted (`userDetails`: country, language) is there for about
half of the 700k set's votes; with `data.settings.groups` its rows give a comparison for each group of voters.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, NamedTuple

import pyarrow as pa

from diffalign.core.errors import UserError
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import parquet, rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

Groups = Literal["none", "country", "language"]
Axis = Literal["preference", "coherence", "alignment"]
AXES: tuple[Axis, ...] = ("preference", "coherence", "alignment")
_TEXT, _REAL = pa.string(), pa.float64()
SHOWN = {"prompt": _TEXT, "image1": pa.binary(), "image2": pa.binary()}
COUNTED = {"votes_image1": _REAL, "votes_image2": _REAL}
MORE = {"model1": _TEXT, "model2": _TEXT}
DETAILS = {"detailed_results": _TEXT, "image1_path": _TEXT, "image2_path": _TEXT}
UNSAID = ("unknown", "ud")
"""What the data has in place of a country, beside nothing."""
UNPACK_BYTES = 512 * 2**20


class Settings(streamed.SplitSettings):
    """For files with one pair of vote counts: `axis` is the question that was asked, `groups` whose votes are apart."""

    axis: Axis = "preference"
    groups: Groups = "none"


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder of Parquet files; raises UserError for other settings, columns and names."""
    given = source.check_settings(Settings, settings)
    return streamed.Streamed(path, given.splits, Reader(given.axis, given.groups))


class Reader:
    """Reads both kinds of files: a row gives a comparison for each axis that its file has, or each group of voters."""

    suffix, deep = ".parquet", True
    expected = "Rapidata's columns (prompt, image1, image2, and votes_image1/2 or weighted_results_image1/2_AXIS)"
    reasons: Mapping[str, str] = {"bad_details": "details whose votes aren't those that were counted"}

    def __init__(self, axis: Axis, groups: Groups) -> None:
        self.axis, self.groups = axis, groups

    def count(self, path: Path) -> int:
        """Returns the number of rows times that of the axes, or of each row's groups."""
        axes = _axes(path)
        if axes and self.groups != "none":
            raise UserError("data.settings.groups: expected none, since these votes don't say whose image they are for")
        if self.groups != "none":
            parquet.check(path, SHOWN | COUNTED | DETAILS, MORE, parquet.alike)
            found = parquet.records(path, [*COUNTED, *DETAILS], UNPACK_BYTES)
            return sum(len(_grouped(raw, self.groups)) for raws, _ in found for raw in raws)
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
        """Yields a row's comparisons, in the order of `AXES` or of the groups' names."""
        axes = _axes(file.path)
        wanted = [*SHOWN, *MORE, *(DETAILS if self.groups != "none" else ())]
        wanted += [name for axis in axes for name in (*_weighted(axis), f"detailed_results_{axis}")] or [*COUNTED]
        row = 0
        for raws, _ in parquet.records(file.path, wanted, UNPACK_BYTES):
            for raw in raws:
                for axis in axes:
                    yield streamed.made(_weighed, file, row, raw, axis)
                for part in [] if axes else _grouped(raw, self.groups):
                    yield streamed.made(_counted, file, row, raw, self.axis, part)
                row += 1


class Part(NamedTuple):
    """The votes of a group for the two images; of all where it has no name."""

    group: str | None
    first: Any
    second: Any


def _grouped(raw: dict[str, Any], groups: Groups) -> list[Part | Bad]:
    """Returns the votes of each group in the order of their names; of one that isn't said last. Never empty."""
    counted = raw["votes_image1"], raw["votes_image2"]
    if groups == "none":
        return [Part(None, *counted)]
    paths = rows.text(raw["image1_path"]), rows.text(raw["image2_path"])
    found: dict[str | None, list[int]] = {}
    for vote in _details(raw["detailed_results"]):
        chosen = vote.get("votedFor") if isinstance(vote, dict) else None
        if chosen in paths and chosen is not None:
            found.setdefault(_group(vote.get("userDetails"), groups), [0, 0])[paths.index(chosen)] += 1
    totals = [sum(part[side] for part in found.values()) for side in (0, 1)]
    if not found or totals != list(counted):
        return [Bad("bad_details", f"{counted[0]} and {counted[1]} votes are counted, details have {totals}")]
    return [Part(group, *found[group]) for group in sorted(found, key=lambda name: (name is None, name or ""))]


def _group(who: Any, groups: Groups) -> str | None:
    """Returns a voter's country or language in lower case (the data has EN and en), None where it isn't said."""
    said = rows.text(who.get(groups)) if isinstance(who, dict) else None
    return said.lower() if said and said.lower() not in UNSAID else None


def _counted(file: File, row: int, raw: dict[str, Any], axis: Axis, part: Part | Bad) -> Candidate:
    if isinstance(part, Bad):
        raise part
    share = rows.share_of(part.first, part.second)
    total = part.first + part.second
    votes = int(total) if float(total).is_integer() else None
    return _comparison(file, row, raw, axis, share, votes, part.group)


def _weighed(file: File, row: int, raw: dict[str, Any], axis: Axis) -> Candidate:
    share = rows.share_of(*(raw[name] for name in _weighted(axis)))
    return _comparison(file, row, raw, axis, share, len(_details(raw[f"detailed_results_{axis}"])) or None)


def _comparison(
    file: File, row: int, raw: dict[str, Any], axis: Axis, share: float, votes: int | None, group: str | None = None
) -> Candidate:
    sides = [Side(rows.image(raw[f"image{i}"]), rows.text(raw[f"model{i}"])) for i in (1, 2)]
    prompt = rows.prompt_of(raw["prompt"])
    return rows.comparison(
        file,
        row,
        "rapidata",
        prompt,
        (sides[0], sides[1]),
        share=share,
        votes=votes,
        axis=axis,
        rater_group=group,
    )


def _details(raw: Any) -> list[Any]:
    """Returns the votes in details, a list or an object with one; none where they can't be read."""
    try:
        found = json.loads(raw) if raw else None
    except (ValueError, RecursionError):
        return []
    given = found.get("votes") if isinstance(found, dict) else found
    return given if isinstance(given, list) else []


def _axes(path: Path) -> list[Axis]:
    """Returns the axes that a file has weighted results of; UserError, without its name, for half of a pair."""
    names = set(parquet.schema(path).names)
    halves = [name for axis in AXES for name in _weighted(axis) if len(names.intersection(_weighted(axis))) == 1]
    if halves:
        raise UserError(f"columns missing: {', '.join(name for name in halves if name not in names)}")
    return [axis for axis in AXES if names.issuperset(_weighted(axis))]


def _weighted(axis: Axis) -> tuple[str, str]:
    return f"weighted_results_image1_{axis}", f"weighted_results_image2_{axis}"
