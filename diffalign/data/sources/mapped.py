"""Rows of tables with columns of any names, as comparisons: what `table` and `huggingface` share."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from pydantic import Field

from diffalign.core.errors import UserError
from diffalign.data.comparisons.table import Answer, Split
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import answers, fields, files, rows, source, streamed, values
from diffalign.data.sources.answers import Said
from diffalign.data.sources.files import File
from diffalign.data.sources.image_files import ImageFiles
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

Raw = Mapping[str, Any]


class MappedSettings(streamed.SplitSettings):
    """`columns`: field to column; `answers`: what a word in the answer's column says; `splits`: as of `files.find`."""

    columns: dict[str, str] = Field(default_factory=dict)
    answers: dict[str, Answer] = Field(default_factory=dict)


class Format(Protocol):
    """Reads one format of tables."""

    suffix: str
    expected: str

    def survey(self, path: Path) -> tuple[Sequence[str], int]:
        """Returns a file's columns and its rows; raises UserError, without its name, for one of another format."""

    def read(self, path: Path, names: Sequence[str]) -> Iterator[Any]:
        """Yields the rows of a file as mappings of these columns, and perhaps others; what isn't one is a bad row."""


class Reader:
    """Reads tables of one format; `streamed.Reader` says what of."""

    deep = True
    reasons: Mapping[str, str] = values.REASONS

    def __init__(self, kind: str, path: Path, format_: Format, settings: MappedSettings) -> None:
        self.kind, self.format = kind, format_
        self.suffix, self.expected = format_.suffix, format_.expected
        found, _ = files.find(path, self.suffix, settings.splits)
        self.surveys = {file.path: _survey(format_, file.path) for file in found}
        self.names = list(dict.fromkeys(name for names, _ in self.surveys.values() for name in names))
        self.columns = fields.resolve(str(path), self.names, settings.columns)
        self.answers: dict[str, Answer] = {}
        if "answer" in self.columns:
            own: dict[str, Answer] = {self.columns["image_a"].lower(): "a", self.columns["image_b"].lower(): "b"}
            self.answers = answers.understood(path, self.columns["answer"], self._words(), own, settings.answers)

    def count(self, path: Path) -> int:
        """Returns the number of rows of a file."""
        return self.surveys[path][1]

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the prompts of a file's rows."""
        return (prompt for prompt, _ in self.claims(path))

    def claims(self, path: Path) -> Iterator[tuple[Any, Split | None]]:
        """Yields the prompt of each row, and the split that a column says."""
        for raw in self._read(path, ("prompt", "split")):
            if isinstance(raw, Mapping):
                yield self._value(raw, "prompt"), self._split(raw)

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields a comparison or a reject for each row."""
        images = ImageFiles(file.path.parent)
        for row, raw in enumerate(self._read(file.path, tuple(self.columns))):
            yield streamed.made(self._made, file, row, raw, images)

    def about(self) -> dict[str, Any]:
        """Returns the column of each field, and the columns that aren't read."""
        read = set(self.columns.values()) | {column.split(".")[0] for column in self.columns.values()}
        return {"columns": self.columns, "columns_unread": [name for name in self.names if name not in read]}

    def _read(self, path: Path, fields: Sequence[str]) -> Iterator[Any]:
        wanted = {self.columns[field] for field in fields if field in self.columns}
        wanted |= {column.split(".")[0] for column in wanted}
        return self.format.read(path, [name for name in self.surveys[path][0] if name in wanted])

    def _value(self, raw: Raw, field: str) -> Any:
        """Returns a field's value; a column may be a path into a struct, such as images.image_1."""
        column = self.columns.get(field, "")
        if column in raw or "." not in column:
            return raw.get(column)
        value: Any = raw
        for part in column.split("."):
            value = value.get(part) if isinstance(value, Mapping) else None
        return value

    def _words(self) -> Iterator[str | None]:
        for path in self.surveys:
            yield from (self._word(raw) for raw in self._read(path, ("answer",)) if isinstance(raw, Mapping))

    def _word(self, raw: Raw) -> str | None:
        return answers.word_of(*(self._value(raw, field) for field in ("answer", "image_a", "image_b")))

    def _split(self, raw: Raw) -> Split | None:
        return files.WORDS.get((values.text(self._value(raw, "split")) or "").lower())

    def _said(self, raw: Raw) -> Said:
        if "winner" in self.columns:
            return Said("a")
        if "answer" in self.columns:
            return answers.of_word(self._word(raw), self.answers)
        if "share" in self.columns:
            return answers.of_share(self._value(raw, "share"))
        return answers.of_votes(self._value(raw, "votes_a"), self._value(raw, "votes_b"))

    def _made(self, file: File, row: int, raw: Any, images: ImageFiles) -> Candidate:
        raw = rows.mapping(raw)
        prompt, said, won = rows.prompt_of(self._value(raw, "prompt")), self._said(raw), "winner" in self.columns
        fields = (
            (("winner", "model_a"), ("loser", "model_b")) if won else (("image_a", "model_a"), ("image_b", "model_b"))
        )
        first, second = (
            Side(values.image(self._value(raw, image), images), values.text(self._value(raw, model)))
            for image, model in fields
        )
        made = rows.comparison(
            file._replace(split=self._split(raw) or file.split),
            row,
            self.kind,
            prompt,
            (first, second),
            said.answer,
            share=said.share,
            shuffle=won,
            votes=said.votes,
            **{key: values.text(self._value(raw, field)) for field, key in TEXTS.items()},
        )
        return dated(made, self._value(raw, "time"))


TEXTS = {"rater": "rater_id", "axis": "axis", "rater_group": "rater_group", "ranking": "ranking"}
"""Fields of text, and their names in `Candidate`."""


class Mapped:
    """Streams the rows of tables; a row's own column of splits comes before the name of its file."""

    simulated = False

    def __init__(self, path: Path, reader: Reader, settings: MappedSettings) -> None:
        self.reader, self.streamed = reader, streamed.Streamed(path, settings.splits, reader)
        self.rows, self.reasons = self.streamed.rows, self.streamed.reasons

    def claims(self) -> Iterator[tuple[str, Split]]:
        """Yields the prompts of rows whose split a column or a file's name says."""
        for file in self.streamed.files:
            if file.split is None and "split" not in self.reader.columns:
                continue
            for raw, said in self.reader.claims(file.path):
                split = said or file.split
                try:
                    prompt = rows.prompt_of(raw)
                except Bad:
                    continue
                if split:
                    yield prompt, split

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """Yields all rows in batches."""
        return self.streamed.records()

    def about(self) -> dict[str, Any]:
        """Returns the files, the split of each, and the column of each field."""
        return self.streamed.about() | self.reader.about()


def dated(candidate: Candidate, value: Any) -> Candidate:
    """Returns a candidate with the time that a cell says; equal answers at other times are others."""
    moment = values.moment(value)
    if moment is None:
        return candidate
    return replace(
        candidate,
        comparison_id=f"{candidate.comparison_id}-{moment.timestamp():.0f}",
        created_at=moment,
        flags=tuple(flag for flag in candidate.flags if flag != "no_time"),
    )


def opened(kind: str, path: Path, format_: Format, settings: Mapping[str, Any]) -> source.Source:
    """Opens tables of one format; raises UserError for other settings, no rows, and columns that leave a question."""
    given = source.check_settings(MappedSettings, settings)
    return Mapped(path, Reader(kind, path, format_, given), given)


def _survey(format_: Format, path: Path) -> tuple[Sequence[str], int]:
    try:
        return format_.survey(path)
    except UserError as error:
        raise UserError(f"{path}: expected {format_.expected}: {error}") from error
