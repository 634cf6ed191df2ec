"""compare: two models, or two folders of images, without training: prompts in, a report out.

A side is a model's folder in diffusers' layout, a policy by its name, or a folder of images with captions. A work
folder keeps the images and the lock; the scores are kept as `score@REWARD` keeps them. So a killed run goes on.
"""

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffalign.commands import compare_folders, compare_models, compare_page, judges
from diffalign.commands.compare_models import Asked
from diffalign.core import files, records
from diffalign.core.errors import UserError
from diffalign.evaluation import scores, scoring, skills, win_rates
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.results import Comparison, Evaluation, JudgeAccuracy, Learnt
from diffalign.evaluation.win_rates import Judged
from diffalign.generation import gallery as galleries
from diffalign.generation.gallery import Gallery
from diffalign.judging.judge import Judge
from diffalign.rewards import reward as rewards

if TYPE_CHECKING:
    from diffalign.config.params import Evaluate, Params

OUT = files.RUNS / "compare"


@dataclass(frozen=True)
class Options:
    """What the command line says beside the two sides."""

    rewards: Sequence[str]
    prompts: str | None
    count: int | None
    seeds: int
    out: Path | None


def run(params: "Params", a: str, b: str, options: Options) -> str:
    """Compares B's images with A's, writes `report.html` and `compare.json`, returns the results as text.

    Raises UserError where a side is neither a model nor images, the sides are of two kinds, or nothing is in common.
    """
    names = labels(a, b)
    out = options.out or OUT / "-".join(map(slug, (a, b)))  # base and images/base are two
    loaded = judges.load(params, options.rewards)  # first: that weights are missing needn't wait for images
    out.mkdir(parents=True, exist_ok=True)
    with files.lock(out):
        shown = sides(params, dict(zip(names, (a, b), strict=True)), options, out)
        galleries.check_comparable(shown.values())
        judged = judged_by(loaded, shown, params.evaluate)
        found = compared(names[0], judged, loaded)
        for row in found.comparisons:
            win_rates.say_missing(row, judged)
        records.write(out / "compare.json", found)
        page = compare_page.render(names, found, judged, params.report)
        files.write_text(out / "report.html", page)
    return f"{text(found.comparisons)}\nreport: {out / 'report.html'}\nfigures: {out / 'compare.json'}"


def sides(params: "Params", given: Mapping[str, str], options: Options, out: Path) -> dict[str, Gallery]:
    """Returns both sides' images by name: made now where they are models, else read from their folders."""
    kinds = {name: compare_models.kind(params, where) for name, where in given.items()}
    if set(kinds.values()) == {"images"}:
        table = Path(options.prompts) if options.prompts else None
        paths = {name: Path(where) for name, where in given.items()}
        return compare_folders.read(paths, table, params.data.max_image_pixels)
    if "images" in kinds.values():
        raise UserError(
            f"compare: expected two models or two folders of images, found {' and '.join(sorted(kinds.values()))} "
            f"({', '.join(given.values())}). Make the model's images first, or compare the models."
        )
    asked = Asked(options.prompts, options.count, options.seeds)
    return {name: compare_models.make(params, name, where, asked, out / "images") for name, where in given.items()}


def judged_by(loaded: Sequence[Judge], shown: Mapping[str, Gallery], settings: "Evaluate") -> Judged:
    """Scores both sides' images by every judge, and some of the first side's again: what that moves is a tie."""
    found = {
        one.name: {name: scoring.score_gallery(g, one.score, one.name, one.cache) for name, g in shown.items()}
        for one in loaded
    }
    a, bands = next(iter(shown)), {}
    for one in loaded:
        first = found[one.name][a][one.name]
        bands[one.name] = scores.band(
            scoring.score_again(shown[a], first, one.score, one.name, settings.rescored, one.cache)
        )
    return Judged(
        galleries=shown,
        scores=found,
        interval=Interval(settings.bootstrap, settings.confidence, settings.seed),
        bands=bands,
        families={one.name: one.reward.families for one in loaded},
        policies={name: Learnt(method="none", seed=None, families=()) for name in shown},
    )


def compared(a: str, judged: Judged, loaded: Sequence[Judge]) -> Evaluation:
    """Returns all figures of B over A, in the schema of metrics/evaluate.json."""
    unasked: dict[str, Any] = {"accuracy": None, "ci_low": None, "ci_high": None, "pairs": 0}
    return Evaluation(
        schema=3,
        comparisons=win_rates.over_baseline(a, judged),
        head_to_heads=[],
        categories=win_rates.by_category(a, judged),
        over_seeds=[],
        implicit_reward=[],
        rewards=[
            JudgeAccuracy(**rewards.describe(one.reward), **unasked, tie_band=judged.bands[one.name]) for one in loaded
        ],
        skills=tuple(skills.rates(judged.galleries, judged.scores, judged.interval)),
        alarms=[],
        policies=dict(judged.policies),
        images={name: galleries.how_made(gallery) for name, gallery in judged.galleries.items()},
    )


def text(rows: Sequence[Comparison]) -> str:
    """Returns the win rates for the terminal; what differs in sampling is said, too."""
    lines = []
    for row in rows:
        rate = "no image was judged" if row.win_rate is None else f"{row.win_rate:.1%}"
        bounds = "" if row.ci_low is None or row.ci_high is None else f" ({row.ci_low:.1%} to {row.ci_high:.1%})"
        lines.append(
            f"{row.policy} over {row.baseline}, by {row.scorer} on {row.set}: {rate}{bounds}; {row.wins} wins, "
            f"{row.ties} ties, {row.losses} losses, {row.prompts} prompts"
        )
    if differs := sorted({key for row in rows for key in row.differs}):
        sys.stderr.write(f"careful: the sides' images differ in {', '.join(differs)}, which alone moves figures\n")
    return "\n".join(lines)


def labels(a: str, b: str) -> tuple[str, str]:
    """Returns the sides' names: the last part of each path, or the whole of both where that's the same.

    Raises UserError where they are one.
    """
    if Path(a).resolve() == Path(b).resolve():
        raise UserError(f"compare: expected two models or folders, found {a} twice.")
    names = tuple(Path(one).resolve().name if "/" in one or one.startswith(".") else one for one in (a, b))
    return (names[0], names[1]) if names[0] != names[1] else (a, b)


def slug(name: str) -> str:
    """Returns a name as a part of a folder's: letters, digits, dots, dashes; at most 60 of them."""
    return re.sub(r"[^A-Za-z0-9.-]+", "_", name).strip("._")[-60:] or "side"
