"""Answers kept in a file by their question, so that none is computed or paid for twice; a kill loses none.

The file is SQLite's, may be shared by processes and removed at any time: it only saves work.
"""

import json
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from diffalign.core.errors import UserError
from diffalign.core.files import canonical_json, disk_errors

PATIENCE = 60.0
"""Seconds that another process's write is waited for."""


class Kept:
    """Values that JSON can hold, by keys that it can hold, in the file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, keys: Sequence[Any]) -> list[Any]:
        """Returns the values of keys, None for each that isn't there; UserError if the file is damaged."""
        with self.connected() as store:
            asked = ((canonical_json(key),) for key in keys)
            rows = [store.execute("SELECT value FROM kept WHERE key = ?", key).fetchone() for key in asked]
            return [None if row is None else json.loads(row[0]) for row in rows]

    def put(self, found: Sequence[tuple[Any, Any]]) -> None:
        """Keeps (key, value) pairs; they are on the disk when this returns. UserError if the file is damaged."""
        rows = [(canonical_json(key), json.dumps(value, allow_nan=False)) for key, value in found]
        with self.connected() as store, store:
            store.executemany("INSERT OR REPLACE INTO kept VALUES (?, ?)", rows)

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Opens the file for a block, and makes it where there is none."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with disk_errors(self.path), closing(sqlite3.connect(self.path, timeout=PATIENCE)) as store:
                store.execute("CREATE TABLE IF NOT EXISTS kept (key TEXT PRIMARY KEY, value TEXT NOT NULL)")
                yield store
        except (sqlite3.Error, json.JSONDecodeError) as error:
            raise UserError(
                f"{self.path} can't be used: {error}. It only keeps work from being done again: remove it, or free "
                "some space, and run the same command again."
            ) from error
