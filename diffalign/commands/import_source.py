"""Finds out what kind of data lies at a path, or on the hub, and opens it as a source."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from diffalign.core import yaml_file
from diffalign.core.errors import UserError
from diffalign.data.hub import datasets
from diffalign.data.sources import folders, parquet, source, table
from diffalign.data.sources.pickapic import NEEDED


@dataclass(frozen=True)
class Asked:
    """What the user said of the data: a source's name, columns, answers, folders, other settings; of the hub what."""

    source: str | None = None
    columns: Sequence[str] = ()
    answers: Sequence[str] = ()
    winners: str | None = None
    losers: str | None = None
    captions: str | None = None
    settings: Sequence[str] = ()
    revision: str = "main"
    files: int | None = None


def opened(where: str, asked: Asked) -> tuple[str, Path, source.Source]:
    """Returns the source's name, the path of its data, and the source; downloads what is on the hub.

    Raises UserError for nothing of that name, for data of an unknown kind, and where a source has a question.
    """
    path = Path(where).expanduser()
    if not path.exists():
        path = brought(where, asked)
    kind = asked.source or kind_of(path, asked)
    return kind, path, source.load(kind, path, settings(kind, asked))


def brought(where: str, asked: Asked) -> Path:
    """Downloads a data set of the hub; raises UserError where it can't be one."""
    repo = datasets.name_of(where)
    if repo is None or (Path(repo).parent.exists() and ":" not in where):
        raise UserError(
            f"import: {where} isn't there. Expected a folder with two folders of images, a table (.jsonl, .csv), a "
            "data set of Hugging Face on the disk, or OWNER/NAME of one on the hub."
        )
    return datasets.bring(repo, asked.revision, asked.files)


def settings(kind: str, asked: Asked) -> dict[str, Any]:
    """Returns `data.settings` of a source as the options say; raises UserError for an option that it hasn't."""
    given: dict[str, Any] = {
        name: yaml_file.parse(value, f"--setting {name}") for name, value in pairs("setting", asked.settings)
    }
    options = {
        "columns": dict(pairs("column", asked.columns)),
        "answers": dict(pairs("answer", asked.answers)),
        "winners": asked.winners,
        "losers": asked.losers,
        "captions": asked.captions,
    }
    given |= {name: value for name, value in options.items() if value}
    if kind == "pickapic":
        given.setdefault("splits", {})
    return given


def pairs(option: str, texts: Sequence[str]) -> list[tuple[str, str]]:
    """Returns the names and values of options like --column prompt=caption; raises UserError for others."""
    if wrong := [text for text in texts if "=" not in text]:
        raise UserError(f"import: --{option}: expected NAME=VALUE, found {wrong[0]!r}")
    return [(name.strip(), value.strip()) for name, _, value in (text.partition("=") for text in texts)]


def kind_of(path: Path, asked: Asked) -> str:
    """Returns the name of the source that reads a path; raises UserError where none does, or several do."""
    if path.is_file():
        kinds = {
            **dict.fromkeys(table.SUFFIXES, "table"),
            ".arrow": "huggingface",
            ".parquet": parquet_kind(path, asked),
        }
        if path.suffix.lower() in kinds:
            return kinds[path.suffix.lower()]
        raise UserError(f"import: {path}: expected one of {', '.join(kinds)}, found {path.suffix or 'no suffix'}.")
    if asked.winners or asked.losers or is_pair_of_folders(path):
        return "folders"
    if any(path.rglob("*.arrow")):
        return "huggingface"
    if file := next(iter(sorted(path.rglob("*.parquet"))), None):
        return parquet_kind(file, asked)
    if any(p.suffix.lower() in table.SUFFIXES for p in path.iterdir()):
        return "table"
    # Neither: the source says what it misses.
    return "folders"


def is_pair_of_folders(path: Path) -> bool:
    """Tells whether a folder has one whose name says that it won and one that lost, and no table of pairs."""
    names = {p.name.lower() for p in path.iterdir() if p.is_dir()}
    if names.isdisjoint(folders.WON) or names.isdisjoint(folders.LOST):
        return False
    try:
        source.load("table", path, {})
    except UserError:
        return True
    return False


def parquet_kind(path: Path, asked: Asked) -> str:
    """Returns pickapic for a Parquet file in its columns, huggingface for one of others."""
    if path.suffix.lower() != ".parquet" or asked.columns or asked.answers:
        return "huggingface"
    try:
        with pq.ParquetFile(path) as file:
            return "pickapic" if set(NEEDED) <= set(file.schema_arrow.names) else "huggingface"
    except parquet.DAMAGED as error:
        raise UserError(f"{path} isn't a Parquet file, or is damaged: {error}") from None
