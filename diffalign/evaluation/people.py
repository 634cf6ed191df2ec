"""People's votes as a judge: win rates, strengths, agreement and the sides' effect, as pure functions of votes."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import combinations

import numpy as np

from diffalign.data import votes as records
from diffalign.data.votes import QUESTIONS, Question, Vote
from diffalign.evaluation import agreement as agreements
from diffalign.evaluation import people_results as results
from diffalign.evaluation import strengths
from diffalign.evaluation.bootstrap import Estimate
from diffalign.evaluation.intervals import Interval

VALUES = {"a": 1.0, "b": 0.0, "tie": 0.5, "both_bad": 0.5}
"""What an answer is worth to the image on the left."""
SWAPPED = {"a": "b", "b": "a"}


def judge(votes: Sequence[Vote], images: Mapping[str, Collection[str]], interval: Interval) -> results.People:
    """Returns all that votes say; `images` are the SHA-256 of each policy's images, the baseline's first.

    Raters who failed the checks (`votes.RULE`), votes on other images than these, and skipped pairs don't count; each
    is counted apart.
    """
    failed = records.failed_raters(votes)
    checks = [vote for vote in votes if vote.kind in records.CHECKS and vote.answer != "skip"]
    shown = [vote for vote in votes if vote.kind not in records.CHECKS]
    answered = [vote for vote in shown if vote.answer != "skip"]
    attentive = [vote for vote in answered if vote.rater_id not in failed]
    counted = [vote for vote in attentive if _is_there(vote, images)]
    first = [vote for vote in counted if vote.kind == "pair"]
    asked = [q for q in QUESTIONS if any(vote.question == q for vote in first)]
    by_question = {q: [vote for vote in first if vote.question == q] for q in asked}
    policies = list(images)
    return results.People(
        schema=1,
        simulated=any(vote.rater_id.startswith(records.SIMULATED) for vote in votes),
        raters=len({vote.rater_id for vote in votes}),
        votes=len(first),
        skipped=len(shown) - len(answered),
        other_images=len(attentive) - len(counted),
        checks=results.Checks(
            rule=records.RULE,
            answered=len(checks),
            passed=sum(map(records.passed, checks)),
            raters_failed=len(failed),
            votes_left_out=len(answered) - len(attentive),
        ),
        win_rates=[row for q in asked for row in win_rates(by_question[q], policies, interval)],
        strengths=[model(q, by_question[q], policies, interval) for q in asked],
        agreement=[agreement(q, by_question[q], interval) for q in asked],
        sides=[sides(q, by_question[q], counted, interval) for q in asked],
    )


def win_rates(votes: Iterable[Vote], policies: Sequence[str], interval: Interval) -> list[results.WinRate]:
    """Returns the win rate of each two policies with votes, of one question: the later in `policies` over the other."""
    pairs: dict[tuple[str, str], list[Vote]] = defaultdict(list)
    for vote in votes:
        pairs[_pair(vote, policies)].append(vote)
    found = []
    for baseline, policy in combinations(policies, 2):
        if chosen := pairs.get((baseline, policy)):
            found.append(_win_rate(policy, baseline, chosen, interval))
    return found


def _win_rate(policy: str, baseline: str, votes: Sequence[Vote], interval: Interval) -> results.WinRate:
    worth = [_worth(vote, policy) for vote in votes]
    rate = interval.rate(worth, [vote.prompt for vote in votes])
    raters: dict[str, float] = defaultdict(float)
    for vote, value in zip(votes, worth, strict=True):
        raters[vote.rater_id] += value - 0.5
    return results.WinRate(
        policy=policy,
        baseline=baseline,
        question=votes[0].question,
        prompts=rate.clusters,
        wins=rate.wins,
        ties=rate.ties,
        both_bad=sum(vote.answer == "both_bad" for vote in votes),
        losses=rate.losses,
        win_rate=rate.rate,
        ci_low=rate.low,
        ci_high=rate.high,
        raters=len(raters),
        raters_for=sum(balance > 0 for balance in raters.values()),
    )


def model(question: Question, votes: Sequence[Vote], policies: Sequence[str], interval: Interval) -> results.Model:
    """Fits Bradley and Terry's model to the answers to one question; `strengths.fit` says which."""
    known = [name for name in policies if any(name in (vote.model_a, vote.model_b) for vote in votes)]
    number = {name: i for i, name in enumerate(known)}
    left, right = ([number[str(name)] for name in side] for side in zip(*map(_shown, votes), strict=True))
    prompts = [vote.prompt for vote in votes]
    worth = np.array([VALUES[vote.answer] for vote in votes])
    fitted = strengths.fit(left, right, worth, prompts, interval.confidence)
    named = zip(known, fitted.policies, strict=True) if fitted else ()
    return results.Model(
        question=question,
        votes=len(votes),
        prompts=len(set(prompts)),
        strengths=[results.Strength(policy=name, **_estimate(one)) for name, one in named] or None,
        position=results.Estimate(**_estimate(fitted.position)) if fitted else None,
        tie=results.Estimate(**_estimate(fitted.tie)) if fitted and fitted.tie else None,
    )


