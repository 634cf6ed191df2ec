"""Computes how often scores rank held-out pairs as their raters did: judges', the oracle's as a ceiling, policies'."""

from collections.abc import Sequence

import numpy as np

from diffalign.evaluation import statistics
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Accuracy, JudgeAccuracy
from diffalign.evaluation.scores import Scored, as_column


def judge_accuracy(scored: Scored, interval: Interval) -> JudgeAccuracy:
    """Says how often a reward ranks the held-out pairs as their raters did; pairs that it can't score are left out."""
    rate = interval.rate(pair_outcomes(scored), [pair.prompt for pair in scored.pairs])
    return JudgeAccuracy(
        **scored.reward.model_dump(),
        accuracy=rate.rate,
        ci_low=rate.low,
        ci_high=rate.high,
        pairs=rate.wins + rate.ties + rate.losses,
        tie_band=scored.tie_band,
    )


def ceiling(scored: Scored | None) -> float | None:
    """Returns how often the oracle ranks the held-out pairs as their raters did.

    Raters are noisy: a reward that learns what they have in common can't be expected to agree with them more often.
    None without an oracle, or where it can't score every pair: of some pairs only it would be another figure.
    """
    results = pair_outcomes(scored) if scored is not None else np.empty(0)
    return None if not len(results) or np.isnan(results).any() else float(results.mean())


def pair_outcomes(scored: Scored) -> Floats:
    """Returns for each held-out pair 1 where the winner's score is higher, 0.5 at a tie, 0, or NaN without a score."""
    pairs = scored.pairs
    winners, losers = as_column(p.winner for p in pairs), as_column(p.loser for p in pairs)
    return statistics.outcomes(winners, losers, scored.tie_band)


def implicit_accuracy(
    policy: str, rewards: Floats, prompts: Sequence[str], ceiling: float | None, interval: Interval
) -> Accuracy:
    """Says how often a policy's implicit rewards [N, 2] (winner, loser) rank pairs as their raters did."""
    rate = interval.rate(statistics.outcomes(rewards[:, 0], rewards[:, 1]), prompts)
    return Accuracy(
        policy=policy,
        accuracy=rate.rate,
        ci_low=rate.low,
        ci_high=rate.high,
        pairs=len(prompts),
        ceiling=ceiling,
    )
