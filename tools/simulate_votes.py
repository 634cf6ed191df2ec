"""Simulates voters, to try the way of votes without people: `python -m tools.simulate_votes base dpo`.

They go through the arena's own plan and choose by a reward's scores of the images, with noise; they are named simulated
wherever they appear. What they say is that reward's word, not people's.
"""

import argparse
import random
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np

from arena import export, material
from arena.plan import Settings, Task, plan
from arena.server import COPIES, GALLERIES
from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.files import sha256_bytes
from diffalign.data.votes import SIMULATED, Answer, Question, Vote
from diffalign.evaluation.scores import FOLDER, ImageScores

FILE = Path("data/votes/simulated.parquet")
START = datetime(2026, 1, 1, tzinfo=UTC)
TIE = 0.3
"""Differences below so many standard deviations of the scores are ties."""


def simulate(names: Sequence[str], reward: str, raters: int, limit: int, seed: int, noise: float) -> list[Vote]:
    """Returns the votes of all raters. `noise` is each answer's, in standard deviations of the reward's scores."""
    scores = scores_of(reward, names)
    pairs, pictures = material.gather(names, GALLERIES, COPIES)
    settings = Settings(seed, ("overall",), limit)
    votes: list[Vote] = []
    for number in range(raters):
        rater = f"{SIMULATED}{number}"
        for task in plan(pairs, pictures, rater, settings):
            rng = random.Random(repr((seed, rater, task.kind, task.pair_id)))
            votes.append(answer(task, rater, scores, noise, rng, START + timedelta(seconds=len(votes))))
    return votes


def scores_of(reward: str, names: Sequence[str]) -> Mapping[str, float]:
    """Returns a reward's scores by SHA-256, in standard deviations; those that it couldn't give are told.

    Where all are equal they stay as they are: noise alone decides. Raises UserError where none is there.
    """
    lines = records.read_lines(FOLDER / f"{reward}.jsonl", ImageScores, f"score@{reward}")
    found = {line.sha256: line.scores.get(reward) for line in lines if line.policy in names}
    known = {name: value for name, value in found.items() if value is not None}
    if not known:
        raise UserError(f"{FOLDER / reward}.jsonl: expected scores of the images of {', '.join(names)}, found none.")
    if len(known) < len(found):
        sys.stderr.write(
            f"{reward} couldn't score {len(found) - len(known)} of {len(found)} images: votes on them skip\n"
        )
    spread = float(np.std(list(known.values()))) or 1.0
    return {name: value / spread for name, value in known.items()}


def answer(
    task: Task, rater: str, scores: Mapping[str, float], noise: float, rng: random.Random, moment: datetime
) -> Vote:
    """Returns a simulated rater's vote: noise loses always, else the reward decides; a skip where it has no score."""
    question: Question = "overall"
    a, b = (scores.get(image.sha256) for image in (task.left, task.right))
    said: Answer = "skip"
    if task.expected:
        said = "a" if task.expected == "a" else "b"
    elif a is not None and b is not None:
        lead = a - b + noise * rng.gauss(0, 2**0.5)
        said = "a" if lead > TIE else "b" if lead < -TIE else "tie"
    return Vote(
        vote_id=sha256_bytes(repr((rater, task.pair_id, task.kind)).encode())[:16],
        pair_id=task.pair_id,
        kind=task.kind,
        question=question,
        answer=said,
        expected=task.expected,
        prompt=task.prompt,
        image_a=task.left.sha256,
        image_b=task.right.sha256,
        model_a=task.left.model,
        model_b=task.right.model,
        rater_id=rater,
        seed=task.seed,
        created_at=moment,
    )


def main() -> None:
    """Writes `data/votes/simulated.parquet`; it replaces an earlier one, and nobody else's votes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("policies", nargs="+")
    parser.add_argument("--reward", default="oracle", help="by whose scores they vote (default: oracle)")
    parser.add_argument("--raters", type=int, default=8)
    parser.add_argument("--limit", type=int, default=60, help="pairs that a rater gets")
    parser.add_argument("--noise", type=float, default=0.5, help="of each answer, in sd of the scores")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    try:
        votes = simulate(given.policies, given.reward, given.raters, given.limit, given.seed, given.noise)
        export.write(votes, COPIES, FILE)
    except UserError as error:
        sys.exit(f"error: {error}")
    print(f"{len(votes)} simulated votes are in {FILE}; remove it when people vote. Next: dvc repro people report")


if __name__ == "__main__":
    main()
