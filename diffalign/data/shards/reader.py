"""Latent and prompt shards: what they are called, reading them in any order, and refusing damaged or foreign ones.

A shard is a WebDataset tar: for each sample `<key>.json` (what it is) and `<key>.safetensors` (its tensors: encodings
in float16, an image's part of the condition in float32).
`manifest.json` names every shard with its size and SHA-256, and `index.safetensors` says where each sample lies.
`shard_writer.py` writes them. Shapes: C latent channels, h w latent height and width, L tokens, D text width.
"""

import json
import mmap
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.core.files import checksum_of, sha256_bytes, sha256_file
from diffalign.core.progress import Progress

Kind = Literal["images", "prompts"]

FORMAT = 1
"""Raised by hand when what a shard holds, or how an image becomes pixels, changes; older shards are refused then."""

MANIFEST, INDEX = "manifest.json", "index.safetensors"

COND, COND_FLIP = "cond.", "cond_flip."
"""What the names of an image's part of the condition, and of its mirrored image's, begin with in its sample."""

OPEN_SHARDS = 512
"""Shards mapped into memory at a time: each takes a file descriptor, and 1024 is a usual limit."""


def prompt_key(text: str) -> str:
    """The key of a prompt's sample: SHA-256 of its UTF-8 text, in hex."""
    return sha256_bytes(text.encode())


def image_cond(sample: Mapping[str, Tensor], flip: bool) -> dict[str, Tensor]:
    """An image's part of the condition, by the family's names; the mirrored image's if `flip`."""
    prefix = COND_FLIP if flip else COND
    return {name.removeprefix(prefix): value for name, value in sample.items() if name.startswith(prefix)}


def stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Samples' tensors, or parts of them, as one batch: a row each, by the first one's names."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def fingerprint(model: Mapping[str, Any], resolution: int, flips: bool) -> dict[str, Any]:
    """What the samples depend on: the model's own fingerprint, the preprocessing, how they are stored."""
    return {**model, "resolution": resolution, "flips": flips, "dtype": "float16", "format": FORMAT}


def check_fingerprint(
    manifest: Mapping[str, Any], model: Mapping[str, Any], resolution: int | None = None, flips: bool = False
) -> None:
    """Raises UserError, naming what differs, unless shards with this manifest were made with this model.

    `model` is `family.fingerprint()`; `resolution` is compared where given; `flips`: mirrored images are needed.
    """
    found = manifest["fingerprint"]
    expected = {**model, "resolution": found["resolution"] if resolution is None else resolution}
    differences = [
        f"  {name}: expected {value!r}, the shards have {found.get(name)!r}"
        for name, value in expected.items()
        if found.get(name) != value
    ]
    if flips and not found["flips"]:
        differences.append("  flips: expected mirrored images, the shards have none")
    if differences:
        raise UserError(
            "The shards were made with another model or other preprocessing:\n" + "\n".join(differences) + "\n"
            "Run `dvc repro precompute`, or set model and precompute in params.yaml to what they were made with."
        )


