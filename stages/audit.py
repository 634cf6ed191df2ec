"""audit: images and held-out pairs in; what became unsafe, what images show unasked, and whose taste it is, out."""

import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from diffalign.core import records
from diffalign.data.batches.pairs import held_out_pairs, make_pairs
from diffalign.data.comparisons import table as comparisons
from diffalign.evaluation import pair_rewards, scores
from diffalign.evaluation.accuracies import pair_outcomes
from diffalign.evaluation.audits import attributes, findings, raters, safety, shapes, words
from diffalign.evaluation.audits.attributes import Labelled
from diffalign.evaluation.audits.findings import Audit, Composition, Flagged
from diffalign.evaluation.audits.raters import Answers
from diffalign.evaluation.intervals import Interval
from diffalign.evaluation.statistics import outcomes
from diffalign.generation import gallery as galleries
from diffalign.generation.gallery import Gallery
from diffalign.judging import judge as judges

if TYPE_CHECKING:
    from diffalign.config.audit import ByReward, ByShapes
    from diffalign.config.filters import Filter
    from diffalign.config.params import Params, Policy

COMPARISONS, IMAGES = Path("data/comparisons"), Path("images")
Galleries = Mapping[str, Gallery]


def run(params: "Params") -> None:
    """Writes `metrics/audit.json`, and says on stdout what was found.

    Raises UserError where images changed since they were generated, a reward can't be loaded, or scores are of others.
    """
    settings, own = params.audit, params.evaluate
    shown = {name: galleries.read(IMAGES / name) for name in params.policies}
    galleries.check_comparable(shown.values())
    for name, gallery in shown.items():
        galleries.check_made(gallery, params.sampling(name))
    how = Interval(own.bootstrap, own.confidence, own.seed)
    composition, ungrouped = composed(params, how)
    found = Audit(
        schema=1,
        safety=[row for name, one in settings.filters.items() for row in flagged(name, one, shown, params)],
        shifts=[
            row
            for name, labelled in labels(settings.attributes, shown).items()
            for row in attributes.compare(name, own.baseline, shown, labelled, how)
        ],
        composition=composition,
        ungrouped=ungrouped,
    )
    records.write(findings.FILE, found)
    sys.stdout.write(f"{words.text(found)}\n{findings.FILE}; next: dvc repro gate report\n")


def flagged(name: str, settings: "Filter", shown: Galleries, params: "Params") -> list[Flagged]:
    """Scores all images with a filter's reward, and compares how many are flagged."""
    judge = judges.load(settings.reward, settings.settings)
    flags = {
        policy: safety.flags(judge.score_gallery(gallery)[settings.reward], settings.below)
        for policy, gallery in shown.items()
    }
    return safety.compare(name, params.evaluate.baseline, shown, flags, params.evaluate.confidence)


def labels(asked: "Mapping[str, ByShapes | ByReward]", shown: Galleries) -> dict[str, Labelled]:
    """Labels all images of open prompts by each attribute; pictures of shapes are read once for all of them."""
    exact = {name: one.attribute for name, one in asked.items() if one.by == "shapes"}
    found = shapes.labelled(exact, shown)
    for name, one in asked.items():
        if one.by == "reward":
            score = judges.load(one.reward, one.settings).score
            found[name] = attributes.by_texts(score, one.reward, one.set, one.texts, one.confusion, shown)
    return {name: found[name] for name in asked}


def composed(params: "Params", how: Interval) -> tuple[list[Composition], list[str]]:
    """Compares policies and judges with groups of raters on evaluate's pairs; and lists raters without a group.

    Pairs of rule majority have no one rater: they are left out.
    """
    settings, patterns = params.evaluate, params.audit.rater_groups
    if not patterns or params.pairs.rule != "each":
        return [], []
    table = comparisons.read(COMPARISONS)
    rater_of = dict(zip(table["comparison_id"].to_pylist(), table["rater_id"].to_pylist(), strict=True))
    asked = params.pairs
    pairs = held_out_pairs(table, settings.split, asked.rule, asked.raters, asked.axes)[: settings.pairs]
    trained = [name for name, policy in params.policies.items() if policy.method != "none"]
    subjects = pair_rewards.read(pairs, trained)
    judges = {name: scores.read(name, [pair.pair_id for pair in pairs]) for name in params.rewards}
    learnt = make_pairs(table, "train", asked.rule, asked.raters, flagged=asked.flagged, axes=asked.axes)
    answered = Counter(str(rater_of[pair.pair_id]) for pair in learnt)
    answers, chosen, ungrouped = raters.answers(
        [pair.prompt for pair in pairs], [rater_of[pair.pair_id] for pair in pairs], answered, patterns
    )
    found = [
        raters.compose(
            name, "policy", outcomes(values[:, 0], values[:, 1])[chosen], asked_by(params.policies[name], answers), how
        )
        for name, values in subjects.items()
    ]
    found += [
        raters.compose(name, "judge", pair_outcomes(scored)[chosen], answers, how) for name, scored in judges.items()
    ]
    return found, ungrouped


def asked_by(policy: "Policy", answers: Answers) -> Answers:
    """Returns the answers with the training pairs that a policy learned from: only its own raters', if it has some."""
    own = policy.raters if policy.method != "none" else []
    return replace(answers, trained={name: n for name, n in answers.trained.items() if name in own}) if own else answers
