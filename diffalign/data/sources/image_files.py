"""Reads images that lie in files beside a source's rows, under paths that somebody else wrote."""

import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import IO, Any

from diffalign.core.errors import UserError
from diffalign.data.sources.rows import Bad

MOST = 256 * 2**20
"""Bytes of the largest image that is read; ingest's own limits are lower."""
MEMBER_ERRORS = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError, NotImplementedError, ValueError)
"""Errors that reading a damaged or encrypted member of a zip raises."""
KEPT_BYTES = 64 * 2**20
"""Bytes of images that are kept in memory: a ranking's images are in many comparisons."""


class ImageFiles:
    """Reads images by their paths, from the first of some folders below a root that has them, or from its zips.

    `folders` are looked into in order. `images/train_1/x.webp` may also be `x.webp` in `images/train_1.zip`.
    """

    def __init__(self, root: Path, folders: Sequence[str] = ("",)) -> None:
        self.root, self.folders = root, folders
        self.inside = root.resolve()
        self.zips: dict[Path, zipfile.ZipFile | None] = {}
        self.kept: dict[str, bytes] = {}
        self.kept_bytes = 0

    def read(self, raw: Any) -> bytes:
        """Returns an image's bytes, none where it isn't there, so that ingest rejects the row as `image_missing`.

        Raises Bad for a path that leads out of the folder, and for a member of a zip that is damaged or far too large;
        UserError for a damaged zip and for a file that may not be read.
        """
        name = _safe(raw)
        if name not in self.kept:
            found = self._read(name)
            # Whatever an entry takes beside its bytes: images that aren't there are many, too.
            self.kept_bytes += len(found) + 1000
            if self.kept_bytes > KEPT_BYTES:
                self.kept, self.kept_bytes = {}, len(found)
            self.kept[name] = found
        return self.kept[name]

    def _read(self, name: str) -> bytes:
        for folder in self.folders:
            path = self.root / folder / name
            try:
                if path.is_file():
                    self._check(path)
                    with open(path, "rb") as file:
                        return _bounded(file, name)
                found = self._member(path.parent.with_name(f"{path.parent.name}.zip"), path.name)
            except PermissionError as error:
                raise UserError(f"{path} can't be read: {error.strerror}. Give permission or remove it.") from error
            except (OSError, ValueError) as error:  # a name too long, or with a null
                raise Bad("bad_path", f"{name!r:.80}: {error}") from error
            if found is not None:
                return found
        return b""

    def _check(self, path: Path) -> None:
        # The data's folder may be a link itself; no link in it, of a file or a folder, may lead out of it.
        if not path.resolve().is_relative_to(self.inside):
            raise Bad("bad_path", f"{path.name} is, by a link, outside {self.root}")

    def _member(self, archive: Path, name: str) -> bytes | None:
        if archive not in self.zips:
            try:
                self.zips[archive] = zipfile.ZipFile(archive) if archive.is_file() else None
            except (zipfile.BadZipFile, NotImplementedError, ValueError, OSError) as error:
                raise UserError(f"{archive} is damaged: {error}. Fetch it again.") from error
        found = self.zips[archive]
        if found is None:
            return None
        try:
            with found.open(name) as file:
                return _bounded(file, name)
        except KeyError:
            return None
        except Bad:
            raise
        except MEMBER_ERRORS as error:
            raise Bad("image_undecodable", f"{name} in {archive.name}: {error}") from error


def check_unpacked(root: Path, archives: str, command: str) -> None:
    """Raises UserError where archives of images (a pattern of names) lie in a folder that has no other folder yet."""
    there = sorted(root.glob(archives))
    if there and not any(path.is_dir() and not path.name.startswith(".") for path in root.iterdir()):
        raise UserError(
            f"{root} (data.path): the images are still in {there[0].name}{' ...' if len(there) > 1 else ''}. Unpack "
            f"them first: cd {root} && {command}"
        )


def _bounded(file: IO[bytes], name: str) -> bytes:
    data = file.read(MOST + 1)
    if len(data) > MOST:
        raise Bad("image_too_large", f"{name}: more than {MOST} bytes")
    return data


def _safe(raw: Any) -> str:
    """Returns a relative path that stays below its root; raises Bad for others."""
    if isinstance(raw, bytes):
        raw = raw.decode("utf-8", "replace")
    path = PurePosixPath(raw) if isinstance(raw, str) else None
    if path is None or not path.name or path.is_absolute() or ".." in path.parts or not _is_text(str(path)):
        raise Bad("bad_path", f"expected a path below the data's folder, found {raw!r:.80}")
    return path.as_posix()


def _is_text(name: str) -> bool:
    """Tells whether a file may be named so: no null, no half surrogate."""
    return "\0" not in name and not any("\ud800" <= one <= "\udfff" for one in name)