def damaged(path: Path, what: str) -> UserError:
    """The error of a file that isn't what precompute wrote, with what to do about it."""
    return UserError(
        f"{path} is damaged: {what}. Delete the folder {path.parent} and run `dvc repro precompute`; if the error "
        "comes back, DVC's cached copy is damaged too: `dvc repro --force precompute` makes it anew."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of shards; UserError if it is missing, damaged or of another FORMAT."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: no shards there. Run `dvc repro precompute`.") from None
    except ValueError as error:
        raise damaged(path, f"not readable JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("checksum") != checksum_of(manifest):
        raise damaged(path, "its text doesn't match its checksum")
    found = manifest["fingerprint"]["format"]
    if found != FORMAT:
        raise UserError(
            f"{folder} has shards of format {found}, this version reads format {FORMAT}. Run `dvc repro precompute`."
        )
    return manifest


def check(folder: Path, model: Mapping[str, Any], flips: bool) -> None:
    """Raises UserError unless the shards of a folder are whole and were made with this model (`check_fingerprint`)."""
    check_fingerprint(read_manifest(folder), model, flips=flips)
    verify(folder)


def verify(folder: Path) -> None:
    """Reads all shards of a folder, images' and prompts'; raises UserError, naming them, if any byte has changed."""
    Shards(folder, "images").verify()
    Shards(folder, "prompts").verify()


class Shards:
    """The samples of one kind in a folder of shards, by key, in any order; safe with threads, forks and pickling.

    Opening checks the manifest, the index, and every shard's size; `verify` reads and checks every byte. Each
    `get` checks the bytes that it returns, so damage that came later doesn't pass either.
    """

    def __init__(self, folder: Path | str, kind: Kind = "images") -> None:
        self.folder, self.kind = Path(folder), kind
        self.manifest = read_manifest(self.folder)
        self._shards: list[dict[str, Any]] = self.manifest[kind]["shards"]
        for shard in self._shards:
            check_size(self.folder, shard)
        index = read_index(self.folder, self.manifest)
        # Sorted fixed-width binary keys and a binary search, not a dict: a tenth of the memory, and forks share it.
        self._keys: np.ndarray = index[f"{kind}.key"].view("S32").reshape(-1)
        self._places = [index[f"{kind}.{name}"] for name in ("shard", "offset", "length", "crc32")]
        self._map = lru_cache(OPEN_SHARDS)(self._open)

    def __reduce__(self) -> tuple[type, tuple[Path, str]]:
        return Shards, (self.folder, self.kind)

    def __len__(self) -> int:
        return len(self._keys)

    def __contains__(self, key: str) -> bool:
        return self._find(key) is not None

    def keys(self) -> list[str]:
        """All keys, in hex, sorted."""
        text = self._keys.tobytes().hex()
        return [text[i : i + 64] for i in range(0, len(text), 64)]

    def get(self, key: str) -> dict[str, Tensor]:
        """One sample's tensors in float32, without a batch dimension; they are copies.

        Images: `mean`, `logvar` and, with flips, `mean_flip`, `logvar_flip`, [C, h, w], scaled; `image_cond` takes
        what else there is. Prompts: what the family's `encode_prompt` gives, such as `hidden` [L, D]. Raises UserError
        for an unknown key and for damage.
        """
        row = self._find(key)
        if row is None:
            raise UserError(
                f"{self.folder} has no {self.kind} sample {key}: the shards don't belong to these comparisons. "
                "Run `dvc repro precompute`."
            )
        shard, offset, length, crc32 = (int(column[row]) for column in self._places)
        name = self._shards[shard]["name"]
        data = self._map(name)[offset : offset + length]
        if zlib.crc32(data) != crc32:
            raise damaged(self.folder / name, f"sample {key} doesn't match its checksum")
        try:
            return {tensor: value.float() for tensor, value in safetensors.torch.load(data).items()}
        except SafetensorError as error:
            raise damaged(self.folder / name, f"sample {key} isn't valid safetensors ({error})") from None

    def verify(self) -> None:
        """Reads every shard and raises one UserError that names all whose SHA-256 isn't the manifest's."""
        progress = Progress(f"verify {self.kind}", len(self._shards))
        wrong = []
        with ThreadPoolExecutor(4) as pool:
            found = pool.map(sha256_file, [self.folder / shard["name"] for shard in self._shards])
            for shard, sha256 in zip(self._shards, found, strict=True):
                if sha256 != shard["sha256"]:
                    wrong.append(f"{shard['name']} has SHA-256 {sha256}, expected {shard['sha256']}")
                progress.update()
        if wrong:
            raise damaged(self.folder / wrong[0].split()[0], "; ".join(wrong))

    def _find(self, key: str) -> int | None:
        try:
            binary = np.array([bytes.fromhex(key)], "S32")
        except ValueError:
            return None
        row = int(np.searchsorted(self._keys, binary)[0])
        return row if row < len(self._keys) and self._keys[row] == binary[0] and len(key) == 64 else None

    def _open(self, name: str) -> mmap.mmap:
        with open(self.folder / name, "rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def check_size(folder: Path, entry: Mapping[str, Any]) -> None:
    """Raises UserError unless a file that the manifest names is there and has its size."""
    path = folder / entry["name"]
    try:
        size = path.stat().st_size
    except FileNotFoundError:
        raise damaged(path, "it is missing") from None
    if size != entry["bytes"]:
        raise damaged(path, f"expected {entry['bytes']} bytes, found {size}")


def read_index(folder: Path, manifest: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Where the samples lie, N of a kind, sorted by key; UserError if the file isn't the one that the manifest names.

    For `images` and `prompts`: `.key` uint8 [N, 32], `.shard` int32 [N] (position in the manifest), `.offset` and
    `.length` int64 [N] (bytes of the safetensors in the tar), `.crc32` uint32 [N].
    """
    entry = manifest["index"]
    check_size(folder, entry)
    data = (folder / entry["name"]).read_bytes()
    if sha256_bytes(data) != entry["sha256"]:
        raise damaged(folder / entry["name"], "its SHA-256 isn't the manifest's")
    return safetensors.numpy.load(data)
