"""Streams sources whose files are read row by row: finds the files, counts their entries, makes batches."""

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from diffalign.core.errors import UserError
from diffalign.data import images
from diffalign.data.comparisons.table import Split
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import files, rows, source
from diffalign.data.sources.files import File, Said
from diffalign.data.sources.source import Candidate

BATCH_ROWS, BATCH_BYTES = 128, 64 * 2**20
"""The size of a batch: as much is in memory."""
REASONS: Mapping[str, str] = {**rows.REASONS, **{str(code): words for code, words in images.REASONS.items()}}


class SplitSettings(source.Settings):
    """`splits`: patterns of files' paths below data.path, and the split of the rows there (`files.find`)."""

    splits: dict[str, Said] = Field(default_factory=dict)


class Reader(Protocol):
    """Reads one kind of file; a raw row may give several entries, each a comparison or a reject."""

    suffix: str
    deep: bool
    """Whether files in folders are the source's, too."""
    expected: str
    """What a file should have, for the error."""
    reasons: Mapping[str, str]
    """Reject codes beside `REASONS`."""

    def count(self, path: Path) -> int:
        """Returns the number of entries of a file; raises UserError, without the file's name, for one of other kind."""

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the prompts of a file's rows as they stand there, none of which needs to be one."""

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields a file's entries in order, as many as `count` says."""


class Streamed:
    """A source made of files that a reader reads, in the order of their paths."""

    simulated = False

    def __init__(self, path: Path, splits: Mapping[str, Said], reader: Reader) -> None:
        self.path, self.reader = path, reader
        self.reasons: Mapping[str, str] = {**REASONS, **reader.reasons}
        self.intended: Collection[str] = getattr(reader, "intended", ())
        self.files, self.left_out = files.find(path, reader.suffix, splits, deep=reader.deep)
        self.counts = _counted(path, self.files, reader)
        self.rows = sum(self.counts)
        if not self.rows:
            raise UserError(f"{path} (data.path): expected rows, its {len(self.files)} files have none.")

    def claims(self) -> Iterator[tuple[str, Split]]:
        """Yields the prompts of the files whose split is known."""
        for file in self.files:
            if file.split is None:
                continue
            for raw in self._named(file, self.reader.prompts(file.path)):
                try:
                    yield rows.prompt_of(raw), file.split
                except rows.Bad:
                    continue

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """Yields all entries in batches of at most 128 or about 64 MB of images."""
        return batches(self._entries())

    def about(self) -> dict[str, Any]:
        """Returns the number of files, the split of each and how it is known, and what in the folder wasn't read."""
        known = [
            {"file": file.name, "rows": rows_, "split": file.split, "known_by": file.known_by}
            for file, rows_ in zip(self.files, self.counts, strict=True)
        ]
        return {"files": len(self.files), "file_splits": known, "left_out": self.left_out}

    def _entries(self) -> Iterator[Candidate | Reject]:
        for file, expected in zip(self.files, self.counts, strict=True):
            count = 0
            for entry in self._named(file, self.reader.entries(file)):
                yield entry
                count += 1
            if count != expected:
                raise UserError(f"{file.path} changed while it was read: expected {expected} entries, found {count}.")

    def _named(self, file: File, found: Iterator[Any]) -> Iterator[Any]:
        """Yields what a reader yields; its errors get the file's name."""
        try:
            yield from found
        except UserError as error:
            if str(file.path) in str(error):
                raise
            raise UserError(f"{file.path}: {error}\nFetch it again, or take it out of the folder.") from error


def batches(entries: Iterable[Candidate | Reject]) -> Iterator[list[Candidate | Reject]]:
    """Yields entries in batches of at most 128 or about 64 MB of images."""
    found: list[Candidate | Reject] = []
    size = 0
    for entry in entries:
        found.append(entry)
        size += len(entry.bytes_a) + len(entry.bytes_b) if isinstance(entry, Candidate) else 0
        if len(found) >= BATCH_ROWS or size >= BATCH_BYTES:
            yield found
            found, size = [], 0
    if found:
        yield found


def made(make: Callable[..., Candidate], file: File, row: int, *what: Any) -> Candidate | Reject:
    """Returns what `make` makes of a file's row; a reject where it raises Bad."""
    try:
        return make(file, row, *what)
    except rows.Bad as bad:
        return bad.reject(file, row)


def _counted(path: Path, found: list[File], reader: Reader) -> list[int]:
    """Returns the entries of each file; raises one UserError that names all files of another kind."""
    errors, counts = [], []
    for file in found:
        try:
            counts.append(reader.count(file.path))
        except UserError as error:
            errors.append(f"\n  {file.path}: {error}")
    if errors:
        more = f"\n  ... and {len(errors) - 20} files more" if len(errors) > 20 else ""
        raise UserError(
            f"{path}: expected {reader.expected}, {len(errors)} of {len(found)} files aren't:"
            f"{''.join(errors[:20])}{more}\nMend them or take them out of the folder."
        )
    return counts
