"""The arena's database: SQLite with a write-ahead log; a vote that was acknowledged survives a killed server."""

import secrets
import sqlite3
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from threading import Lock
from typing import Any

from arena.plan import Task
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data.votes import ANSWERS, KINDS, QUESTIONS, Answer, Question, Vote

SCHEMA = 1
COLUMNS = (
    *("rater_id", "pair_id", "kind", "question", "answer", "expected", "prompt", "seed"),
    *("image_a", "image_b", "model_a", "model_b", "created_at"),
)
TABLES = f"""
CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE IF NOT EXISTS votes (
  id INTEGER PRIMARY KEY AUTOINCREMENT,
  rater_id TEXT NOT NULL,
  pair_id TEXT NOT NULL,
  kind TEXT NOT NULL CHECK (kind IN {KINDS}),
  question TEXT NOT NULL CHECK (question IN {QUESTIONS}),
  answer TEXT NOT NULL CHECK (answer IN {ANSWERS}),
  expected TEXT,
  prompt TEXT NOT NULL,
  seed INTEGER NOT NULL,
  image_a TEXT NOT NULL,
  image_b TEXT NOT NULL,
  model_a TEXT,
  model_b TEXT,
  created_at INTEGER NOT NULL,
  UNIQUE (rater_id, pair_id, kind, question)
) STRICT;
"""


class Conflict(Exception):
    """Says that the rater gave another answer to this question before."""


class Store:
    """One connection, used by one thread at a time. `synchronous = FULL`: a commit returns when it's on the disk."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)  # the token and the salt are in it
        try:
            self.connection = sqlite3.connect(path, timeout=30, isolation_level=None, check_same_thread=False)
            self.connection.execute("PRAGMA journal_mode = WAL")
            self.connection.execute("PRAGMA synchronous = FULL")
            self.connection.executescript(TABLES)
        except sqlite3.DatabaseError as error:
            raise UserError(f"{path}: expected the arena's database, found {error}. Move the file away.") from None
        self.lock = Lock()
        if (found := self.secret("schema", str(SCHEMA))) != str(SCHEMA):
            raise UserError(f"{path}: expected schema {SCHEMA}, found {found}: another version wrote it.")

    def secret(self, name: str, new: str | None = None) -> str:
        """Returns a kept text, made at first: `new`, or 32 random bytes in hex."""
        with self.lock:
            values = (name, new or secrets.token_hex(32))
            self.connection.execute("INSERT OR IGNORE INTO meta VALUES (?, ?)", values)
            found = self.connection.execute("SELECT value FROM meta WHERE name = ?", (name,)).fetchone()
        return str(found[0])

    def forget(self, name: str) -> None:
        """Removes a kept text: the next one is new."""
        with self.lock:
            self.connection.execute("DELETE FROM meta WHERE name = ?", (name,))

    def vote(self, rater: str, task: Task, question: Question, answer: Answer) -> None:
        """Keeps an answer; a skip is one to all of the task's questions that are left.

        The same answer again changes nothing, since a browser may send it twice; raises Conflict for another one.
        """
        moment = time.time_ns() // 1000
        with self.lock, self._transaction():
            found = self._answers(rater, task.pair_id, task.kind)
            if question in found:
                if found[question] != answer:
                    raise Conflict
                return
            left = [other for other in task.questions if other not in found] if answer == "skip" else [question]
            rows = [_row(rater, task, one, answer, moment) for one in left]
            marks = ", ".join("?" * len(COLUMNS))
            self.connection.executemany(f"INSERT INTO votes ({', '.join(COLUMNS)}) VALUES ({marks})", rows)

    def last(self, rater: str) -> int | None:
        """Returns the number of a rater's last answer, which no other answer ever gets; None where there is none."""
        with self.lock:
            (found,) = self.connection.execute("SELECT max(id) FROM votes WHERE rater_id = ?", (rater,)).fetchone()
        return found if found is None else int(found)

    def undo(self, rater: str, vote: int | None) -> bool:
        """Removes a rater's answer by its number, a skip as a whole; False where it isn't there: it was undone."""
        with self.lock, self._transaction():
            found = self.connection.execute(
                "SELECT pair_id, kind, created_at FROM votes WHERE rater_id = ? AND id = ?", (rater, vote)
            ).fetchone()
            if found:
                where = "rater_id = ? AND pair_id = ? AND kind = ? AND created_at = ?"
                self.connection.execute(f"DELETE FROM votes WHERE {where}", (rater, *found))
        return found is not None

    def answered(self, rater: str) -> Mapping[tuple[str, str], set[str]]:
        """Returns the questions that a rater has answered, by (pair, kind)."""
        with self.lock:
            rows = self.connection.execute(
                "SELECT pair_id, kind, question FROM votes WHERE rater_id = ?", (rater,)
            ).fetchall()
        found: dict[tuple[str, str], set[str]] = defaultdict(set)
        for pair, kind, question in rows:
            found[pair, kind].add(question)
        return found

    def counts(self) -> tuple[int, int]:
        """Returns the number of answers and of raters."""
        with self.lock:
            votes, raters = self.connection.execute("SELECT count(*), count(DISTINCT rater_id) FROM votes").fetchone()
        return int(votes), int(raters)

    def votes(self) -> Iterator[Vote]:
        """Yields all votes in the order in which they were given."""
        with self.lock:
            rows = self.connection.execute(f"SELECT {', '.join(COLUMNS)} FROM votes ORDER BY id").fetchall()
        for row in rows:
            values = dict(zip(COLUMNS, row, strict=True))
            key = [values[name] for name in ("rater_id", "pair_id", "kind", "question", "created_at")]
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=values["created_at"])
            yield Vote(**values | {"vote_id": sha256_bytes(repr(key).encode())[:16], "created_at": moment})

    def close(self) -> None:
        """Closes the database; the log is merged into it."""
        with self.lock:
            self.connection.close()

    def _answers(self, rater: str, pair: str, kind: str) -> dict[str, str]:
        query = "SELECT question, answer FROM votes WHERE rater_id = ? AND pair_id = ? AND kind = ?"
        return dict(self.connection.execute(query, (rater, pair, kind)).fetchall())

    def _transaction(self) -> "_Transaction":
        return _Transaction(self.connection)


class _Transaction:
    """Takes the write lock at the start, so that what is read stays true until the commit."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def __enter__(self) -> None:
        self.connection.execute("BEGIN IMMEDIATE")

    def __exit__(self, kind: type[BaseException] | None, *rest: object) -> None:
        self.connection.execute("COMMIT" if kind is None else "ROLLBACK")


def _row(rater: str, task: Task, question: Question, answer: Answer, moment: int) -> tuple[Any, ...]:
    images = (task.left.sha256, task.right.sha256, task.left.model, task.right.model)
    about = (task.pair_id, task.kind, question, answer, task.expected, task.prompt, task.seed)
    return (rater, *about, *images, moment)
