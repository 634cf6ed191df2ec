"""People's votes on two images, as the arena collects them: the record, reading, failed checks.

A folder of votes has Parquet files, a row a vote, and `images/SHA256` with the images that were voted on, each once.
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Literal, get_args

import pyarrow as pa

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.data.sources import parquet

Question = Literal["overall", "appeal", "alignment"]
Answer = Literal["a", "b", "tie", "both_bad", "skip"]
Kind = Literal["pair", "repeat", "noise", "prompt"]
QUESTIONS: tuple[Question, ...] = get_args(Question)
ANSWERS: tuple[Answer, ...] = get_args(Answer)
KINDS: tuple[Kind, ...] = get_args(Kind)
"""pair: first showing; repeat: again, sides swapped; checks: an image beside noise, or beside another prompt's."""
CHECKS: tuple[Kind, ...] = ("noise", "prompt")

_TEXT = [
    *("vote_id", "pair_id", "kind", "question", "answer", "expected", "prompt", "image_a", "image_b"),
    *("model_a", "model_b", "rater_id"),
]
SCHEMA = pa.schema(
    [(name, pa.string()) for name in _TEXT] + [("seed", pa.int64()), ("created_at", pa.timestamp("us", "UTC"))]
)
MAY_BE_NULL = ("expected", "model_a", "model_b")
SIMULATED = "simulated-"
"""Begins the id of every rater that is a program."""
ROUND = "round:"
"""Begins the model's name in votes on a round's images, which are of one policy."""
ROUNDS = "rounds"
"""The folder, in one of votes, with votes on rounds' images: neither a judge nor a source of ingest reads them."""
IMAGES = "images"
AGAIN = f"Make it again: {COMMAND} collect"
UNPACK_BYTES = 64 * 2**20

FEWEST_CHECKS, MOST_FAILED = 3, 1 / 3
RULE = "a rater who failed more than a third of at least 3 checks is left out, with all votes"
"""The rule of `failed_raters`, in words."""


@dataclass(frozen=True, slots=True)
class Vote:
    """Holds one rater's answer to one question about two images; a was on the left.

    `image_a` and `image_b` are SHA-256, in hex; `seed` is the place of the images among those of the prompt;
    `expected` is the answer of a check; `model_a` and `model_b` are the policies, None in checks where it's noise.
    """

    vote_id: str
    pair_id: str
    kind: Kind
    question: Question
    answer: Answer
    expected: str | None
    prompt: str
    image_a: str
    image_b: str
    model_a: str | None
    model_b: str | None
    rater_id: str
    seed: int
    created_at: datetime


def read(folder: Path) -> list[Vote]:
    """Reads all votes of a folder, file by file in the order of their names; empty where no file is.

    Raises UserError for a file that is damaged or has other columns or values.
    """
    found = []
    for path in sorted(folder.glob("*.parquet")):
        try:
            parquet.check(path, {field.name: field.type for field in SCHEMA})
        except UserError as error:
            raise UserError(f"{path}: expected votes, found {error}. {AGAIN}") from None
        row = 0
        for raws, _ in parquet.records(path, SCHEMA.names, UNPACK_BYTES):
            for raw in raws:
                found.append(_vote(raw, f"{path}, row {row}"))
                row += 1
    return found


def table(votes: Iterable[Vote]) -> pa.Table:
    """Returns votes as a table in the schema."""
    names = [field.name for field in fields(Vote)]
    return pa.Table.from_pylist([{name: getattr(vote, name) for name in names} for vote in votes], SCHEMA)


def round_of(vote: Vote) -> str | None:
    """Returns the round whose images a vote is on; None for a vote on policies' images."""
    names = [model for model in (vote.model_a, vote.model_b) if model and model.startswith(ROUND)]
    return names[0].removeprefix(ROUND) if names else None


def passed(vote: Vote) -> bool:
    """Tells whether a check was passed. Beside noise the image must be chosen; beside another prompt's, not the other.

    A weak model's image may fit its prompt as badly as another's does: there a tie passes.
    """
    return vote.answer == vote.expected or (vote.kind == "prompt" and vote.answer in ("tie", "both_bad"))


def failed_raters(votes: Iterable[Vote]) -> set[str]:
    """Returns the raters that `RULE` leaves out; checks that were skipped don't count."""
    answered, failed = Counter[str](), Counter[str]()
    for vote in votes:
        if vote.kind in CHECKS and vote.answer != "skip":
            answered[vote.rater_id] += 1
            failed[vote.rater_id] += not passed(vote)
    enough = {rater: count for rater, count in answered.items() if count >= FEWEST_CHECKS}
    return {rater for rater, count in enough.items() if failed[rater] > MOST_FAILED * count}


def _vote(raw: dict[str, Any], where: str) -> Vote:
    try:
        values = {name: raw[name] if raw[name] is None else raw[name].decode() for name in _TEXT}
    except UnicodeDecodeError:
        raise UserError(f"{where}: expected UTF-8. {AGAIN}") from None
    missing = [name for name in SCHEMA.names if raw[name] is None and name not in MAY_BE_NULL]
    allowed = {"kind": KINDS, "question": QUESTIONS, "answer": ANSWERS}
    wrong = [f"{name} {values[name]!r:.40}" for name, known in allowed.items() if values[name] not in known]
    wrong += [f"{n} {values[n]!r:.80}" for n in ("image_a", "image_b") if not _is_digest(values[n])]
    wrong += [f"no {name}" for name in missing]
    moment = parquet.moment(raw["created_at"])
    if moment is None and "created_at" not in missing:
        wrong.append(f"created_at {raw['created_at']} microseconds, beyond the calendar")
    if wrong or moment is None:
        raise UserError(f"{where}: not a vote: {', '.join(wrong)}. {AGAIN}")
    return Vote(**values, seed=raw["seed"], created_at=moment)


def _is_digest(text: str | None) -> bool:
    """Tells whether text is a SHA-256: it becomes a file's name."""
    return text is not None and re.fullmatch("[0-9a-f]{64}", text) is not None
