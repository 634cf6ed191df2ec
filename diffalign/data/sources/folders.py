"""Two folders of images below one: the better ones and the worse ones, a pair by equal file names.

A pair's caption is in a `.txt` beside either image or in the folder above, or in a CSV or TSV there with columns of
file and caption. Which folder won is known by its name (`WON`, `LOST`) or by `data.settings.winners` and `losers`.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from diffalign.core.errors import UserError
from diffalign.data import captioned
from diffalign.data.comparisons.table import Split
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.image_files import ImageFiles
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

WON = ("w", "win", "wins", "winner", "winners", "won", "chosen", "preferred", "better", "good", "positive")
LOST = (
    "l",
    "lose",
    "loses",
    "loser",
    "losers",
    "lost",
    "rejected",
    "dispreferred",
    "unpreferred",
    "worse",
    "bad",
    "negative",
)
"""Names of folders that say which one won, in any case."""
SUFFIXES = (*captioned.SUFFIXES, ".gif", ".bmp", ".tif", ".tiff", ".avif", ".heic")
"""Suffixes of what is meant as an image; ingest says which of them it can't read."""
REASONS = {
    "no_caption": "no .txt beside the images and no line of a table",
    "several_captions": "the captions beside the two images, or in the table, differ",
    "several_images": "several images of one name in a folder",
}


class Settings(source.Settings):
    """`winners` and `losers`: the folders' names; `captions`: a table beside them. "": by the usual names."""

    winners: str = ""
    losers: str = ""
    captions: str = ""


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder with two folders in it; raises UserError, as a question, where it isn't clear which one won."""
    return Folders(path, source.check_settings(Settings, settings))


class Folders:
    """Streams the pairs in the order of their names; sides are shuffled by the images' hash."""

    simulated = False
    reasons: Mapping[str, str] = {**streamed.REASONS, **REASONS}

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.images = path, ImageFiles(path)
        self.sides = chosen(path, settings)
        self.left_out: dict[str, int] = {}
        self.found = [self._listed(side) for side in self.sides]
        self.names = sorted(self.found[0].keys() | self.found[1].keys(), key=os.fsencode)
        self.rows = len(self.names)
        if not self.rows:
            raise UserError(
                f"{path}: expected images ({', '.join(captioned.SUFFIXES)}) in {' and '.join(self.sides)}, found none."
            )
        self.table = table_of(path, settings.captions)
        self.captions = by_name(self.table, self.sides) if self.table else {}

    def claims(self) -> Iterator[tuple[str, Split]]:
        """Yields nothing: folders of pairs have no splits."""
        yield from ()

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """Yields all pairs in batches of at most 128 or about 64 MB of images."""
        return streamed.batches(
            streamed.made(self._made, File(self.path, rows.clean(name), None, ""), row, name)
            for row, name in enumerate(self.names)
        )

    def about(self) -> dict[str, Any]:
        """Returns the number of images, the two folders, the captions' place, and counts of files that aren't read."""
        captions = self.table.name if self.table else "a .txt beside each image"
        files = sum(len(paths) for found in self.found for paths in found.values())
        return {
            "files": files,
            "winners": self.sides[0],
            "losers": self.sides[1],
            "captions": captions,
            "left_out": self.left_out,
        }

    def _listed(self, side: str) -> dict[str, list[str]]:
        """Returns the images' paths below `path` by their name: the path in the folder, without the suffix."""
        found: dict[str, list[str]] = {}
        for folder, folders, names in os.walk(self.path / side):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for name in sorted(names):
                file = PurePosixPath(Path(folder, name).relative_to(self.path).as_posix())
                if name.startswith(".") or file.suffix.lower() not in SUFFIXES:
                    kind = "hidden" if name.startswith(".") else file.suffix.lower() or "no suffix"
                    self.left_out[kind] = self.left_out.get(kind, 0) + 1
                else:
                    found.setdefault(os.fspath(file.relative_to(side).with_suffix("")), []).append(os.fspath(file))
        return found

    def _made(self, file: File, row: int, name: str) -> Candidate:
        shown = [found.get(name, []) for found in self.found]
        if several := [paths for paths in shown if len(paths) > 1]:
            raise Bad("several_images", " and ".join(several[0]))
        prompt = rows.prompt_of(self._caption(name))
        # Where one is missing there are no bytes, which ingest rejects: image_missing.
        won, lost = (Side(self.images.read(paths[0]) if paths else b"") for paths in shown)
        return rows.comparison(file, row, "folders", prompt, (won, lost), "a", shuffle=True)

    def _caption(self, name: str) -> bytes:
        """Returns the caption of a pair as UTF-8; raises Bad where there is none, or several differ."""
        found = self.captions.get(name, set())
        if not self.table:
            texts = [self.images.read(f"{place}{name}.txt") for place in (*(f"{side}/" for side in self.sides), "")]
            found = {text.removeprefix(b"\xef\xbb\xbf").strip() for text in texts} - {b""}
        if len(found) != 1:
            raise Bad("several_captions" if found else "no_caption", f"{rows.clean(name)} has {len(found)}")
        return next(iter(found))


def chosen(path: Path, settings: Settings) -> tuple[str, str]:
    """Returns the names of the folder that won and of the one that lost; raises UserError, as a question."""
    if not path.is_dir():
        raise UserError(f"{path}: expected a folder with two folders of images in it, it isn't there.")
    there = sorted(p.name for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))
    won, lost = (
        [given] if given else [name for name in there if name.lower() in usual]
        for given, usual in ((settings.winners, WON), (settings.losers, LOST))
    )
    if missing := [name for name in (*won, *lost) if name not in there]:
        raise UserError(f"{path}: expected a folder {missing[0]!r} in it, found {', '.join(there) or 'none'}.")
    if len(won) != 1 or len(lost) != 1 or won == lost:
        raise UserError(
            f"Which folder in {path} won? Expected one named like w, win, chosen or preferred and one like l, lose or "
            f"rejected, found {', '.join(there) or 'none'}. Say it: --winners NAME --losers NAME (in params.yaml "
            "data.settings)."
        )
    return won[0], lost[0]


def table_of(path: Path, given: str) -> Path | None:
    """Returns the table of captions in a folder, None without one; raises UserError where it could be several."""
    found = [path / given] if given else sorted(p for p in path.iterdir() if p.suffix.lower() in (".csv", ".tsv"))
    if len(found) > 1:
        names = ", ".join(file.name for file in found)
        raise UserError(f"Which table in {path} has the captions? Found {names}. Say it: --captions NAME")
    return found[0] if found else None


def by_name(table: Path, sides: Sequence[str]) -> dict[str, set[bytes]]:
    """Returns the captions of each name; a table may name a file with or without its folder and suffix."""
    found: dict[str, set[bytes]] = {}
    for file, caption in captioned.of_table(table):
        path = PurePosixPath(file.strip())
        path = PurePosixPath(*path.parts[1:]) if path.parts[:1] in [(side,) for side in sides] else path
        path = path.with_suffix("") if path.suffix.lower() in SUFFIXES else path
        if caption and caption.strip():
            found.setdefault(os.fspath(path), set()).add(caption.strip().encode())
    return found
