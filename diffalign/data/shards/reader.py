"""Reads latent and prompt shards in any order, and refuses damaged or foreign ones.

A shard is a WebDataset tar: for each sample `<key>.json` (what it is) and `<key>.safetensors` (its tensors: encodings
in float16, an image's part of the condition in float32).
`manifest.json` names every shard with its size and SHA-256, and `index.safetensors` says where each sample lies.
`writer.py` writes them. Shapes: C latent channels, h w latent height and width, L tokens, D text width.
"""

import json
import mmap
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import safetensors.numpy
import safetensors.torch
import torch
from pydantic import ConfigDict, Field, ValidationError, model_validator
from safetensors import SafetensorError
from torch import Tensor

from diffalign.core.errors import UserError
from diffalign.core.files import checksum_of, sha256_bytes, sha256_file
from diffalign.core.progress import Progress
from diffalign.core.records import Record, differences

Kind = Literal["images", "prompts"]

FORMAT = 2
"""Raised by hand when what a shard holds, or how an image becomes pixels, changes; older shards are refused then."""

MANIFEST, INDEX = "manifest.json", "index.safetensors"

UNCONDITIONAL = sha256_bytes(b"\xff unconditional")
"""The key of the family's unconditional condition among the prompts: of bytes that no prompt's UTF-8 text can be."""

COND, COND_FLIP = "cond.", "cond_flip."
"""Prefixes, in an image's sample, of the names of its part of the condition, and of its mirrored image's."""

INDEX_COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "shard": ("int32", ()),
    "offset": ("int64", ()),
    "length": ("int64", ()),
    "crc32": ("uint32", ()),
}
"""Where each sample lies: a type and the shape behind the number of samples."""

OPEN_SHARDS = 512
"""Shards mapped into memory at a time: each takes a file descriptor, and 1024 is a usual limit."""


class Fingerprint(Record):
    """What the samples of a folder depend on; the keys of the model's own fingerprint stand beside these."""

    model_config = ConfigDict(extra="allow")
    resolution: int
    flips: bool
    dtype: str
    format: int


class File(Record):
    """A file that a manifest names; its size in bytes."""

    name: Annotated[str, Field(pattern=r"^(index\.safetensors|(images|prompts)-\d{5,}\.tar)$")]
    bytes: int
    sha256: str


class Shard(File):
    """A shard, and the number of its samples."""

    samples: int


class Samples(Record):
    """The shards of one kind, and the number of all their samples."""

    samples: int
    shards: list[Shard]

    @model_validator(mode="after")
    def _adds_up(self) -> "Samples":
        if self.samples != (total := sum(shard.samples for shard in self.shards)):
            raise ValueError(f"expected as many samples as the shards have together, {total}, found {self.samples}")
        return self


class Manifest(Record):
    """The manifest of a folder of shards; `cut_prompts`: by tokenizer, prompts longer than its encoder reads."""

    schema_: Literal[1] = Field(alias="schema")
    fingerprint: Fingerprint
    index: File
    images: Samples
    prompts: Samples
    cut_prompts: dict[str, int]
    checksum: str


def prompt_key(text: str) -> str:
    """Returns the key of a prompt's sample: SHA-256 of its UTF-8 text, in hex."""
    return sha256_bytes(text.encode())


def image_cond(sample: Mapping[str, Tensor], flip: bool) -> dict[str, Tensor]:
    """Returns an image's part of the condition, by the family's names; the mirrored image's if `flip`."""
    prefix = COND_FLIP if flip else COND
    return {name.removeprefix(prefix): value for name, value in sample.items() if name.startswith(prefix)}


def stacked(rows: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """Stacks samples' tensors, or parts of them, to one batch: a row each, by the first one's names."""
    return {name: torch.stack([row[name] for row in rows]) for name in rows[0]}


def fingerprint(model: Mapping[str, Any], resolution: int, flips: bool) -> dict[str, Any]:
    """Returns what the samples depend on: the model's own fingerprint, the preprocessing, how they are stored."""
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
    """Returns the error for a file that isn't what precompute wrote, with what to do about it."""
    return UserError(
        f"{path} is damaged: {what}. Delete the folder {path.parent} and run `dvc repro precompute`; if the error "
        "comes back, DVC's cached copy is damaged too: `dvc repro --force precompute` makes it anew."
    )


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest of a folder of shards; UserError if it is missing, damaged or of another FORMAT."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{path} is missing: no shards there. Run `dvc repro precompute`.") from None
    except (ValueError, RecursionError, OSError) as error:
        raise damaged(path, f"not readable JSON ({error})") from None
    if not isinstance(manifest, dict) or manifest.get("checksum") != checksum_of(manifest):
        raise damaged(path, "its text doesn't match its checksum")
    about = manifest.get("fingerprint")
    if isinstance(about, dict) and about.get("format", FORMAT) != FORMAT:
        raise UserError(
            f"{folder} has shards of format {about['format']}, this version reads format {FORMAT}. "
            "Run `dvc repro precompute`."
        )
    try:
        Manifest.model_validate(manifest)
    except ValidationError as error:
        raise damaged(path, "; ".join(islice(differences(error), 3))) from None
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
    """Reads the samples of one kind in a folder of shards, by key, in any order; safe with threads, forks and pickling.

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
        """Returns all keys, in hex, sorted."""
        text = self._keys.tobytes().hex()
        return [text[i : i + 64] for i in range(0, len(text), 64)]

    def get(self, key: str) -> dict[str, Tensor]:
        """Returns one sample's tensors in float32, without a batch dimension; they are copies.

        Images: `mean`, `logvar` and, with flips, `mean_flip`, `logvar_flip`, [C, h, w], scaled; `image_cond` takes
        what else there is. Prompts, and `UNCONDITIONAL`: what the family's `encode_prompt` gives, such as
        `hidden` [L, D]. Raises UserError for an unknown key and for damage.
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
    """Reads where the samples lie, N of a kind, sorted by key; UserError if the file isn't the manifest's.

    For `images` and `prompts`: `.key` uint8 [N, 32], `.shard` int32 [N] (position in the manifest), `.offset` and
    `.length` int64 [N] (bytes of the safetensors in the tar), `.crc32` uint32 [N].
    """
    entry = manifest["index"]
    check_size(folder, entry)
    data = (folder / entry["name"]).read_bytes()
    if sha256_bytes(data) != entry["sha256"]:
        raise damaged(folder / entry["name"], "its SHA-256 isn't the manifest's")
    try:
        index = safetensors.numpy.load(data)
    except (SafetensorError, ValueError, KeyError) as error:
        raise damaged(folder / entry["name"], f"not valid safetensors ({error})") from None
    for kind in ("images", "prompts"):
        count = manifest[kind]["samples"]
        for name, (dtype, shape) in {**INDEX_COLUMNS, "key": ("uint8", (32,))}.items():
            found = index.get(f"{kind}.{name}")
            if found is None or str(found.dtype) != dtype or found.shape != (count, *shape):
                raise damaged(folder / entry["name"], f"{kind}.{name}: expected {dtype} of {(count, *shape)}")
    return index
