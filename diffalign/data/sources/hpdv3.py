"""HPDv3 (Ma et al. 2025, arXiv 2508.03789): train.json and test.json of pairs whose first image is the preferred one.

A row has `prompt`, `path1` (preferred), `path2`, `model1`, `model2`, `confidence` and `choice_dist`, the votes for the
two, which are null for MidJourney's and HPDv2's rows. Sides are shuffled by the images' hash, so that the side doesn't
say who won. `choice_dist` isn't in the order of the paths: the authors' training takes the larger number as path1's.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from diffalign.core.errors import UserError
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import json_rows, rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.image_files import ImageFiles, check_unpacked
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

REASONS = {"low_confidence": "a confidence below data.settings.min_confidence"}


class Settings(streamed.SplitSettings):
    """`min_confidence`: rows below it are rejects, those without one are kept; the authors trained with 0.95."""

    min_confidence: Annotated[float, Field(ge=0, le=1)] = 0.0


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder with train.json, test.json or both; raises UserError for other settings and files."""
    given = source.check_settings(Settings, settings)
    check_unpacked(path, "images.tar.gz*", "cat images.tar.gz* | tar -xz")
    return streamed.Streamed(path, given.splits, Reader(path, given.min_confidence))


class Reader:
    """Reads train.json and test.json."""

    suffix, deep = ".json", False
    expected = "HPDv3's train.json and test.json (prompt, path1, path2, confidence, choice_dist, model1, model2)"
    reasons: Mapping[str, str] = REASONS
    intended = tuple(REASONS)

    def __init__(self, path: Path, min_confidence: float) -> None:
        self.images = ImageFiles(path.parent if path.is_file() else path)
        self.min_confidence = min_confidence

    def count(self, path: Path) -> int:
        """Returns the number of rows."""
        count = known = 0
        for raw in json_rows.read(path):
            count += 1
            known += isinstance(raw, dict) and "path1" in raw and "path2" in raw
        if count and not known:
            raise UserError("no row has path1 and path2")
        return count

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the prompts."""
        return json_rows.values(path, "prompt")

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields a comparison for each row."""
        for row, raw in enumerate(json_rows.read(file.path)):
            yield streamed.made(self._made, file, row, raw)

    def _made(self, file: File, row: int, raw: Any) -> Candidate:
        found = rows.mapping(raw)
        if "path1" not in found or "path2" not in found:
            raise Bad("not_a_row", "path1 or path2 isn't there")
        prompt = rows.prompt_of(found.get("prompt"))
        confidence = found.get("confidence")
        if confidence is not None:
            given = rows.number(confidence)
            if given is None:
                raise Bad("bad_answer", f"confidence: expected a number or null, found {confidence!r:.40}")
            if given < self.min_confidence:
                raise Bad("low_confidence", f"{given} is below {self.min_confidence}")
        share, votes = _votes(found.get("choice_dist"))
        sides = [Side(self.images.read(found[f"path{i}"]), rows.text(found.get(f"model{i}"))) for i in (1, 2)]
        return rows.comparison(
            file,
            row,
            "hpdv3",
            prompt,
            (sides[0], sides[1]),
            "a" if share is None else None,
            share=share,
            shuffle=True,
            votes=votes,
        )


def _votes(raw: Any) -> tuple[float | None, int | None]:
    """Returns path1's share of the votes and their number where they are whole; None where nothing is said."""
    if isinstance(raw, str):
        try:
            raw = json.loads(raw)
        except (ValueError, RecursionError):
            raise Bad("bad_answer", f"choice_dist: expected two numbers, found {raw!r:.40}") from None
    if raw is None:
        return None, None
    given = rows.numbers(raw)
    if given is None or len(given) != 2:
        raise Bad("bad_answer", f"choice_dist: expected two numbers or null, found {raw!r:.40}")
    share = rows.share_of(max(given), min(given))
    total = sum(given)
    # [1.0, 0.0] may be a share as well as a vote: a number of votes is said by two and more.
    return share, int(total) if total > 1 and all(one.is_integer() for one in given) else None
