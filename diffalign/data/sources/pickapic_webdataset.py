"""Pick-a-Pic v2 as WebDataset (the mirror sayakpaul/pickapic_v2_webdataset): NNNNN.tar, a sample of five files a row.

A sample's files are `original_prompt.txt`, `jpg_0.jpg`, `jpg_1.jpg`, `label_0.txt` and `label_1.txt` after its key,
which repeats in every tar. There are no raters, times, models and ids: equal rows count once, and a rater who answered
twice isn't noticed. The images were encoded again as JPEG. A tar's files are read as bytes, never unpacked or decoded
by their names.
"""

import tarfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from diffalign.core.errors import UserError
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.image_files import MOST
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

PARTS = ("original_prompt.txt", "jpg_0.jpg", "jpg_1.jpg", "label_0.txt", "label_1.txt")
DAMAGED = (tarfile.TarError, ValueError, OSError, EOFError, OverflowError)
"""Errors that reading a damaged tar raises."""
REASONS = {"sample_incomplete": f"a sample that hasn't each of {', '.join(PARTS)}, once"}


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder of tars; raises UserError for other settings and files."""
    given = source.check_settings(streamed.SplitSettings, settings)
    return streamed.Streamed(path, given.splits, Reader())


class Part(NamedTuple):
    """A file of a sample: where its bytes are in the tar, and how many."""

    name: str
    offset: int
    size: int


class Reader:
    """Reads tars of samples."""

    suffix, deep = ".tar", True
    expected = f"tars with {', '.join(PARTS)} for each sample"
    reasons: Mapping[str, str] = REASONS

    def count(self, path: Path) -> int:
        """Returns the number of samples."""
        count = known = 0
        for _, parts in _samples(path):
            count += 1
            known += any(part.name in PARTS for part in parts)
        if count and not known:
            raise UserError("no file in it has such a name")
        return count

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the prompts."""
        with open(path, "rb") as file:
            for _, parts in _samples(path):
                yield from (_read(file, part) for part in parts if part.name == PARTS[0] and part.size <= MOST)

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields a comparison for each sample."""
        with open(file.path, "rb") as opened:
            for row, (key, parts) in enumerate(_samples(file.path)):
                yield streamed.made(_made, file, row, opened, key, parts)


def _made(file: File, row: int, opened: Any, key: str, parts: list[Part]) -> Candidate:
    found = {part.name: part for part in parts if part.name in PARTS}
    if len(found) < len(PARTS) or sum(part.name in PARTS for part in parts) > len(PARTS):
        raise Bad("sample_incomplete", f"sample {key}: {', '.join(part.name for part in parts)}")
    if large := [part for part in found.values() if part.size > MOST]:
        raise Bad("image_too_large", f"sample {key}: {large[0].name} has {large[0].size} bytes")
    prompt, *images, label_0, label_1 = (_read(opened, found[name]) for name in PARTS)
    sides = Side(images[0]), Side(images[1])
    share = rows.label_share(_label(label_0), _label(label_1))
    return rows.comparison(file, row, "pickapic_webdataset", rows.prompt_of(prompt), sides, share=share)


def _label(raw: bytes) -> float | None:
    try:
        return float(raw[:40].decode())
    except ValueError:
        return None


def _read(file: Any, part: Part) -> bytes:
    file.seek(part.offset)
    found: bytes = file.read(part.size)
    return found


def _samples(path: Path) -> Iterator[tuple[str, list[Part]]]:
    """Yields (key, files) of the samples of a tar: files that follow each other and agree before the name's first dot.

    Links, folders and special files are left out. Raises UserError, without the tar's name, for a damaged one.
    """
    try:
        with tarfile.open(path, "r:") as tar:
            last: str | None = None
            parts: list[Part] = []
            while (member := tar.next()) is not None:
                tar.members.clear()  # type: ignore[attr-defined]  # it would keep all
                if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE) or member.issparse():
                    continue
                folder, slash, name = rows.clean(member.name).rpartition("/")
                stem, _, ending = name.partition(".")
                key = folder + slash + stem
                if parts and key != last:
                    yield str(last), parts
                    parts = []
                last = key
                parts.append(Part(ending, member.offset_data, member.size))
            if parts:
                yield str(last), parts
            _check_end(tar, path)
    except DAMAGED as error:
        raise UserError(f"not a tar, damaged or cut short: {str(error)[:200] or type(error).__name__}") from error


def _check_end(tar: tarfile.TarFile, path: Path) -> None:
    """Raises ValueError where a tar doesn't end with a block of zeroes: tarfile takes damage there for its end."""
    with open(path, "rb") as file:
        file.seek(tar.offset)
        block = file.read(tarfile.BLOCKSIZE)
    if len(block) < tarfile.BLOCKSIZE or block.strip(b"\0"):
        raise ValueError(f"expected a block of zeroes at byte {tar.offset}, the end of a tar")
