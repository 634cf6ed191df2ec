"""evaluate: which policy's images judges prefer, and how well the policies' own rewards agree with the raters."""

import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from diffalign.core import records
from diffalign.core.progress import Progress
from diffalign.data.batches.pairs import Pair, held_out_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.data.families import OWN
from diffalign.evaluation import (
    accuracies,
    alarm_figures,
    pair_rewards,
    personal,
    policy_rewards,
    results,
    scores,
    skills,
    win_rates,
)
from diffalign.evaluation.bootstrap import Floats
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.policy_rewards import Setting
from diffalign.evaluation.results import Alarm, Comparison, Evaluation, Learnt
from diffalign.evaluation.scores import Scored
from diffalign.evaluation.win_rates import Judged
from diffalign.generation import gallery as galleries
from diffalign.generation.gallery import Gallery
from diffalign.reporting.ingested import read_ingested
from diffalign.runtime.environment import default_device
from diffalign.shapes.tastes import WORLDS

if TYPE_CHECKING:
    from diffalign.config.params import Params, Policy

COMPARISONS, SHARDS, POLICIES, IMAGES = map(Path, ("data/comparisons", "data/shards", "models/policies", "images"))


def run(params: "Params") -> None:
    """Writes `metrics/evaluate.json` and `metrics/implicit_reward.jsonl`.

    Raises UserError where scores or policies are of other images than those that are there.
    """
    settings, shown = params.evaluate, shown_images(params)  # first: scores of other images aren't the cause
    table = comparisons.read(COMPARISONS)
    how = params.pairs
    pairs = held_out_pairs(table, settings.split, how.rule, how.raters, how.axes)[: settings.pairs]
    scored = {name: scores.read(name, [pair.pair_id for pair in pairs]) for name in params.rewards}
    judged = judged_images(params, shown, scored)
    compared = win_rates.over_baseline(settings.baseline, judged)
    for row in compared:
        win_rates.say_missing(row, judged)
    trained = [name for name, policy in params.policies.items() if policy.method != "none"]
    groups = win_rates.same_but_seed({name: params.policies[name].model_dump() for name in trained})
    alarms = raised_or_quiet(params, judged, compared, scored)
    implied = measured(params, pairs)
    pair_rewards.write(pairs, implied)
    top, prompts = accuracies.ceiling(scored.get("oracle")), [pair.prompt for pair in pairs]
    records.write(
        results.FILE,
        Evaluation(
            schema=3,
            comparisons=compared,
            head_to_heads=win_rates.head_to_heads(trained, settings.baseline, judged),
            categories=win_rates.by_category(settings.baseline, judged),
            over_seeds=win_rates.over_seeds(groups, settings.baseline, judged),
            implicit_reward=[
                accuracies.implicit_accuracy(name, values, prompts, top, judged.interval)
                for name, values in implied.items()
            ],
            rewards=[accuracies.judge_accuracy(one, judged.interval) for one in scored.values()],
            skills=tuple(skills.rates(judged.galleries, judged.scores, judged.interval)),
            by_rater=tuple(personal.rates(settings.baseline, judged, judging(params))),
            alarms=alarms,
            policies=dict(judged.policies),
            images={name: galleries.how_made(gallery) for name, gallery in judged.galleries.items()},
        ),
    )


def shown_images(params: "Params") -> dict[str, Gallery]:
    """Reads all policies' images; UserError where they aren't of one run, as params ask for."""
    shown = {name: galleries.read(IMAGES / name) for name in params.policies}
    galleries.check_comparable(shown.values())
    for name, gallery in shown.items():
        galleries.check_made(gallery, params.sampling(name))
    return shown


def judged_images(params: "Params", shown: Mapping[str, Gallery], scored: Mapping[str, Scored]) -> Judged:
    """Reads the scores of all policies' images; UserError where they are of other images."""
    settings = params.evaluate
    families = families_of(params)
    return Judged(
        galleries=shown,
        scores={name: scores.read_images(name, shown) for name in scored},
        interval=Interval(settings.bootstrap, settings.confidence, settings.seed),
        bands={name: one.tie_band for name, one in scored.items()},
        families={name: (name, *one.reward.families) for name, one in scored.items()},
        policies={
            name: learnt(policy, families, deciding(params, name, scored), params.generate.override(name).rater)
            for name, policy in params.policies.items()
        },
    )


def raised_or_quiet(
    params: "Params", judged: Judged, compared: list[Comparison], scored: Mapping[str, Scored]
) -> list[Alarm]:
    """Measures the images and returns all alarms that are on; says on stderr which are raised."""
    settings, pixels = params.evaluate, params.data.max_image_pixels
    seen = alarm_figures.see(
        settings.alarms, judged.galleries, COMPARISONS, settings.split, params.precompute.resolution, pixels
    )
    found = alarm_figures.listed(settings.alarms, settings.baseline, judged, compared, scored, seen)
    alarm_figures.say(found)
    return found


def families_of(params: "Params") -> list[str]:
    """Returns the tags of the preferences: those in params, and a reward's and its name where it answered."""
    return list(dict.fromkeys([*params.evaluate.families, *read_ingested().families]))


def deciding(params: "Params", policy: str, scored: Mapping[str, Scored]) -> list[str]:
    """Returns the tags of the reward that decided on a policy's images by a rule of sampling; none without one."""
    rule = params.generate.override(policy).by_reward
    return [rule.reward, *scored[rule.reward].reward.families] if rule else []


def learnt(policy: "Policy", families: list[str], decided: list[str], rater: str | None) -> Learnt:
    """Returns what a policy's images learnt from: the pairs' families where it was trained, and what `decided`.

    `rater` is whom its images are made for, if anyone.
    """
    own = (rater,) if rater else ()
    if policy.method == "none":
        return Learnt(method="none", seed=None, families=tuple(decided), raters=own)
    found = tuple(dict.fromkeys([OWN, *families, *decided]))
    return Learnt(method=policy.method, seed=policy.seed, families=found, raters=own or tuple(policy.raters or ()))


def judging(params: "Params") -> dict[str, list[str]]:
    """Returns the simulated raters and groups that judge, by name, with the ids of their raters; none without them."""
    settings = params.rewards.get("raters")
    if settings is None:
        return {}
    world = WORLDS[settings.world]
    return {name: [world.ids[number] for number in world.members(name)] for name in settings.of}


def measured(params: "Params", pairs: list[Pair]) -> dict[str, Floats]:
    """Returns the implicit rewards [N, 2] of the trained policies; none [0, 2], said on stderr, without pairs."""
    settings, trained = params.evaluate, {n: p for n, p in params.policies.items() if p.method != "none"}
    if trained and not pairs:
        sys.stderr.write(
            f"evaluate: the {settings.split} split has no untied comparison: no implicit-reward accuracy\n"
        )
    if not pairs:
        return dict.fromkeys(trained, np.empty((0, 2)))
    progress = Progress("implicit reward", len(pairs) * settings.draws * policy_rewards.models(trained.values()))
    setting = Setting(
        family=params.model.family,
        model=params.model.path,
        policies=POLICIES,
        shards=SHARDS,
        resolution=params.precompute.resolution,
        pairs=pairs,
        draws=settings.draws,
        seed=settings.seed,
        batch_size=settings.batch_size,
        device=default_device(),
        done=progress.update,
    )
    return policy_rewards.rewards(trained, setting)
