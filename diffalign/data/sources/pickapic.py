"""Where comparisons come from: each source streams its raw rows, each as a candidate or as a reject."""

import hashlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import pyarrow as pa

from diffalign.core.errors import UserError
from diffalign.data.comparisons.table import SPLITS, Answer, Split
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import parquet

MAX_CAPTION = 10_000
"""Characters; a text encoder reads 77 tokens or so, what is longer isn't a prompt that somebody judged images by."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """A raw row that says all a comparison needs; its images are still to be looked at.

    `split` is the source's own, None where it has none. `comparison_id` is made of the row's content, so that equal
    rows have equal ids wherever they are.
    """

    file: str
    row: int
    split: Split | None
    comparison_id: str
    prompt: str
    answer: Answer
    rater_id: str | None
    model_a: str | None
    model_b: str | None
    created_at: datetime | None
    flags: tuple[str, ...]
    bytes_a: bytes
    bytes_b: bytes


class Source(Protocol):
    """Raw rows of one kind. Made of the path of its data; raises UserError for data that isn't of this kind."""

    rows: int
    files: list[Path]
    simulated: bool
    """Whether the data says of itself that no person answered."""

    def __init__(self, path: Path) -> None: ...

    def claims(self) -> Iterator[tuple[str, Split]]:
        """The prompts of rows for which the source itself says the split, cheaply: no images are read."""

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """All rows in order, a few at a time."""


_TEXT, _REAL = pa.string(), pa.float64()
PICKAPIC_COLUMNS: dict[str, pa.DataType] = {
    "are_different": pa.bool_(),
    "caption": _TEXT,
    "created_at": pa.timestamp("ns"),
    "has_label": pa.bool_(),
    "image_0_uid": _TEXT,
    "image_1_uid": _TEXT,
    "jpg_0": pa.binary(),
    "jpg_1": pa.binary(),
    "label_0": _REAL,
    "label_1": _REAL,
    "model_0": _TEXT,
    "model_1": _TEXT,
    "ranking_id": pa.int64(),
    "user_id": pa.int64(),
}
"""The columns of Pick-a-Pic v1 and v2 that are read; its others (URLs, best_image_uid, ...) needn't be there."""


SIMULATED = "diffalign.simulated"
"""The key in a Parquet file's own metadata under which a simulation says what it simulated."""


class PickAPic:
    """Pick-a-Pic's Parquet files, v1 or v2, any number at any depth below a folder; image 0 is a, image 1 is b.

    A file's or folder's name may say its rows' split (`split_of`). Files are read in the order of their paths.
    """

    unpack_bytes = 512 * 2**20
    batch_bytes = 64 * 2**20
    batch_rows = 128

    def __init__(self, path: Path) -> None:
        self.folder = path
        self.files = parquet.find(path)
        errors, counts = [], []
        for file in self.files:
            try:
                counts.append(parquet.check(file, PICKAPIC_COLUMNS))
            except UserError as error:
                errors.append(f"  {file}: {error}")
        if errors:
            more = [f"  … and {len(errors) - 20} files more"] if len(errors) > 20 else []
            raise UserError(
                f"{path}: expected Parquet files in Pick-a-Pic's columns, {len(errors)} of {len(self.files)} aren't:\n"
                + "\n".join(errors[:20] + more)
                + "\nMend them or take them out of the folder."
            )
        self.rows = sum(counts)
        self.simulated = any(parquet.note(file, SIMULATED) for file in self.files)
        if not self.rows:
            raise UserError(f"{path} (data.path): expected rows, its {len(self.files)} Parquet files have none.")

    def claims(self) -> Iterator[tuple[str, Split]]:
        """The distinct captions of each batch of the files whose name says a split."""
        for file in self.files:
            split = split_of(self._name(file))
            if split is None:
                continue
            for captions in parquet.texts(file, "caption"):
                for prompt in map(_prompt, captions):
                    if isinstance(prompt, str):
                        yield prompt, split

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """All rows, in batches of a file's: at most 128 rows or about 64 MB of images."""
        for file in self.files:
            name = self._name(file)
            split = split_of(name)
            row = size = 0
            found: list[Candidate | Reject] = []
            for raws, unpacked in parquet.records(file, list(PICKAPIC_COLUMNS), self.unpack_bytes):
                found += [_record(name, row + i, split, raw) for i, raw in enumerate(raws)]
                row += len(raws)
                size += unpacked
                if len(found) >= self.batch_rows or size >= self.batch_bytes:
                    yield found
                    found, size = [], 0
            if found:
                yield found

    def _name(self, file: Path) -> str:
        relative = file.relative_to(self.folder) if file != self.folder else Path(file.name)
        return os.fsencode(relative.as_posix()).decode("utf-8", "replace")


