"""Brings the Parquet files of any data set from the hub, pinned in the lock file from its first download on."""

import re
from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.data.hub import fetch
from diffalign.data.hub.pinned import Pinned

FOLDER = Path("data/raw/hub")
NAME = re.compile(r"(?:hf:|hf://datasets/|https://huggingface\.co/datasets/)?([\w.-]+/[\w.-]+)/?")
"""A data set's name, as the hub writes it in several ways."""


def name_of(text: str) -> str | None:
    """Returns OWNER/NAME of a text that names a data set of the hub, None for another."""
    found = NAME.fullmatch(text)
    return found[1] if found and not found[1].startswith(".") else None


def bring(repo: str, revision: str, limit: int | None) -> Path:
    """Downloads the Parquet files of a data set, or `limit` of them; returns the folder.

    Of a branch, such as main, the lock file keeps the commit of the first time. Raises UserError: no network, no
    access, no such data set, no Parquet files in it.
    """
    pinned = Pinned(
        repo=repo,
        kind="dataset",
        revision=revision,
        folder=FOLDER / repo.replace("/", "--"),
        patterns=("*.parquet",),
        limited="*",
    )
    try:
        fetch.bring(f"hub/{repo}", pinned, limit)
    except UserError as error:
        if "has no file like" not in str(error):
            raise
        raise UserError(
            f"{error}. The hub converts most data sets: --revision refs/convert/parquet. Or bring the files yourself, "
            "and import their folder."
        ) from None
    return pinned.folder
