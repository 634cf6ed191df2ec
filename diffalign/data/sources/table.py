"""Tables of two images' paths, a prompt and an answer: JSON Lines, a JSON array, CSV or TSV.

Paths are below the table's folder. Columns are known by their usual names (`fields.py`) or by `data.settings.columns`.
"""

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from diffalign.core.errors import UserError
from diffalign.data.sources import json_rows, mapped, source

SUFFIXES = (".jsonl", ".json", ".csv", ".tsv")


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a table, or a folder with tables of one format; UserError for other settings and other files."""
    suffix = suffix_of(path)
    return mapped.opened("table", path, Delimited(suffix) if suffix in (".csv", ".tsv") else Json(suffix), settings)


def suffix_of(path: Path) -> str:
    """Returns the suffix of a table, or of the tables in a folder; raises UserError for none, or for several."""
    found = [path.suffix.lower()] if path.is_file() else sorted({p.suffix.lower() for p in path.glob("*")})
    tables = [suffix for suffix in found if suffix in SUFFIXES]
    if len(tables) != 1:
        there = ", ".join(tables) or "none" if path.exists() else "nothing there"
        raise UserError(
            f"{path}: expected a table, or a folder with tables of one of {', '.join(SUFFIXES)}: found {there}."
        )
    return tables[0]


class Json:
    """Reads JSON Lines and arrays of objects."""

    def __init__(self, suffix: str) -> None:
        self.suffix, self.expected = suffix, "JSON objects, one a line or in an array"

    def survey(self, path: Path) -> tuple[Sequence[str], int]:
        """Returns the names that the objects have, in the order in which they come, and the number of items."""
        names: dict[str, None] = {}
        count = 0
        for raw in json_rows.read(path):
            count += 1
            names |= dict.fromkeys(raw) if isinstance(raw, dict) and len(names) < 1000 else {}
        return list(names), count

    def read(self, path: Path, names: Sequence[str]) -> Iterator[Any]:
        """Yields the items."""
        return json_rows.read(path)


class Delimited:
    """Reads CSV and TSV with a header; quotes as usual, in TSV too."""

    def __init__(self, suffix: str) -> None:
        self.suffix, self.expected = suffix, "a header and rows in UTF-8"

    def survey(self, path: Path) -> tuple[Sequence[str], int]:
        """Returns the header, and the number of rows."""
        rows = self._rows(path)
        header = next(rows, [])
        if len(set(header)) < len(header):
            raise UserError(f"two columns have one name in {', '.join(header)}"[:500])
        return header, sum(1 for _ in rows)

    def read(self, path: Path, names: Sequence[str]) -> Iterator[Any]:
        """Yields the rows as mappings; as a list where it has another number of cells than the header."""
        rows = self._rows(path)
        header = next(rows, [])
        for row in rows:
            yield dict(zip(header, row, strict=True)) if len(row) == len(header) else row

    def _rows(self, path: Path) -> Iterator[list[str]]:
        # Bytes that aren't UTF-8 become half surrogates, so that they reject their row and not the table.
        try:
            with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
                rows = csv.reader(file, delimiter="\t" if self.suffix == ".tsv" else ",", strict=True)
                yield from ([cell.strip() for cell in row] for row in rows if row)
        except (csv.Error, OSError) as error:
            raise UserError(f"not a table, or damaged: {error}") from error
