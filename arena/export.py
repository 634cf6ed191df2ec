"""Writes the votes of the arena's database to data/votes, where the stages people, raters and ingest read them."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pyarrow.parquet as pq

from arena.store import Store
from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.data import votes as records
from diffalign.data.votes import Vote

FILE = "arena.parquet"


def export(database: Path, copies: Path, folder: Path) -> str:
    """Writes all votes, equal ones to equal bytes, and the images that were voted on; returns what was done.

    Votes on rounds' images go to a folder in it, without the images, which sample@ROUND keeps. Without a database
    nothing is written. Raises UserError where an image's copy is gone.
    """
    if not database.exists():
        return f"no votes: {database} isn't there. Hold a vote: {COMMAND} arena"
    store = Store(database)
    every = list(store.votes())
    store.close()
    votes = [vote for vote in every if records.round_of(vote) is None]
    write(votes, copies, folder / FILE)
    of_rounds = [vote for vote in every if records.round_of(vote) is not None]
    told = rounds(of_rounds, folder / records.ROUNDS / FILE) if of_rounds else ""
    if not votes and told:
        return told
    counts = Counter(vote.kind for vote in votes)
    raters = len({vote.rater_id for vote in votes})
    said = (
        f"{counts['pair']} answers on pairs, {counts['repeat']} on repeats, {counts['noise'] + counts['prompt']} checks"
    )
    said = f"{said}, of {raters} raters, are in {folder / FILE}. Next: dvc repro people report"
    return f"{told}\n{said}" if told else said


def rounds(votes: Sequence[Vote], path: Path) -> str:
    """Writes the votes on rounds' images to a Parquet file; returns how many answers each round has."""
    with files.writing(path) as file:
        pq.write_table(records.table(votes), file, write_page_checksum=True)
    counts = Counter(records.round_of(vote) for vote in votes if vote.kind == "pair" and vote.answer != "skip")
    each = ", ".join(f"{count} on {name}'s" for name, count in sorted(counts.items(), key=str)) or "0"
    return f"answers on rounds' images, {each}, are in {path}. Next: dvc repro"


def write(votes: Sequence[Vote], copies: Path, path: Path) -> None:
    """Writes votes to a Parquet file, and beside it the images that were voted on, first those."""
    shown = [vote for vote in votes if vote.kind not in records.CHECKS]
    for name in sorted({image for vote in shown for image in (vote.image_a, vote.image_b)}):
        copy(copies / name, path.parent / records.IMAGES / name)
    with files.writing(path) as file:
        pq.write_table(records.table(votes), file, write_page_checksum=True)


def copy(source: Path, target: Path) -> None:
    """Copies an image that isn't there yet; raises UserError unless its bytes are those of its name."""
    if target.exists():
        return
    try:
        data = source.read_bytes()
    except FileNotFoundError:
        data = b""
    if files.sha256_bytes(data) != source.name:
        raise UserError(f"{source}: expected the image that was voted on, found {len(data)} other bytes. Restore it.")
    files.write_bytes(target, data)
