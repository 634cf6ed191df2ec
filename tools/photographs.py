"""Makes comparisons of real photographs: small crops, and damaged copies of them, in Pick-a-Pic's columns.

`python -m tools.photographs FOLDER` writes a file for each split; no photograph is in two splits. With --folders it
writes 40 pairs as people have them: a folder of the better pictures, one of the worse, a caption beside each. The
photographs are those that scikit-image and scikit-learn bundle. The undamaged crop is preferred: nobody answered. The
same seed gives the same pixels.
"""

import argparse
import io
import sys
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from diffalign.core.errors import UserError
from diffalign.core.files import write_bytes, write_text
from diffalign.data.sources.pickapic import COLUMNS, SIMULATED

Picture = NDArray[np.uint8]
PHOTOGRAPHS = {
    "a woman in an orange suit": ("skimage", "data/astronaut.png"),
    "a cat": ("skimage", "data/chelsea.png"),
    "a cup of coffee": ("skimage", "data/coffee.png"),
    "a motorcycle": ("skimage", "data/motorcycle_left.png"),
    "a rocket": ("skimage", "data/rocket.jpg"),
    "a palace": ("sklearn", "datasets/images/china.jpg"),
    "a flower": ("sklearn", "datasets/images/flower.jpg"),
}
"""What each shows, the package that brings it, and its path there."""
SPLITS = {
    "train": ("a cat", "a cup of coffee", "a motorcycle", "a rocket", "a flower"),
    "validation": ("a palace",),
    "test": ("a woman in an orange suit",),
}
COUNTS = {"train": 40, "validation": 12, "test": 12}
"""Pairs of each split."""
CROPS = (96, 192)
"""Least and most pixels of a crop's side, before it's resized."""
FLAT = 15.0
"""Levels of standard deviation below which a crop shows nothing that damage could change, and another is drawn."""


def photograph(what: str) -> Picture:
    """Returns one of PHOTOGRAPHS, uint8 [H, W, 3]; UserError where its package isn't installed."""
    package, path = PHOTOGRAPHS[what]
    try:
        found = resources.files(package) / path
    except ModuleNotFoundError as error:
        raise UserError(
            f"expected {package}, which brings photographs. Install it: pip install -e '.[test]'"
        ) from error
    with resources.as_file(found) as file, Image.open(file) as image:
        return np.asarray(image.convert("RGB"))


def jpeg(picture: Picture, quality: float) -> Picture:
    """Returns a picture after JPEG of a quality from 1 to 95."""
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "JPEG", quality=round(quality))
    with Image.open(stored) as image:
        return np.asarray(image)


def noise(picture: Picture, levels: float, seed: int = 0) -> Picture:
    """Returns a picture with Gaussian noise of a standard deviation in levels of 255."""
    drawn = np.random.default_rng(seed).normal(0, levels, picture.shape)
    return np.clip(picture + drawn, 0, 255).round().astype(np.uint8)


def blur(picture: Picture, radius: float) -> Picture:
    """Returns a picture under a Gaussian blur of a radius in pixels."""
    return np.asarray(Image.fromarray(picture).filter(ImageFilter.GaussianBlur(radius)))


DAMAGE: dict[str, tuple[Callable[[Picture, float], Picture], float, float]] = {
    "jpeg": (jpeg, 15, 4),
    "noise": (noise, 15, 45),
    "blur": (blur, 0.8, 2),
}
"""Each kind of damage, its mildest and its strongest strength."""


