"""The database: one answer a rater, pair and question; undo; skips; threads and processes beside each other."""

import sqlite3
from concurrent.futures import ThreadPoolExecutor

import pytest

from arena.plan import Image, Task
from arena.store import Conflict, Store
from diffalign.core.errors import UserError

QUESTIONS = ("overall", "appeal", "alignment")


def task(name="p1", kind="pair"):
    return Task(kind, name, "a disc", 0, Image("1" * 64, "base"), Image("2" * 64, "dpo"), QUESTIONS)


@pytest.fixture
def store(tmp_path):
    found = Store(tmp_path / "arena.db")
    yield found
    found.close()


def test_an_answer_counts_once(store):
    store.vote("r1", task(), "overall", "a")
    store.vote("r1", task(), "overall", "a")
    with pytest.raises(Conflict):
        store.vote("r1", task(), "overall", "b")
    store.vote("r1", task(), "appeal", "b")
    store.vote("r1", task(kind="repeat"), "overall", "b")
    store.vote("r2", task(), "overall", "b")
    assert store.counts() == (4, 2)
    first = next(store.votes())
    assert (first.answer, first.model_a, first.image_b, first.rater_id) == ("a", "base", "2" * 64, "r1")
    assert len({vote.vote_id for vote in store.votes()}) == 4


def test_the_database_itself_refuses_a_second_vote(store):
    store.vote("r1", task(), "overall", "a")
    with pytest.raises(sqlite3.IntegrityError, match="UNIQUE"):
        store.connection.execute(
            "INSERT INTO votes SELECT NULL, rater_id, pair_id, kind, question, 'b', expected, prompt, seed, image_a, "
            "image_b, model_a, model_b, created_at FROM votes"
        )


def test_undo_takes_back_answer_by_answer_and_a_skip_whole(store):
    store.vote("r1", task(), "overall", "a")
    store.vote("r2", task(), "overall", "a")
    store.vote("r1", task(), "appeal", "skip")
    assert [vote.answer for vote in store.votes() if vote.rater_id == "r1"] == ["a", "skip", "skip"]
    skip = store.last("r1")
    assert store.undo("r1", skip)
    assert not store.undo("r1", skip), "it's gone: the one before stays"
    assert dict(store.answered("r1")) == {("p1", "pair"): {"overall"}}
    assert not store.undo("r1", store.last("r2")), "another rater's"
    assert store.undo("r1", store.last("r1")) and store.last("r1") is None
    assert store.counts() == (1, 1)


def test_threads_and_another_connection_lose_and_double_nothing(store, tmp_path):
    other = Store(tmp_path / "arena.db")

    def vote(number):
        try:
            (store, other)[number % 2].vote(f"r{number % 10}", task(f"p{number % 50}"), "overall", "ab"[number // 100])
        except Conflict:
            return "refused"

    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(vote, range(200)))
    assert store.counts() == (50, 10)  # each rater has 5 pairs: (n % 10, n % 50) repeats every 50
    assert found.count("refused") > 0
    assert store.secret("salt") == other.secret("salt")
    other.close()


def test_secrets_are_kept_and_only_the_owner_reads_them(store, tmp_path):
    token = store.secret("token")
    assert len(token) == 64 and store.secret("token") == token
    store.forget("token")
    assert store.secret("token") != token
    assert (tmp_path / "arena.db").stat().st_mode & 0o777 == 0o600


def test_what_isnt_the_arenas_database(tmp_path):
    path = tmp_path / "other.db"
    path.write_bytes(b"not a database, and long enough to be read as one" * 100)
    with pytest.raises(UserError, match=r"other\.db: expected the arena's database"):
        Store(path)
    connection = sqlite3.connect(tmp_path / "newer.db")
    connection.execute("CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT)")
    connection.execute("INSERT INTO meta VALUES ('schema', '9')")
    connection.commit()
    with pytest.raises(UserError, match="expected schema 1, found 9"):
        Store(tmp_path / "newer.db")


def test_a_commit_waits_for_the_disk(store):
    assert store.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert store.connection.execute("PRAGMA synchronous").fetchone() == (2,)
