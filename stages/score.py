"""score@REWARD: images and held-out pairs in; one reward's scores of them out."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core.errors import UserError
from diffalign.data.batches.pairs import held_out_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import scores, scoring
from diffalign.evaluation.results import Judge
from diffalign.generation import gallery as galleries
from diffalign.judging import judge as judges
from diffalign.rewards import reward as rewards

if TYPE_CHECKING:
    from diffalign.config.params import Params

COMPARISONS, IMAGES = Path("data/comparisons"), Path("images")


def run(params: "Params", reward: str | None = None) -> None:
    """Writes `metrics/scores/REWARD.jsonl`, a line an image, and `metrics/scores/REWARD.json`.

    Raises UserError where images changed since they were generated, or policies have images for different prompts.
    """
    if reward is None or reward not in params.rewards:
        raise UserError(f"score@{reward}: expected one of the rewards {sorted(params.rewards)}")
    settings = params.evaluate
    shown = {name: galleries.read(IMAGES / name) for name in params.policies}
    galleries.check_comparable(shown.values())
    for policy_name, gallery in shown.items():
        galleries.check_made(gallery, params.sampling(policy_name))
    judge = judges.load(reward, params.model_dump()["rewards"][reward])
    score, cache = judge.score, judge.cache
    columns = {name: judge.score_gallery(gallery) for name, gallery in shown.items()}
    lines = [line for name, gallery in shown.items() for line in scoring.image_lines(gallery, columns[name])]
    base = settings.baseline
    again = scoring.score_again(shown[base], columns[base][reward], score, reward, settings.rescored, cache)
    count = settings.alarms.shuffled
    others = [
        line
        for name, gallery in shown.items()
        for line in scoring.score_for_others(gallery, columns[name][reward], score, reward, count, cache)
    ]
    table = comparisons.read(COMPARISONS)
    how = params.pairs
    pairs = held_out_pairs(table, settings.split, how.rule, how.raters, how.axes)[: settings.pairs]
    pair_lines = scoring.score_pairs(COMPARISONS, pairs, score, reward, params.data.max_image_pixels, cache)
    if cache.hits:
        sys.stderr.write(f"{reward}: {cache.hits} scores were known ({cache.kept.path}).\n")
    scores.write(Judge(**rewards.describe(judge.reward)), lines, pair_lines, again, others)
