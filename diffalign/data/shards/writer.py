"""Writes latent and prompt shards (`reader.py` reads them): equal samples give equal bytes, and a killed run goes on.

In a work folder, `out/` gets the shards, one after the other; `<shard>.json` beside it, written after the shard, says
that it is finished and where its samples lie. The index and the manifest come last.
"""

import hashlib
import json
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.core.files import (
    canonical_json,
    checksum_of,
    remove_unfinished,
    sha256_bytes,
    write_bytes,
    write_json,
    write_text,
    writing,
)
from diffalign.core.progress import Progress
from diffalign.data.shards.reader import COND, COND_FLIP, INDEX, MANIFEST, Kind

BLOCK = 512
"""Bytes; a tar's unit."""


@dataclass(frozen=True)
class Sample:
    """Holds one sample: its tensors without a batch dimension, and what it is, for its JSON."""

    key: str
    tensors: Mapping[str, Tensor]
    about: Mapping[str, Any]


Record = dict[str, Any]
"""A finished shard: name, samples, bytes, sha256; and per sample `COLUMNS`."""
COLUMNS = ("keys", "offsets", "lengths", "crc32s")


def write_shards(
    work: Path,
    kind: Kind,
    keys: Sequence[str],
    shard_size: int,
    encode: Callable[[list[list[str]]], Iterator[Sample]],
) -> list[Record]:
    """Writes the shards of one kind that an earlier attempt hasn't finished, and returns the records of all.

    `keys` are all samples in order, `shard_size` a shard. `encode` gets the keys of the unfinished shards, a list a
    shard, and gives their samples in this order. Raises UserError on a full disk; finished shards stay.
    """
    plan = [list(keys[i : i + shard_size]) for i in range(0, len(keys), shard_size)]
    records = finished(work, kind, len(plan))
    done = sum(record["samples"] for record in records)
    remove_unfinished(work / "out")
    samples = encode(plan[len(records) :])
    progress = Progress(f"precompute {kind}", len(keys), done)
    for number, wanted in enumerate(plan[len(records) :], len(records)):
        name = shard_name(kind, number)
        record = write_shard(work / "out" / name, counted(islice(samples, len(wanted)), progress))
        if record["keys"] != wanted:
            raise AssertionError(f"{name}: the samples came in another order than planned")
        write_text(work / f"{name}.json", canonical_json(record))
        records.append(record)
    return records


def shard_name(kind: Kind, number: int) -> str:
    """Returns the file name of a shard."""
    return f"{kind}-{number:05d}.tar"


def finished(work: Path, kind: Kind, count: int) -> list[Record]:
    """Returns the records of the shards 0, 1, ... up to the first that isn't there whole."""
    records: list[Record] = []
    for number in range(count):
        name = shard_name(kind, number)
        if not (work / f"{name}.json").exists() or not (work / "out" / name).exists():
            break
        record = _record(work / f"{name}.json")
        if record is None or (work / "out" / name).stat().st_size != record["bytes"]:
            break
        records.append(record)
    return records


def _record(path: Path) -> Record | None:
    """Reads a finished shard's record; None for a damaged one, whose shard is then written again."""
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        return None
    whole = isinstance(found, dict) and found.keys() >= {"name", "samples", "bytes", "sha256", *COLUMNS}
    columns = [found[name] for name in COLUMNS] if whole else []
    sound = whole and all(isinstance(column, list) and len(column) == found["samples"] for column in columns)
    return found if sound else None


def counted(samples: Iterator[Sample], progress: Progress) -> Iterator[Sample]:
    """Yields the samples, each counted as done when the next is asked for."""
    for sample in samples:
        yield sample
        progress.update()


def write_shard(path: Path, samples: Iterator[Sample]) -> Record:
    """Writes one tar atomically, a sample at a time; UserError on a full disk or a value that float16 can't hold."""
    digest = hashlib.sha256()
    rows: list[tuple[str, int, int, int]] = []
    with writing(path) as file:
        for sample in samples:
            about = member(f"{sample.key}.json", canonical_json({"key": sample.key, **sample.about}).encode())
            tensors = safetensors.torch.save(as_stored(sample))
            rows.append((sample.key, file.tell() + len(about) + BLOCK, len(tensors), zlib.crc32(tensors)))
            data = about + member(f"{sample.key}.safetensors", tensors)
            file.write(data)
            digest.update(data)
        file.write(bytes(2 * BLOCK))
        digest.update(bytes(2 * BLOCK))
        size = file.tell()
    keys, offsets, lengths, crc32s = (list(column) for column in zip(*rows, strict=True))
    return {
        "name": path.name,
        "samples": len(rows),
        "bytes": size,
        "sha256": digest.hexdigest(),
        "keys": keys,
        "offsets": offsets,
        "lengths": lengths,
        "crc32s": crc32s,
    }


