"""People's votes from the arena: a folder of votes (`data/votes.py`), each vote on a pair a comparison."""

import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.core.home import COMMAND
from diffalign.data import votes
from diffalign.data.comparisons.table import Split
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources import source
from diffalign.data.sources.source import Candidate
from diffalign.data.votes import Question, Vote

REASONS = {
    "other_question": "an answer to another question than data.settings.axis",
    "skipped": "the rater skipped the pair",
    "check": "a check of the rater's attention",
    "failed_checks": votes.RULE,
}
HELD_OUT = (
    "Votes are split by their prompts' hash, which also chose the test split's prompts (data.test): votes on images "
    "for these land there again. To train on votes, vote on images for other prompts: a list of your own in prompts/, "
    "named in generate.prompts. See docs/arena.md, Votes to train on."
)
"""The reason why votes may be held out, and what to do."""
BATCH = 64
"""Votes of a batch: as many pairs of images are in memory."""


class Settings(source.Settings):
    """`axis`: the question whose answers count; `failed_checks`: what becomes of raters who failed the checks."""

    axis: Question
    failed_checks: Literal["drop", "keep"]


def load(path: Path, settings: Mapping[str, Any]) -> source.Source:
    """Opens a folder of votes; raises UserError for other settings, and where no vote is there."""
    return Arena(path, source.check_settings(Settings, settings))


class Arena:
    """Streams the votes of a folder; a repeat of a pair is one rater's second answer, which `data.repeats` settles."""

    reasons: Mapping[str, str] = source.REASONS | REASONS
    intended = tuple(REASONS)

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path, self.settings = path, settings
        self.votes = votes.read(path)
        self.rows = len(self.votes)
        self.failed = votes.failed_raters(self.votes)
        self.simulated = any(vote.rater_id.startswith(votes.SIMULATED) for vote in self.votes)
        if not self.rows:
            raise UserError(
                f"{path} (data.path): expected votes, found none. Hold a vote ({COMMAND} arena), then {COMMAND} collect"
            )

    def claims(self) -> Iterator[tuple[str, Split]]:
        """Yields nothing: votes have no split of their own."""
        yield from ()

    def records(self) -> Iterator[list[Candidate | Reject]]:
        """Yields all votes in their order."""
        for start in range(0, self.rows, BATCH):
            yield [self._record(start + i, vote) for i, vote in enumerate(self.votes[start : start + BATCH])]

    def about(self) -> dict[str, Any]:
        """Returns the number of raters, and of those who failed the checks."""
        return {"files": len(list(self.path.glob("*.parquet"))), "raters_failed_checks": len(self.failed)}

    def check_splits(self, sizes: Mapping[str, int]) -> None:
        """Raises UserError where no vote can be learned from; says on stderr where most of them are held out."""
        total, test, train = sum(sizes.values()), sizes["test"], sizes["train"]
        if not train:
            raise UserError(
                f"{self.path} (data.path): all {total} votes are held out, {test} of them in the test split: none is "
                f"left to train on. {HELD_OUT}"
            )
        if 2 * train < total:
            sys.stderr.write(
                f"careful: only {train} of {total} votes are in the train split, {test} of {total} votes are in test. "
                f"{HELD_OUT}\n"
            )

    def _record(self, row: int, vote: Vote) -> Candidate | Reject:
        failed = vote.rater_id in self.failed
        reason = {
            "check": vote.kind in votes.CHECKS,
            "other_question": vote.question != self.settings.axis,
            "skipped": vote.answer == "skip",
            "failed_checks": failed and self.settings.failed_checks == "drop",
        }
        if code := next((code for code, holds in reason.items() if holds), None):
            return Reject("votes", row, code, f"{vote.vote_id}: {vote.question}, {vote.kind}, {vote.answer}")
        prompt = source.read_prompt(vote.prompt.encode())
        if not isinstance(prompt, str):
            return Reject("votes", row, *prompt)
        assert vote.answer != "skip"
        flags = {"repeat": vote.kind == "repeat", "failed_checks": failed}
        return Candidate(
            file="votes",
            row=row,
            split=None,
            comparison_id=f"arena-{vote.vote_id}",
            prompt=prompt,
            answer=vote.answer,
            rater_id=vote.rater_id,
            model_a=vote.model_a,
            model_b=vote.model_b,
            created_at=vote.created_at,
            flags=tuple(flag for flag, raised in flags.items() if raised),
            bytes_a=self._image(vote.image_a),
            bytes_b=self._image(vote.image_b),
        )

    def _image(self, digest: str) -> bytes:
        """Returns an image's bytes, none where it isn't there: ingest rejects it then."""
        path = self.path / votes.IMAGES / digest
        try:
            data = path.read_bytes()
        except (FileNotFoundError, IsADirectoryError):
            return b""
        if sha256_bytes(data) != digest:
            raise UserError(f"{path} is damaged: its SHA-256 isn't its name. {votes.AGAIN}")
        return data