def rows(split: str, side: int, seed: int) -> Iterator[dict[str, Any]]:
    """Yields a split's comparisons: a crop and its damaged copy, [side, side], on sides by chance."""
    rng = np.random.default_rng([seed, list(SPLITS).index(split)])
    subjects = SPLITS[split]
    for number in range(COUNTS[split]):
        what = subjects[number % len(subjects)]
        kind = list(DAMAGE)[number // len(subjects) % len(DAMAGE)]
        kept, damaged = pair(what, kind, side, rng)
        first = bool(rng.random() < 0.5)
        images, models = ((kept, damaged), ("photograph", kind)) if first else ((damaged, kept), (kind, "photograph"))
        yield {
            "are_different": True,
            "caption": f"a photograph of {what}, detail {number}",
            "created_at": datetime(2026, 1, 1) + timedelta(minutes=number),
            "has_label": True,
            **{f"image_{i}_uid": f"{split}-{number}-{models[i]}" for i in (0, 1)},
            **{f"jpg_{i}": png(images[i]) for i in (0, 1)},
            **{f"label_{i}": float(models[i] == "photograph") for i in (0, 1)},
            **{f"model_{i}": models[i] for i in (0, 1)},
            "ranking_id": number,
            "user_id": 0,
        }


def pair(what: str, kind: str, side: int, rng: np.random.Generator) -> tuple[Picture, Picture]:
    """Returns a crop of a photograph and its copy, damaged in one way of DAMAGE by a strength that rng draws."""
    damage, mild, strong = DAMAGE[kind]
    kept = crop(photograph(what), side, rng)
    return kept, damage(kept, rng.uniform(min(mild, strong), max(mild, strong)))


def crop(picture: Picture, side: int, rng: np.random.Generator) -> Picture:
    """Returns a square that rng draws, resized to [side, side]; flat ones are drawn again."""
    height, width = picture.shape[:2]
    while True:
        size = int(rng.integers(*CROPS))
        top, left = int(rng.integers(height - size)), int(rng.integers(width - size))
        found = picture[top : top + size, left : left + size]
        if found.mean(axis=2).std() >= FLAT:
            return np.asarray(Image.fromarray(found).resize((side, side), Image.Resampling.LANCZOS))


def png(picture: Picture) -> bytes:
    """Returns a picture's bytes as a file that changes no pixel."""
    stored = io.BytesIO()
    Image.fromarray(picture).save(stored, "PNG")
    return stored.getvalue()


def write(folder: Path, side: int, seed: int) -> None:
    """Writes the splits' files, the folder included; their metadata says that nobody answered."""
    note = {SIMULATED: "the undamaged crop of a photograph is preferred to its damaged copy: no person answered"}
    for split in SPLITS:
        table = pa.Table.from_pylist(list(rows(split, side, seed)), pa.schema(list(COLUMNS.items()), note))
        stored = io.BytesIO()
        pq.write_table(table, stored, compression="zstd")
        write_bytes(folder / f"{split}.parquet", stored.getvalue())


def write_folders(folder: Path, side: int, seed: int, count: int = 40) -> None:
    """Writes pairs as `w/000.png` with its caption in `w/000.txt`, and `l/000.png`, of all photographs in turn."""
    rng, subjects = np.random.default_rng(seed), list(PHOTOGRAPHS)
    for number in range(count):
        what, kind = subjects[number % len(subjects)], list(DAMAGE)[number // len(subjects) % len(DAMAGE)]
        for name, picture in zip(("w", "l"), pair(what, kind, side, rng), strict=True):
            write_bytes(folder / name / f"{number:03d}.png", png(picture))
        write_text(folder / "w" / f"{number:03d}.txt", f"a photograph of {what}, detail {number}\n")


def main() -> None:
    """Writes the folder that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--side", type=int, default=64, help="pixels of an image's side")
    parser.add_argument("--seed", type=int, default=0, help="of crops, strengths and sides")
    parser.add_argument("--folders", action="store_true", help="two folders of pictures instead of Parquet files")
    asked = parser.parse_args()
    try:
        (write_folders if asked.folders else write)(asked.folder, asked.side, asked.seed)
    except UserError as error:
        sys.exit(str(error))
    if asked.folders:
        print(
            f"{asked.folder}: folders w and l, 40 pairs of {asked.side} pixels; next: python pipeline.py import "
            f"{asked.folder} --to data/raw/photos"
        )
        return
    told = ", ".join(f"{count} for {split}" for split, count in COUNTS.items())
    print(f"{asked.folder}: pairs of {asked.side} pixels, {told}; next: data.path in params.yaml, dvc repro")


if __name__ == "__main__":
    main()
