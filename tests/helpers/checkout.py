"""A copy of this project with small inputs and shards, in which the command line trains."""

import contextlib
import shutil
from pathlib import Path
from typing import Any

from stages import ingest, precompute
from tests.helpers.project import REPO, make_inputs, make_params


def make_trainable(folder: Path, policies: dict[str, Any], rows: int = 30, **changes: Any) -> Path:
    """Makes the copy up to precompute, its params with these policies and changes; returns the folder."""
    folder.mkdir()
    for name in ("diffalign", "stages"):
        shutil.copytree(REPO / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pipeline.py", "dvc.yaml"):
        shutil.copy(REPO / name, folder)
    make_inputs(folder, rows)
    with contextlib.chdir(folder):
        values = make_params(folder, policies, **changes)
        ingest.run(values)
        precompute.run(values)
    return folder
