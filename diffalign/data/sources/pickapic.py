"""Pick-a-Pic's Parquet files, v1 and v2 (Kirstain et al. 2023, arXiv 2305.01569): image 0 is a, image 1 is b."""

import hashlib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
from pydantic import TypeAdapter, ValidationError

from diffalign.core.errors import UserError
from diffalign.data.comparisons.table import Split, answer_of
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import parquet, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.source import Candidate

_TEXT, _REAL = pa.string(), pa.float64()
COLUMNS: dict[str, pa.DataType] = {
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
"""The columns that are read; others (URLs, best_image_uid, ...) aren't."""
NEEDED = ("caption", "jpg_0", "jpg_1", "label_0")
"""The columns that a file must have; label_1 is 1 - label_0 where it isn't said."""
MORE: dict[str, pa.DataType] = {"votes": pa.int64(), "axis": _TEXT, "rater_group": _TEXT, "ranking": _TEXT}
"""Columns that a file may have beside, as in `Comparison`; labels are shares of the votes where it has `votes`."""
SOURCE = "source"
"""A column with the name of a row's source, where it isn't Pick-a-Pic; it tells apart no rows."""

SIMULATED = "diffalign.simulated"
"""The key in a Parquet file's own metadata under which a simulation says what it simulated."""
FAMILIES = "diffalign.families"
"""The key of the tags of who answered, as JSON: a judge that shares one has learnt, or made, these very answers."""
SCORER = "simulated: "
"""What such a text begins with where a reward answered all rows of the file: it's the rater then."""

UNPACK_BYTES = 512 * 2**20
"""Bytes of a row group, unpacked, that are read at a time."""
REASONS = {
    "no_label": "nobody answered",
    "bad_label": "the labels are no answer: not two numbers from 0 to 1 with the sum 1",
}


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens the files below a folder; raises UserError for other settings, columns or names than expected."""
    return PickAPic(path, source.check_settings(streamed.SplitSettings, settings))


class Reader:
    """Reads Parquet files in Pick-a-Pic's columns; `streamed.Reader` says what of."""

    suffix, deep = ".parquet", True
    expected = "Parquet files in Pick-a-Pic's columns"
    reasons: Mapping[str, str] = REASONS

    def count(self, path: Path) -> int:
        """Returns the number of rows."""
        needed = {name: COLUMNS[name] for name in NEEDED}
        optional = {name: kind for name, kind in (COLUMNS | MORE | {SOURCE: _TEXT}).items() if name not in NEEDED}
        return parquet.check(path, needed, optional, parquet.alike)

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the distinct captions of each batch."""
        for captions in parquet.texts(path, "caption"):
            yield from captions

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields what each row says."""
        note = parquet.note(file.path, SIMULATED) or ""
        scorer = note if note.startswith(SCORER) else None
        row = 0
        for raws, _ in parquet.records(file.path, [*COLUMNS, *MORE, SOURCE], UNPACK_BYTES):
            for raw in raws:
                yield _record(file, row, raw, scorer)
                row += 1


class PickAPic:
    """Streams the rows of any number of files at any depth below a folder, and tells what the files say of themselves.

    That is in their own metadata: who answered, and whether a program did.
    """

    reasons: Mapping[str, str] = source.REASONS | REASONS

    def __init__(self, path: Path, settings: streamed.SplitSettings) -> None:
        self.streamed = streamed.Streamed(path, settings.splits, Reader())
        self.rows = self.streamed.rows
        paths = [file.path for file in self.streamed.files]
        self.notes = {text for path in paths if (text := parquet.note(path, SIMULATED))}
        self.families = {tag for path in paths for tag in _families(path)}
        self.simulated = bool(self.notes)

    def claims(self) -> Iterator[tuple[str, Split]]:
        """Yields the captions of the files whose split is known."""
        return self.streamed.claims()

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """Yields all rows in batches."""
        return self.streamed.records()

    def about(self) -> dict[str, Any]:
        """Returns what `Streamed.about` does, with the notes and the tags of the files."""
        return self.streamed.about() | {"notes": sorted(self.notes), "families": sorted(self.families)}


def _families(path: Path) -> list[str]:
    """Returns the tags of who answered, of a file's own metadata; none without, UserError if they can't be read."""
    text = parquet.note(path, FAMILIES)
    try:
        return [] if text is None else TypeAdapter(list[str]).validate_json(text)
    except ValidationError as error:
        raise UserError(f"{path}: {FAMILIES}: expected a JSON list of tags, found {text!r:.80}.") from error


def _record(file: File, row: int, raw: dict[str, Any], scorer: str | None) -> Candidate | Reject:
    """Returns what one raw row says; text is bytes here, since nothing guarantees that it's UTF-8.

    `scorer` is the rater where a reward answered the file's rows. A null in has_label leaves it to the labels.
    """
    raw = _plain(raw)
    prompt = source.read_prompt(raw["caption"])
    if not isinstance(prompt, str):
        return Reject(file.name, row, *prompt)
    if raw["has_label"] == 0 or (raw["label_0"] is None and raw["label_1"] is None):
        detail = "has_label is false" if raw["has_label"] == 0 else "the labels are null"
        return Reject(file.name, row, "no_label", detail)
    share, votes = _share(raw["label_0"], raw["label_1"]), raw["votes"]
    if share is None:
        detail = f"expected label_0 and label_1 from 0 to 1 with the sum 1; found {raw['label_0']}, {raw['label_1']}"
        return Reject(file.name, row, "bad_label", detail)
    if votes is not None and (not isinstance(votes, int) or votes < 1):
        return Reject(file.name, row, "no_label", f"votes is {votes}")
    moment, user, different = parquet.moment(raw["created_at"]), raw["user_id"], raw["are_different"]
    rater = scorer if user is None else _text(user) if isinstance(user, bytes) else str(user)
    unsaid = {"no_rater": rater is None, "no_time": moment is None, "not_different": different == 0}
    return Candidate(
        file=file.name,
        row=row,
        split=file.split,
        comparison_id=_identity(raw),
        prompt=prompt,
        answer=answer_of(share),
        rater_id=rater,
        model_a=_text(raw["model_0"]),
        model_b=_text(raw["model_1"]),
        created_at=moment,
        flags=tuple(flag for flag, raised in unsaid.items() if raised),
        bytes_a=raw["jpg_0"],
        bytes_b=raw["jpg_1"],
        share=None if votes is None and share in (0.0, 0.5, 1.0) else share,
        votes=votes,
        axis=_text(raw["axis"]),
        rater_group=_text(raw["rater_group"]),
        ranking=_text(raw["ranking"]),
        source=_text(raw[SOURCE]) or None,
    )


def _plain(raw: dict[str, Any]) -> dict[str, Any]:
    """Returns a row as Pick-a-Pic's own types would give it, whichever the file has; a missing image is empty."""
    ids = {key: _text(raw[key]) for key in ("ranking_id",) if isinstance(raw[key], bytes)}
    labels = {key: float(raw[key]) for key in ("label_0", "label_1") if raw[key] is not None}
    shown = {key: raw[key].get("bytes") if isinstance(raw[key], dict) else raw[key] for key in ("jpg_0", "jpg_1")}
    return raw | ids | labels | {key: data or b"" for key, data in shown.items()}


def _share(label_0: float | None, label_1: float | None) -> float | None:
    """Returns the share of image 0 in two labels; None where they aren't shares of one whole, to six digits."""
    label_1 = 1 - label_0 if label_1 is None and label_0 is not None else label_1
    if label_0 is None or label_1 is None or not (0 <= label_0 <= 1 and abs(label_0 + label_1 - 1) < 1e-6):
        return None
    return label_0


def _identity(raw: dict[str, Any]) -> str:
    """Returns `pickapic-<ranking_id>-<hash of what was asked and answered>`; an image is its uid, else its bytes."""
    shown = [raw[f"image_{i}_uid"] or hashlib.sha256(raw[f"jpg_{i}"]).digest() for i in (0, 1)]
    answer = [raw["user_id"], raw["caption"], *shown, raw["label_0"], raw["created_at"]]
    answer += [(name, raw[name]) for name in MORE if raw[name] is not None]
    digest = hashlib.sha256(repr(answer).encode()).hexdigest()
    return f"pickapic-{raw['ranking_id']}-{digest[:12]}"


def _text(value: bytes | None) -> str | None:
    return None if value is None else value.decode("utf-8", "replace")
