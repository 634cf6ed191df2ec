"""The kept results of the study's runs, a file each: what a study goes on from, and what the docs' tables are made of.

Those of runs with the usual prompts and steps are committed.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from diffalign.core import files, records
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND

FOLDER = Path("studies/results")
AGAIN = f"Remove it: the run is made again by `{COMMAND} study`."
KEYS = ("settings", "commit", "prompts", "indices", "scores", "seconds")
"""What all results have, the base's, too."""
Result = dict[str, Any]


def file(folder: Path, name: str) -> Path:
    """Returns the file of a run's results."""
    return folder / f"{name}.json"


def write(folder: Path, name: str, result: Result) -> None:
    """Keeps a run's results, in place of earlier ones."""
    files.write_text(file(folder, name), files.canonical_json(result) + "\n")


def read(folder: Path, names: Iterable[str]) -> dict[str, Result]:
    """Reads the results that are there, in the order of `names`; UserError for a damaged file."""
    paths = {name: file(folder, name) for name in names}
    return {name: records.plain(path, KEYS, AGAIN) for name, path in paths.items() if path.exists()}


def current(found: Result, settings: Callable[[], str]) -> bool:
    """Tells whether results are of a run with these settings; a run that the params don't admit has none."""
    try:
        return bool(found["settings"] == settings())
    except UserError:
        return False
