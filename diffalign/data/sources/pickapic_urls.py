"""Pick-a-Pic without its images (the sets *_no_images): Parquet files with addresses, the images fetched beforehand.

Each image lies at `images/UID.jpg` below data.path (or .png, .webp, or without an ending), UID being `image_0_uid` and
`image_1_uid`. This project downloads from no addresses in data: they lead to strangers' machines, and many are dead.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import parquet, rows, source, streamed
from diffalign.data.sources.files import File
from diffalign.data.sources.image_files import ImageFiles
from diffalign.data.sources.rows import Bad, Side
from diffalign.data.sources.source import Candidate

_TEXT, _REAL = pa.string(), pa.float64()
COLUMNS = {"caption": _TEXT, "label_0": _REAL, "label_1": _REAL, "image_0_uid": _TEXT, "image_1_uid": _TEXT}
MORE = {"has_label": pa.bool_(), "model_0": _TEXT, "model_1": _TEXT, "user_id": pa.int64()}
FOLDER = "images"
ENDINGS = (".jpg", ".png", ".webp", "")
REASONS = {"no_label": "nobody answered"}
UNPACK_BYTES = 64 * 2**20


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder of Parquet files with images beside; UserError for other settings and columns, or no images."""
    given = source.check_settings(streamed.SplitSettings, settings)
    found = streamed.Streamed(path, given.splits, Reader(path))
    folder = (path.parent if path.is_file() else path) / FOLDER
    if not folder.is_dir():
        raise UserError(
            f"{folder}: expected the images, this data set has their addresses only. Fetch each image_0_url and "
            f"image_1_url to {FOLDER}/UID.jpg, UID being image_0_uid and image_1_uid, with a downloader that goes on "
            "where it stopped (img2dataset, aria2c); rows whose images aren't there are rejected. Or take Pick-a-Pic "
            f"with its images: {COMMAND} fetch pickapic_v2, data.source: pickapic"
        )
    return found


class Reader:
    """Reads Pick-a-Pic's Parquet files without jpg_0 and jpg_1."""

    suffix, deep = ".parquet", True
    expected = f"Pick-a-Pic's columns {', '.join(COLUMNS)}"
    reasons: Mapping[str, str] = REASONS

    def __init__(self, path: Path) -> None:
        self.images = ImageFiles(path.parent if path.is_file() else path, (FOLDER,))

    def count(self, path: Path) -> int:
        """Returns the number of rows."""
        return parquet.check(path, COLUMNS, MORE, parquet.alike)

    def prompts(self, path: Path) -> Iterator[Any]:
        """Yields the captions."""
        for found in parquet.texts(path, "caption"):
            yield from found

    def entries(self, file: File) -> Iterator[Candidate | Reject]:
        """Yields a comparison for each row."""
        row = 0
        for raws, _ in parquet.records(file.path, [*COLUMNS, *MORE], UNPACK_BYTES):
            for raw in raws:
                yield streamed.made(self._made, file, row, raw)
                row += 1

    def _made(self, file: File, row: int, raw: dict[str, Any]) -> Candidate:
        prompt = rows.prompt_of(raw["caption"])
        if raw["has_label"] is not None and not raw["has_label"]:
            raise Bad("no_label", "has_label is false")
        share = rows.label_share(raw["label_0"], raw["label_1"])
        sides = [Side(self._image(raw[f"image_{i}_uid"]), rows.text(raw[f"model_{i}"])) for i in (0, 1)]
        user = raw["user_id"]
        rater = str(user) if isinstance(user, int) else rows.text(user)
        return rows.comparison(file, row, "pickapic_urls", prompt, (sides[0], sides[1]), share=share, rater_id=rater)

    def _image(self, uid: Any) -> bytes:
        name = rows.text(uid)
        if name is None or "/" in name:
            raise Bad("bad_path", f"expected an image's uid, found {name!r:.80}")
        return next((found for ending in ENDINGS if (found := self.images.read(f"{name}{ending}"))), b"")