SOURCES: dict[str, type[Source]] = {"pickapic": PickAPic}


def split_of(name: str) -> Split | None:
    """The split that a path names: the file's name starts with it, or else a folder is named so (or *_unique)."""
    *folders, file = name.split("/")
    for split in SPLITS:
        if file.startswith(split):
            return split
    for folder in reversed(folders):
        for split in SPLITS:
            if folder in (split, f"{split}_unique"):
                return split
    return None


def _record(file: str, row: int, split: Split | None, raw: dict[str, Any]) -> Candidate | Reject:
    """What one raw row says; text is bytes here, since nothing says that it's UTF-8."""
    prompt = _prompt(raw["caption"])
    if not isinstance(prompt, str):
        return Reject(file, row, *prompt)
    if not raw["has_label"]:
        return Reject(file, row, "no_label", "has_label is false" if raw["has_label"] is False else "has_label is null")
    labels = raw["label_0"], raw["label_1"]
    answers: dict[tuple[float, float], Answer] = {(1.0, 0.0): "a", (0.0, 1.0): "b", (0.5, 0.5): "tie"}
    answer = answers.get(labels)
    if answer is None:
        return Reject(file, row, "bad_label", f"expected label_0, label_1 = 1, 0 or 0, 1 or 0.5, 0.5; found {labels}")
    moment, user, different = _moment(raw["created_at"]), raw["user_id"], raw["are_different"]
    unsaid = {"no_rater": user is None, "no_time": moment is None, "not_different": different is False}
    return Candidate(
        file=file,
        row=row,
        split=split,
        comparison_id=_identity(raw),
        prompt=prompt,
        answer=answer,
        rater_id=None if user is None else str(user),
        model_a=_text(raw["model_0"]),
        model_b=_text(raw["model_1"]),
        created_at=moment,
        flags=tuple(flag for flag, raised in unsaid.items() if raised),
        bytes_a=raw["jpg_0"] or b"",
        bytes_b=raw["jpg_1"] or b"",
    )


def _prompt(caption: bytes | None) -> str | tuple[str, str]:
    """The caption as it is, or a reject's reason and detail."""
    if caption is None:
        return "null_caption", "caption is null"
    if len(caption) > 4 * MAX_CAPTION:
        return "caption_too_long", f"{len(caption)} bytes, at most {MAX_CAPTION} characters are allowed"
    try:
        text = caption.decode()
    except UnicodeDecodeError as error:
        return "caption_not_text", f"not UTF-8: {error.reason} at byte {error.start}"
    if not text.strip():
        return "empty_caption", "nothing but white space"  # "" is what stands for no prompt in guidance
    if len(text) > MAX_CAPTION:
        return "caption_too_long", f"{len(text)} characters, at most {MAX_CAPTION} are allowed"
    return text


def _identity(raw: dict[str, Any]) -> str:
    """`pickapic-<ranking_id>-<hash of what was asked and answered>`; an image is its uid, else its bytes."""
    shown = [raw[f"image_{i}_uid"] or hashlib.sha256(raw[f"jpg_{i}"] or b"").digest() for i in (0, 1)]
    answer = [raw["user_id"], raw["caption"], *shown, raw["label_0"], raw["created_at"]]
    digest = hashlib.sha256(repr(answer).encode()).hexdigest()
    return f"pickapic-{raw['ranking_id']}-{digest[:12]}"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")


def _moment(microseconds: int | None) -> datetime | None:
    """Microseconds since 1970 as a time in UTC; None where that's beyond the calendar."""
    try:
        return None if microseconds is None else datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=microseconds)
    except OverflowError:
        return None
