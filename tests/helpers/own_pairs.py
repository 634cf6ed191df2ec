"""Pairs of photographs as users have them: two folders, tables, and Hugging Face's data sets on disk."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tools import photographs


def pairs(count: int = 40) -> list[tuple[str, bytes, bytes]]:
    """(caption, better PNG, worse PNG) of small crops of photographs and their damaged copies; all images differ."""
    subjects = list(photographs.PHOTOGRAPHS)
    rng = np.random.default_rng(0)
    found = []
    for number in range(count):
        what = subjects[number % len(subjects)]
        kept = photographs.crop(photographs.photograph(what), 32, rng)
        worse = photographs.noise(kept, 40, number)
        found.append((f"a photograph of {what}, detail {number}", photographs.png(kept), photographs.png(worse)))
    return found


def put(path: Path, data: bytes | str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)


def folders(
    to: Path, found: list[tuple[str, bytes, bytes]], names: tuple[str, str] = ("w", "l"), txt: bool = True
) -> Path:
    """NAME/003.png in two folders; captions in .txt beside the first, or in captions.csv above."""
    for number, (caption, better, worse) in enumerate(found):
        put(to / names[0] / f"{number:03d}.png", better)
        put(to / names[1] / f"{number:03d}.png", worse)
        if txt:
            put(to / names[0] / f"{number:03d}.txt", f"{caption}\n")
    if not txt:
        rows = [("file", "caption"), *((f"{n:03d}.png", caption) for n, (caption, _, _) in enumerate(found))]
        with open(to / "captions.csv", "w", newline="") as file:
            csv.writer(file).writerows(rows)
    return to


def table(to: Path, suffix: str, rows: list[dict[str, Any]], name: str = "pairs") -> Path:
    """Writes rows as .jsonl, .json, .csv or .tsv; returns the path."""
    to.mkdir(parents=True, exist_ok=True)
    path = to / f"{name}{suffix}"
    if suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif suffix == ".json":
        path.write_text(json.dumps(rows))
    else:
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def files(to: Path, found: list[tuple[str, bytes, bytes]]) -> list[tuple[str, str, str]]:
    """Writes images/000-better.png and so on; returns (caption, better path, worse path)."""
    said = []
    for number, (caption, *both) in enumerate(found):
        names = [f"images/{number:03d}-{kind}.png" for kind in ("better", "worse")]
        for name, data in zip(names, both, strict=True):
            put(to / name, data)
        said.append((caption, *names))
    return said


def struct(data: bytes, name: str) -> dict[str, Any]:
    return {"bytes": data, "path": name}


def hub_table(found: list[tuple[str, bytes, bytes]]) -> pa.Table:
    """Columns prompt, chosen, rejected, chosen_model, rejected_model, as Hugging Face's Image features are stored."""
    return pa.table(
        {
            "prompt": [caption for caption, _, _ in found],
            "chosen": [struct(better, f"{n}.png") for n, (_, better, _) in enumerate(found)],
            "rejected": [struct(worse, f"{n}.png") for n, (_, _, worse) in enumerate(found)],
            "chosen_model": ["camera"] * len(found),
            "rejected_model": ["noise"] * len(found),
        }
    )


def saved_to_disk(to: Path, splits: dict[str, pa.Table]) -> Path:
    """A folder as `datasets.DatasetDict.save_to_disk` writes it: an Arrow stream a split, beside their JSON files."""
    put(to / "dataset_dict.json", json.dumps({"splits": list(splits)}))
    for split, found in splits.items():
        folder = to / split
        put(folder / "dataset_info.json", json.dumps({"features": {}}))
        put(folder / "state.json", json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
        with (
            pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as sink,
            pa.ipc.new_stream(sink, found.schema) as w,
        ):
            w.write_table(found, max_chunksize=16)
    return to


def parquet(path: Path, found: pa.Table) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(found, path)
    return path
