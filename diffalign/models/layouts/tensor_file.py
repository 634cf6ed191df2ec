"""Writes a safetensors file whose metadata are sorted and name the checksum of its tensors, as ModelSpec asks."""

import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from diffalign.core import files

HASH = "modelspec.hash_sha256"
UNKNOWN = "0x" + 64 * "0"
CHUNK = 1 << 24


def write(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Writes tensors and metadata atomically, with the modes that the umask says; equal ones give equal bytes.

    Where the metadata have `HASH`, its value becomes the SHA-256 of all bytes behind the header. Raises UserError on a
    full disk.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    files.remove_orphans(path)
    temporary = files.temporary_name(path)
    told = dict(metadata) | ({HASH: UNKNOWN} if HASH in metadata else {})
    try:
        with files.disk_errors(path):
            temporary.touch()  # with the umask's mode, which safetensors doesn't keep
            mode = temporary.stat().st_mode
            save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, temporary, told)
            temporary.chmod(mode)
            finish(temporary, told)
        os.replace(temporary, path)
        files.fsync_folder(path.parent)
    finally:
        temporary.unlink(missing_ok=True)


def finish(path: Path, metadata: Mapping[str, str]) -> None:
    """Sorts a file's metadata, whose order changes by run, and fills in the checksum; its length stays."""
    with open(path, "r+b") as file:
        length = int.from_bytes(file.read(8), "little")
        header = json.loads(file.read(length))
        told = dict(sorted(metadata.items()))
        if HASH in told:
            digest = hashlib.sha256()
            while block := file.read(CHUNK):
                digest.update(block)
            told[HASH] = f"0x{digest.hexdigest()}"
        header = {"__metadata__": told, **{name: value for name, value in header.items() if name != "__metadata__"}}
        text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
        if len(text) > length:
            raise ValueError(f"{path}: expected a header of {length} bytes at most, got {len(text)}")
        file.seek(8)
        file.write(text.ljust(length))
        file.flush()
        os.fsync(file.fileno())
