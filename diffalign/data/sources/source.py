"""The protocol of a source: raw rows of one kind of preference data, each a candidate or a reject.

A source is a module of this package, named in params as `data.source`, with a function `load(path, settings)` that
returns a `Source`. Its settings, `data.settings` in params, are a mapping that the module itself checks
(`check_settings`); the codes of the rejects that it makes stand in its `reasons`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from diffalign.core import axes
from diffalign.core.errors import UserError
from diffalign.data.comparisons.table import Answer, Split
from diffalign.data.comparisons.writer import Reject

MAX_PROMPT = 10_000
"""Characters. A text encoder reads 77 tokens or so; a longer text isn't a prompt that somebody judged images by."""

REASONS = {
    "null_caption": "no prompt",
    "caption_not_text": "a prompt that isn't UTF-8",
    "empty_caption": "a prompt of white space",
    "caption_too_long": f"a prompt of more than {MAX_PROMPT:,} characters",
}
"""Reject codes of prompts (`read_prompt`), for all sources that read raw text."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Holds a raw row that says all a comparison needs; its images are still to be examined.

    `split` is the source's own, None where it has none. `comparison_id` is made of the row's content, so that equal
    rows have equal ids wherever they are. `share` to `ranking` are as in `Comparison`; `source` is the name of the
    row's source where several are read.
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
    share: float | None = None
    votes: int | None = None
    axis: str | None = None
    rater_group: str | None = None
    ranking: str | None = None
    source: str | None = None


class Source(Protocol):
    """Streams the raw rows of one kind of data; making one raises UserError for data that isn't of this kind."""

    rows: int
    """The number of raw rows."""
    simulated: bool
    """Whether the data says of itself that no person answered."""
    reasons: Mapping[str, str]
    """Why this source may reject a row: code to words."""

    def claims(self) -> Iterator[tuple[str, Split]]:
        """Yields the prompts of rows whose split the source itself says, cheaply: without reading images."""

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """Yields all rows in order, a few at a time."""

    def about(self) -> dict[str, Any]:
        """Returns what metrics/ingest.json says of the source's files: JSON values by name."""


class Settings(BaseModel):
    """Base of a source's own settings: frozen; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid")


S = TypeVar("S", bound=Settings)


def load(name: str, path: Path, settings: Mapping[str, Any]) -> Source:
    """Opens a source by its module's name; raises UserError for settings or data that aren't of its kind."""
    source: Source = axes.load("diffalign.data.sources", name).load(path, settings)
    return source


def check_splits(source: Source, sizes: Mapping[str, int]) -> None:
    """Lets a source judge how many comparisons are in each split, where it offers `check_splits(sizes)`."""
    if hasattr(source, "check_splits"):
        source.check_splits(sizes)


def intended(source: Source) -> Collection[str]:
    """Returns the codes of a source's rejects that are no loss, such as rows that its settings keep out."""
    found: Collection[str] = getattr(source, "intended", ())
    return found


def check_settings(kind: type[S], settings: Mapping[str, Any]) -> S:
    """Returns a source's settings, typed; raises one UserError that lists every error under `data.settings`."""
    try:
        return kind.model_validate(dict(settings))
    except ValidationError as error:
        lines = [
            f"\n  {'.'.join(['data.settings', *map(str, e['loc'])])}: {e['msg']}, found {e.get('input')!r}"[:200]
            for e in error.errors()
        ]
        raise UserError(
            f"data.settings in params.yaml: expected {', '.join(kind.model_fields) or 'no keys'} as this data.source "
            f"has them:{''.join(lines)}"
        ) from None


def read_prompt(raw: bytes | None) -> str | tuple[str, str]:
    """Returns a prompt unchanged as text, or a reject's code (in `REASONS`) and detail."""
    if raw is None:
        return "null_caption", "caption is null"
    if len(raw) > 4 * MAX_PROMPT:
        return "caption_too_long", f"{len(raw)} bytes, at most {MAX_PROMPT} characters are allowed"
    try:
        text = raw.decode()
    except UnicodeDecodeError as error:
        return "caption_not_text", f"not UTF-8: {error.reason} at byte {error.start}"
    if not text.strip():
        return "empty_caption", "nothing but white space"  # "" stands for no prompt in guidance
    if len(text) > MAX_PROMPT:
        return "caption_too_long", f"{len(text)} characters, at most {MAX_PROMPT} are allowed"
    return text
