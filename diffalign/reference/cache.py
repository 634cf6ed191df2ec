"""The reference's errors at K fixed draws a pair: what the reference stage writes, and training reads.

`data/reference` has manifest.json and, where K > 0, errors.safetensors: `pair` uint8 [N, 16], the pairs' keys, sorted;
`errors` float32 [N, K, 2], of winner and loser. 8 bytes a draw, 16 a pair.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.numpy
from numpy.typing import NDArray

from diffalign.core.errors import UserError
from diffalign.core.files import checksum_of, sha256_bytes, sha256_file, write_bytes, write_json

FORMAT = 1
"""Raised by hand when the draws, or what is kept of them, change; older errors are refused then."""
MANIFEST, ERRORS = "manifest.json", "errors.safetensors"
KEY = 16
"""Bytes of a pair's key, the first of the SHA-256 of its id."""
AGAIN = "Make it again: dvc repro --force reference"

Errors = NDArray[np.float32]


def fingerprint(
    settings: Mapping[str, Any],
    pairs: Mapping[str, Any],
    weights: str,
    model: str,
    comparisons: Path,
    shards: Path,
    precision: str,
    compiled: bool,
) -> dict[str, Any]:
    """Returns what the errors depend on, files and weights by their checksums.

    `settings` is the section `reference`, `pairs` the params that choose the pairs (`which`), `weights` the hash of the
    denoiser's folder. `precision` of the forwards, and whether blocks are `compiled`, must be training's: else the
    rounding of one passes for a change of the policy.
    """
    return {
        "format": FORMAT,
        **settings,
        "init": weights,
        "pairs": which(pairs),
        "schedule": sha256_file(Path(model) / "scheduler" / "scheduler_config.json"),
        "comparisons": sha256_file(comparisons / "comparisons.parquet"),
        "shards": sha256_file(shards / "manifest.json"),
        "precision": precision,
        "compiled": compiled,
    }


def made_compiled(folder: Path) -> bool:
    """Tells whether kept errors are of compiled networks."""
    return bool(read_manifest(folder).get("fingerprint", {}).get("compiled"))


def which(pairs: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the params that choose pairs; their weights don't affect the reference."""
    return {key: pairs[key] for key in ("rule", "raters", "flagged")}


def write(folder: Path, made_with: Mapping[str, Any], pair_ids: Sequence[str], errors: Errors) -> None:
    """Writes errors [N, K, 2] of the pairs, the manifest last."""
    found = keys(pair_ids)
    order = np.argsort(found.view(f"S{KEY}").reshape(-1), kind="stable")
    data = safetensors.numpy.save({"pair": found[order], "errors": np.ascontiguousarray(errors[order])})
    write_bytes(folder / ERRORS, data)
    about = {"pairs": len(pair_ids), "bytes": len(data), "sha256": sha256_bytes(data)}
    write_manifest(folder, {"draws": errors.shape[1], "fingerprint": dict(made_with), "errors": about})


def write_manifest(folder: Path, about: Mapping[str, Any]) -> None:
    """Writes the manifest with its checksum."""
    write_json(folder / MANIFEST, {"schema": 1, **about, "checksum": checksum_of({"schema": 1, **about})})


def read_manifest(folder: Path) -> dict[str, Any]:
    """Reads the manifest; UserError if it is missing or damaged."""
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(
            f"{path} is missing: no errors of the reference there. Make them: dvc repro reference"
        ) from None
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is damaged: not readable JSON ({error}). {AGAIN}") from None
    if not isinstance(manifest, dict) or manifest.get("checksum") != checksum_of(manifest):
        raise UserError(f"{path} is damaged: its text doesn't match its checksum. {AGAIN}")
    return manifest


def check_fingerprint(manifest: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Raises UserError, naming what differs, unless errors with this manifest are what `fingerprint` gives now."""
    found = manifest.get("fingerprint", {})
    names = sorted(name for name in {*found, *expected} if found.get(name) != expected.get(name))
    if names:
        lines = [f"  {name}: expected {expected.get(name)!r}, they have {found.get(name)!r}" for name in names]
        raise UserError(
            "The kept errors of the reference were made with something else:\n" + "\n".join(lines) + "\n"
            "Run `dvc repro reference`. Precision and compiling are this machine's (DIFFALIGN_PRECISION, "
            "DIFFALIGN_COMPILE), of which DVC doesn't know: where they differ, set them, or "
            "`dvc repro --force reference` on a machine like this one."
        )


def read(folder: Path, pair_ids: Sequence[str]) -> Errors:
    """Reads the errors [N, K, 2] of some pairs, in their order.

    Raises UserError for a file that isn't the manifest's, and for pairs that aren't in it.
    """
    about = read_manifest(folder)["errors"]
    path = folder / ERRORS
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise UserError(f"{path} is missing. {AGAIN}") from None
    if sha256_bytes(data) != about["sha256"]:
        raise UserError(f"{path} is damaged: its SHA-256 isn't the manifest's. {AGAIN}")
    tensors = safetensors.numpy.load(data)
    kept, wanted = (names.view(f"S{KEY}").reshape(-1) for names in (tensors["pair"], keys(pair_ids)))
    rows = np.searchsorted(kept, wanted).clip(max=len(kept) - 1)
    missing = np.flatnonzero(kept[rows] != wanted)
    if len(missing):
        raise UserError(
            f"{path}: expected errors of all {len(wanted)} pairs, {len(missing)} aren't there, "
            f"{pair_ids[missing[0]]} for one. Run `dvc repro reference`."
        )
    errors: Errors = tensors["errors"][rows]
    return errors


def keys(pair_ids: Sequence[str]) -> NDArray[np.uint8]:
    """Returns the pairs' keys, uint8 [N, 16]."""
    text = b"".join(hashlib.sha256(pair_id.encode()).digest()[:KEY] for pair_id in pair_ids)
    return np.frombuffer(text, np.uint8).reshape(-1, KEY)
