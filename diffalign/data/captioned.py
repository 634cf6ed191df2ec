"""Reads images with their captions from wherever they lie: a folder, a folder that generate wrote, Parquet files.

In a folder an image's caption is in a `.txt` beside it, in `metadata.csv`, or in a table that is named. Each image
becomes a `Captioned` or a `Rejected` with a reason; images are decoded to know.
"""

import csv
import io
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data import images
from diffalign.data.sources import parquet

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
TABLE = "metadata.csv"
FILES, PROMPTS = ("file_name", "file", "image", "path"), ("prompt", "caption", "text")
"""Names of a table's columns that are understood, in the order in which they are looked for."""
IMAGES = ("image", "jpg", "png", "bytes", "jpg_0")
UNPACK_BYTES = 512 * 2**20
REASONS = images.REASONS | {"no_caption": "an image without a caption", "outside": "a file outside the folder"}


class Captioned(NamedTuple):
    """An image, uint8 [H, W, 3], with its name, its caption, and the SHA-256 of its bytes."""

    file: str
    prompt: str
    sha256: str
    pixels: NDArray[np.uint8]


class Rejected(NamedTuple):
    """An image that can't be used, and why: a key of REASONS and the detail."""

    file: str
    reason: str
    detail: str


Found = Captioned | Rejected


def read(path: Path, table: Path | None, max_pixels: int) -> tuple[int, Iterator[Found]]:
    """Returns how many images are at a path, and them with their captions, in the order of their names or rows.

    `table` is a CSV or TSV of files and captions, for folders. Raises UserError where there are no images, or where a
    table or a Parquet file isn't one.
    """
    if path.is_dir() and (table or not any(path.glob("*.parquet"))):
        names = captions(path, table)
        return len(names), (decoded(path, file, prompt, max_pixels) for file, prompt in names.items())
    if path.is_dir() or path.suffix == ".parquet":
        parts = {file: _columns(file) for file in (sorted(path.glob("*.parquet")) if path.is_dir() else [path])}
        return sum(rows for *_, rows in parts.values()), _of_parquet(parts, max_pixels)
    found = "another file" if path.exists() else "nothing there"
    raise UserError(f"{path}: expected a folder of images or a Parquet file, found {found}.")


def captions(folder: Path, table: Path | None = None) -> dict[str, str | None]:
    """Returns the caption of each image of a folder by its path below it, None without one; reads no image.

    Raises UserError where there are no images, or the table of captions isn't one.
    """
    found = dict(_named(folder, table))
    if not found:
        raise UserError(f"{folder}: expected images ({', '.join(SUFFIXES)}), found none.")
    return found


def _named(folder: Path, table: Path | None) -> Iterator[tuple[str, str | None]]:
    if table or (folder / TABLE).is_file():
        yield from of_table(table or folder / TABLE)
    elif (folder / "manifest.json").is_file():
        yield from _of_manifest(folder / "manifest.json")
    else:
        for file in sorted(p for p in folder.rglob("*") if p.suffix.lower() in SUFFIXES and p.is_file()):
            yield os.fspath(file.relative_to(folder)), _beside(file)


def decoded(folder: Path, file: str, prompt: str | None, max_pixels: int) -> Found:
    """Returns an image of a folder with its caption, or why it can't be used."""
    name = file.encode("utf-8", "surrogateescape").decode("utf-8", "replace")  # what JSON and terminals can have
    if not (folder / file).resolve().is_relative_to(folder.resolve()):
        return Rejected(name, "outside", f"{name} isn't below {folder}")
    if not prompt or not prompt.strip():
        return Rejected(name, "no_caption", "there is no .txt beside it and no line of a table")
    try:
        data = (folder / file).read_bytes()
    except (OSError, ValueError) as error:
        return Rejected(name, "image_missing", str(error))
    return _checked(name, prompt.strip(), data, max_pixels)


def of_table(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yields the file and the caption of each row of a CSV or TSV with a header; UserError for another."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
        rows = csv.DictReader(
            io.StringIO(text, newline=""), delimiter="\t" if path.suffix == ".tsv" else ",", strict=True
        )
        columns = {str(name).strip().casefold(): name for name in rows.fieldnames or ()}
        file, prompt = (next((columns[n] for n in names if n in columns), None) for names in (FILES, PROMPTS))
        if file is None or prompt is None:
            raise UserError(
                f"{path}: expected a header with one of {', '.join(FILES)} and one of {', '.join(PROMPTS)}, found "
                f"{', '.join(columns) or 'nothing'}."
            )
        for row in rows:
            yield row[file] or "", row[prompt]
    except FileNotFoundError:
        raise UserError(f"{path} is missing.") from None
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{path}: expected a CSV, or a TSV whose name says so, in UTF-8: {error}") from None


def _of_manifest(path: Path) -> Iterator[tuple[str, str | None]]:
    """Yields the file and the prompt of each image of a manifest that generate wrote."""
    try:
        for entry in json.loads(path.read_bytes())["images"]:
            yield str(entry["file"]), str(entry["prompt"])
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        raise UserError(f"{path}: expected the manifest of images that generate wrote, found something else.") from None


def _beside(file: Path) -> str | None:
    """Returns the text of the .txt beside an image; None where there's none, or it isn't text."""
    try:
        return file.with_suffix(".txt").read_bytes().decode("utf-8-sig")
    except (OSError, UnicodeDecodeError):
        return None


def _of_parquet(parts: Mapping[Path, tuple[str, str, int]], max_pixels: int) -> Iterator[Found]:
    """Yields the rows of Parquet files with a column of images (bytes, or a struct with them) and one of captions."""
    for file, (image, prompt, _) in parts.items():
        row = 0
        for rows, _ in parquet.records(file, [image, prompt], UNPACK_BYTES):
            for raw in rows:
                yield _of_row(f"{file.name}:{row}", raw[image], raw[prompt], max_pixels)
                row += 1


def _columns(file: Path) -> tuple[str, str, int]:
    """Returns the names of a file's columns of images and of captions, and its rows; UserError without such columns."""
    try:
        with pq.ParquetFile(file) as opened:
            names, rows = opened.schema_arrow.names, opened.metadata.num_rows
    except parquet.DAMAGED as error:
        raise UserError(f"{file} isn't a Parquet file, or is damaged: {error}") from None
    image, prompt = (next((n for n in known if n in names), None) for known in (IMAGES, PROMPTS))
    if image is None or prompt is None:
        raise UserError(
            f"{file}: expected a column of images ({', '.join(IMAGES)}) and one of captions ({', '.join(PROMPTS)}), "
            f"found {', '.join(names)}."
        )
    return image, prompt, rows


def _of_row(name: str, image: object, prompt: object, max_pixels: int) -> Found:
    data: object = image.get("bytes") if isinstance(image, Mapping) else image
    text = prompt.decode("utf-8", "replace").strip() if isinstance(prompt, bytes) else ""
    if not isinstance(data, bytes) or not data:
        return Rejected(name, "image_missing", "the row has no bytes of an image")
    return _checked(name, text, data, max_pixels) if text else Rejected(name, "no_caption", "the row has no text")


def _checked(name: str, prompt: str, data: bytes, max_pixels: int) -> Found:
    try:
        images.probe(data, max_pixels, len(data))
        pixels = np.asarray(images.decode(data, max_pixels))
    except images.ImageError as error:
        return Rejected(name, error.reason, error.detail)
    return Captioned(name, prompt, sha256_bytes(data), pixels)
