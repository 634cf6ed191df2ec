"""The implicit rewards of trained policies, held-out pair by held-out pair: metrics/implicit_reward.jsonl."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from diffalign.core import records
from diffalign.core.records import Record
from diffalign.data.batches.pairs import Pair
from diffalign.evaluation.results import STAGE
from diffalign.evaluation.scores import Floats

FILE = Path("metrics/implicit_reward.jsonl")


class PairReward(Record):
    """One policy's implicit rewards of a pair's images."""

    policy: str
    pair_id: str
    winner: float
    loser: float


def write(pairs: Sequence[Pair], rewards: Mapping[str, Floats]) -> None:
    """Writes the rewards [N, 2] (winner, loser) of each policy, a line a pair and policy."""
    records.write_lines(
        FILE,
        (
            PairReward(policy=name, pair_id=pair.pair_id, winner=float(winner), loser=float(loser))
            for name, values in rewards.items()
            for pair, (winner, loser) in zip(pairs, values, strict=True)
        ),
    )


def read(pairs: Sequence[Pair], policies: Sequence[str]) -> dict[str, Floats]:
    """Reads the rewards [N, 2] of each policy for these pairs; UserError if the file has others'."""
    lines = {(line.policy, line.pair_id): line for line in records.read_lines(FILE, PairReward, STAGE)}
    missing = [(name, pair.pair_id) for name in policies for pair in pairs if (name, pair.pair_id) not in lines]
    if missing:
        raise records.damaged(FILE, STAGE, [f"expected {missing[0][0]}'s reward of the pair {missing[0][1]}"])
    rows = {name: [lines[name, pair.pair_id] for pair in pairs] for name in policies}
    return {n: np.array([[one.winner, one.loser] for one in found]).reshape(-1, 2) for n, found in rows.items()}
