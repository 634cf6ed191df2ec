"""Several sources at once: each in a folder of its own below data.path, their comparisons named by it.

`data.settings.sources` maps names to a source each: its module, its folder below data.path, its own settings. What one
counts beside the others is `pairs.sources` in params: another weight ingests and encodes nothing again.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from diffalign.core.errors import UserError
from diffalign.data.comparisons.table import Split
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import source
from diffalign.data.sources.source import Candidate

CODE: dict[str, str] = {
    "arena": "1214d4b7e660",
    "folders": "e3e067625ae4",
    "hpdv2": "3b46ba8a4c68",
    "hpdv3": "b58c451dd9ea",
    "huggingface": "765d195bac55",
    "imagereward": "fca46fab8bb7",
    "open_image_preferences": "ca68e6f63675",
    "pickapic": "0b54c91bf003",
    "pickapic_urls": "7f5eea4dfe2e",
    "pickapic_webdataset": "b6c58cca8951",
    "rapidata": "b0fea4e1d69d",
    "table": "c3dfa3299e3f",
}
"""Hashes of the sources' code, which `python -m tools.closure --write` writes: DVC sees this file for this source, so
it ingests again after an edit of theirs."""


class One(source.Settings):
    """A source: its module's name, its folder as a path below data.path, its own settings."""

    source: str
    path: str
    settings: dict[str, Any]


class Settings(source.Settings):
    """`sources`: the sources by the names that their comparisons get."""

    sources: Annotated[dict[Annotated[str, Field(pattern=r"^[a-z][a-z0-9_]*$")], One], Field(min_length=1)]


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens the sources; raises UserError for other settings, and what each raises, with its name."""
    given = source.check_settings(Settings, settings)
    return Several({name: _open(path, name, one) for name, one in given.sources.items()})


class Several:
    """Streams the sources one after the other, in the order of their names."""

    def __init__(self, sources: Mapping[str, source.Source]) -> None:
        self.sources = dict(sorted(sources.items()))
        self.rows = sum(one.rows for one in self.sources.values())
        self.simulated = any(one.simulated for one in self.sources.values())
        self.reasons: Mapping[str, str] = {k: v for one in self.sources.values() for k, v in one.reasons.items()}
        self.intended = {code for one in self.sources.values() for code in source.intended(one)}

    def claims(self) -> Iterator[tuple[str, Split]]:
        """Yields the prompts of each source whose split it says."""
        for one in self.sources.values():
            yield from one.claims()

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """Yields the records of each source, in its own batches; files get the source's name before theirs."""
        for name, one in self.sources.items():
            for found in one.records():
                yield [_named(name, record) for record in found]

    def about(self) -> dict[str, Any]:
        """Returns what each source says, by name, and together what the report and others read."""
        said = {name: one.about() for name, one in self.sources.items()}
        files = [
            known | {"file": f"{name}/{known['file']}"}
            for name, about in said.items()
            for known in about.get("file_splits", [])
        ]
        left_out: Counter[str] = Counter()
        for about in said.values():
            left_out.update(about.get("left_out", {}))
        united = {
            key: sorted({tag for about in said.values() for tag in about.get(key, [])}) for key in ("notes", "families")
        }
        counts = {name: {"source_rows": one.rows, **said[name]} for name, one in self.sources.items()}
        return {
            "files": sum(about.get("files", 0) for about in said.values()),
            "file_splits": files,
            "left_out": dict(sorted(left_out.items())),
            **united,
            "sources": counts,
        }


def _open(path: Path, name: str, one: One) -> source.Source:
    """Opens a source; raises UserError for a folder that DVC wouldn't see as part of data.path."""
    where = f"data.settings.sources.{name}"
    folder = path / one.path
    if Path(one.path).is_absolute() or ".." in Path(one.path).parts:
        raise UserError(f"{where}.path: expected a folder below data.path ({path}), found {one.path!r}. Move it there.")
    if any((path / part).is_symlink() for part in (one.path, *map(str, Path(one.path).parents)) if part != "."):
        raise UserError(f"{where}.path: {folder} is a link, which DVC doesn't follow there. Move or copy the folder.")
    if one.source == "several":
        raise UserError(f"{where}.source: expected one source, found several. List its sources here.")
    try:
        return source.load(one.source, folder, one.settings)
    except UserError as error:
        raise UserError(f"{where}: {error}") from error


def _named(name: str, record: Candidate | Reject) -> Candidate | Reject:
    if isinstance(record, Reject):
        return record._replace(file=f"{name}/{record.file}")
    return replace(record, file=f"{name}/{record.file}", source=name)
