"""How often scores rank pairs as their raters did, counted by hand."""

import numpy as np
import pytest

from diffalign.evaluation.accuracies import implicit_accuracy, judge_accuracy
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Judge
from diffalign.evaluation.scores import PairScores, Scored

INTERVAL = Interval(100, 0.95, 0)
JUDGE = Judge(name="x", version="1", range=(None, None), trained_on="-", families=(), differentiable=False)


def test_an_implicit_accuracy_counts_every_pair() -> None:
    """Two pairs ranked as raters did, one not, one tie: 2.5 of 4."""
    rewards = np.array([[1.0, 0.0], [0.3, 0.2], [0.0, 1.0], [0.5, 0.5]])
    found = implicit_accuracy("dpo", rewards, list("abcd"), None, INTERVAL)
    assert (found.accuracy, found.pairs) == (0.625, 4)


def test_a_judges_accuracy_leaves_out_pairs_without_a_score() -> None:
    """One pair of three can't be scored: one of two is ranked as raters did."""
    scores = [(1.0, 0.0), (0.0, 1.0), (None, 1.0)]
    pairs = [PairScores(pair_id=str(n), prompt=str(n), winner=w, loser=l) for n, (w, l) in enumerate(scores)]
    found = judge_accuracy(Scored(schema=2, reward=JUDGE, pairs=pairs, rescored=[], shuffled=[]), INTERVAL)
    assert (found.accuracy, found.pairs) == (0.5, 2)


def test_scores_within_rescoring_noise_tie() -> None:
    """Twice scored images differ by 0.1 at most: a pair 0.1 apart is a tie, one 0.3 apart isn't; 1.5 of 2."""
    scores = [(0.6, 0.5), (0.8, 0.5)]
    pairs = [PairScores(pair_id=str(n), prompt=str(n), winner=w, loser=l) for n, (w, l) in enumerate(scores)]
    scored = Scored(schema=2, reward=JUDGE, pairs=pairs, rescored=[(0.5, 0.6)] * 20, shuffled=[])
    found = judge_accuracy(scored, INTERVAL)
    assert (found.accuracy, found.tie_band) == (0.75, pytest.approx(0.1))
    assert Scored(schema=2, reward=JUDGE, pairs=[], rescored=[], shuffled=[]).tie_band == 0