def member(name: str, data: bytes) -> bytes:
    """Returns a file in a tar: its header block, with a fixed owner, mode and time, and its padded data."""
    info = tarfile.TarInfo(name)
    info.size, info.mode, info.mtime = len(data), 0o644, 0
    return info.tobuf(tarfile.USTAR_FORMAT) + data + bytes(-len(data) % BLOCK)


def as_stored(sample: Sample) -> dict[str, Tensor]:
    """Returns a sample's tensors as stored; raises UserError for values that aren't finite there.

    float16, not float32: half the disk and bandwidth. It moves a latent by 1.8e-4 (RMS, measured), half a step of the
    8-bit pixels that were encoded moves it by 1.2e-3; latents and embeddings lie far within its range of 65504.
    An image's part of the condition is a few numbers, such as sizes in pixels, and float16 isn't exact above 2048: they
    are stored in float32.
    """
    tensors = {
        name: value.to("cpu", torch.float32 if name.startswith((COND, COND_FLIP)) else torch.float16).contiguous()
        for name, value in sample.tensors.items()
    }
    for name, value in tensors.items():
        if not torch.isfinite(value).all():
            raise UserError(_not_finite(sample, name))
    return tensors


def _not_finite(sample: Sample, name: str) -> str:
    kind = "the text encoder's" if {"prompt", "unconditional"} & sample.about.keys() else "the autoencoder's latent"
    found = sample.tensors[name].float()
    wrong = int((~torch.isfinite(found)).sum())
    if wrong:
        what = f"{wrong:,} of {found.numel():,} values that are NaN or infinite"
    else:
        what = f"values up to {float(found.abs().max()):.3g}, beyond float16's 65,504"
    return (
        f"Expected finite encodings; {kind} {name} for {sample.key} has {what}. "
        "Are the weights in model.path whole, and in a precision that they work in? Nothing was stored of it."
    )


def finish(
    work: Path, records: Mapping[Kind, list[Record]], fingerprint: Mapping[str, Any], cut_prompts: Mapping[str, int]
) -> None:
    """Writes the index and, last, the manifest beside the shards in `work/out`; see `reader.Manifest`."""
    arrays = {f"{kind}.{name}": value for kind in records for name, value in index_arrays(records[kind]).items()}
    data = safetensors.numpy.save(arrays)
    write_bytes(work / "out" / INDEX, data)
    manifest: dict[str, Any] = {
        "schema": 1,
        "fingerprint": dict(fingerprint),
        "cut_prompts": dict(cut_prompts),
        "index": {"name": INDEX, "bytes": len(data), "sha256": sha256_bytes(data)},
    }
    for kind, rows in records.items():
        shards = [{name: record[name] for name in ("name", "samples", "bytes", "sha256")} for record in rows]
        manifest[kind] = {"samples": sum(record["samples"] for record in rows), "shards": shards}
    write_json(work / "out" / MANIFEST, {**manifest, "checksum": checksum_of(manifest)})


def index_arrays(records: Sequence[Record]) -> dict[str, np.ndarray]:
    """Returns the index of one kind, sorted by key; `reader.read_index` says what is in it."""
    text = "".join(key for record in records for key in record["keys"])
    keys = np.frombuffer(bytes.fromhex(text), np.uint8).reshape(-1, 32)
    order = np.argsort(keys.view("S32").reshape(-1), kind="stable")
    columns: dict[str, np.ndarray] = {
        "key": keys,
        "shard": np.array([n for n, r in enumerate(records) for _ in r["keys"]], np.int32),
        "offset": np.array([v for r in records for v in r["offsets"]], np.int64),
        "length": np.array([v for r in records for v in r["lengths"]], np.int64),
        "crc32": np.array([v for r in records for v in r["crc32s"]], np.uint32),
    }
    return {name: np.ascontiguousarray(value[order]) for name, value in columns.items()}
