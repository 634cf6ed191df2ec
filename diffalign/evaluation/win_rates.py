"""One policy's images against another's by one judge: a line of metrics/evaluate.json."""

from collections.abc import Sequence
from typing import Any

from numpy.typing import ArrayLike

from diffalign.evaluation import statistics
from diffalign.generation.gallery import Entry


def contest(
    policy: str,
    baseline: str,
    scorer: str,
    entries: Sequence[Entry],
    scores: ArrayLike,
    base: ArrayLike,
    interval: dict[str, Any],
) -> dict[str, Any]:
    """Wins, ties, losses and the win rate (W + T/2) / N of scores [N] against the baseline's [N], image by image.

    Images whose score is NaN on either side are left out; `prompts` counts those that are judged. `interval`:
    resamples, confidence and seed, as `statistics.rate` takes them; prompts are its clusters.
    """
    results = statistics.outcomes(scores, base)
    rate = statistics.rate(results, [entry.prompt_index for entry in entries], **interval)
    return {
        "policy": policy,
        "baseline": baseline,
        "scorer": scorer,
        "prompts": rate.clusters,
        "seeds": len({entry.seed for entry in entries}),
        "wins": rate.wins,
        "ties": rate.ties,
        "losses": rate.losses,
        "win_rate": rate.rate,
        "ci_low": rate.low,
        "ci_high": rate.high,
    }