def agreement(question: Question, votes: Sequence[Vote], interval: Interval) -> results.Agreement:
    """Returns how far the raters of one pair agree on which image is better; both bad is a tie here."""
    found = agreements.agreement(
        [_chosen(vote) for vote in votes],
        [vote.pair_id for vote in votes],
        [vote.prompt for vote in votes],
        resamples=interval.resamples,
        confidence=interval.confidence,
        seed=interval.seed,
    )
    return results.Agreement(
        question=question,
        pairs=found.units,
        alpha=found.alpha,
        ci_low=found.low,
        ci_high=found.high,
        agree=found.agree,
    )


def sides(question: Question, first: Sequence[Vote], votes: Iterable[Vote], interval: Interval) -> results.Sides:
    """Returns the left's share of the votes for one image, and how consistent repeats with swapped sides are."""
    decided = [vote for vote in first if vote.answer in SWAPPED]
    before = {(vote.rater_id, vote.pair_id): vote for vote in first}
    again = [vote for vote in votes if vote.kind == "repeat" and vote.question == question]
    pairs = [(before[key], vote) for vote in again if (key := (vote.rater_id, vote.pair_id)) in before]
    same = [float(_chosen(one) == _chosen(other)) for one, other in pairs]
    return results.Sides(
        question=question,
        left=_rate([VALUES[vote.answer] for vote in decided], decided, interval),
        consistent=_rate(same, [vote for _, vote in pairs], interval),
    )


def _rate(values: Sequence[float], votes: Sequence[Vote], interval: Interval) -> results.Rate:
    found = interval.rate(values, [vote.prompt for vote in votes])
    return results.Rate(votes=len(votes), rate=found.rate, ci_low=found.low, ci_high=found.high)


def _is_there(vote: Vote, images: Mapping[str, Collection[str]]) -> bool:
    sides = ((vote.model_a, vote.image_a), (vote.model_b, vote.image_b))
    return all(image in images.get(str(model), ()) for model, image in sides)


def _pair(vote: Vote, policies: Sequence[str]) -> tuple[str, str]:
    """Returns a vote's policies in the order of `policies`, whichever side they were on."""
    first, second = sorted((str(vote.model_a), str(vote.model_b)), key=policies.index)
    return first, second


def _shown(vote: Vote) -> tuple[str, str]:
    return str(vote.model_a), str(vote.model_b)


def _worth(vote: Vote, policy: str) -> float:
    value = VALUES[vote.answer]
    return value if vote.model_a == policy else 1 - value


def _chosen(vote: Vote) -> str | None:
    """Returns the policy whose image was chosen, None for neither."""
    return {"a": vote.model_a, "b": vote.model_b}.get(vote.answer)


def _estimate(found: Estimate) -> dict[str, float]:
    return {"value": found.value, "ci_low": found.low, "ci_high": found.high}
