"""Scores that a reward has given, kept by image, prompt and what they depend on: a new policy rescores nobody else.

`runs/scores/NAME.sqlite` is untracked, survives a kill, and may be removed at any time: it only saves work.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

from diffalign.core import files
from diffalign.core.code import code_hash
from diffalign.core.errors import UserError
from diffalign.evaluation.scores import Floats, as_column, as_values

FOLDER = files.RUNS / "scores"
TABLE = "CREATE TABLE IF NOT EXISTS scores (made_by, image, prompt, scores, PRIMARY KEY (made_by, image, prompt))"
PATIENCE = 60.0
"""Seconds that another process's write is waited for."""

Key = tuple[str, str]
"""An image, by the SHA-256 of its file's bytes, and the prompt that it is scored for."""


class ScoreCache:
    """One reward's scores by `Key`; `made_by` names the reward's version, its settings and the code, see `opened`.

    `lasting` says whether a missing score is an answer to keep; a service that failed may answer another time.
    `hits` counts the scores that were found.
    """

    def __init__(self, path: Path, reward: str, made_by: str, lasting: bool = True) -> None:
        self.path, self.reward, self.made_by, self.lasting = path, reward, made_by, lasting
        self.hits = 0

    def get(self, keys: Sequence[Key]) -> dict[str, Floats] | None:
        """Returns the scores [B] of all keys by name, NaN where one is missing; None unless every key is known."""
        asked = "SELECT scores FROM scores WHERE made_by = ? AND image = ? AND prompt = ?"
        with self.connected() as store:
            rows = [store.execute(asked, (self.made_by, *key)).fetchone() for key in keys]
            if not rows or any(row is None for row in rows):
                return None
            found = [json.loads(row[0]) for row in rows]
            columns = {name: as_column([scores[name] for scores in found]) for name in found[0]}
        self.hits += len(keys)
        return columns

    def put(self, keys: Sequence[Key], scores: Mapping[str, Floats]) -> None:
        """Keeps scores [B] by name; they are on the disk when this returns. UserError for an infinite one."""
        columns = {name: as_values(column) for name, column in scores.items()}
        lines = [
            (self.made_by, *key, json.dumps({name: column[i] for name, column in columns.items()}))
            for i, key in enumerate(keys)
            if self.lasting or columns[self.reward][i] is not None
        ]
        with self.connected() as store, store:
            store.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?, ?, ?)", lines)

    @contextmanager
    def connected(self) -> Iterator[sqlite3.Connection]:
        """Opens the file for a block, and makes it where there is none; UserError if it's damaged."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with files.disk_errors(self.path), closing(sqlite3.connect(self.path, timeout=PATIENCE)) as store:
                store.execute(TABLE)
                yield store
        except (sqlite3.DatabaseError, json.JSONDecodeError, KeyError) as error:
            raise UserError(
                f"{self.path} can't be used: {error}. It only keeps scores from being computed again: remove it, or "
                "free some space, and run the same command again."
            ) from error


def opened(reward: str, version: str, settings: Mapping[str, Any], lasting: bool = True) -> ScoreCache:
    """Opens a reward's cache: another version, other settings or other code of score@NAME finds nothing there."""
    parts = {"version": version, "settings": settings, "code": code_hash("score", {"key": reward})}
    made_by = files.sha256_bytes(files.canonical_json(parts).encode())
    return ScoreCache(FOLDER / f"{reward}.sqlite", reward, made_by, lasting)
