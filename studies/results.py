"""From the results of the study's runs to metrics/study.json, and to a table for the terminal; a list of the runs."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from diffalign.evaluation import seeds, statistics
from diffalign.evaluation.bootstrap import Floats
from diffalign.reporting.format import alarm_words, interval, percent
from diffalign.reporting.study_file import SCHEMA
from studies import claims, personal_world
from studies import shapes_world as study
from studies.claims import BASE, Found, Labels
from studies.groups import Group
from studies.shapes_world import RUNS, SEEDS, STUDY

Row = Mapping[str, Any]


def listing() -> str:
    """Returns the groups with their runs and claims."""
    lines = []
    for group in STUDY:
        lines.append(f"{group.name}: {group.title}")
        lines += [f"  run: {RUNS[name].label}" for name in group.runs]  # labels have commas
        lines += [f"  claim: {claim.words} ({claim.source})" for claim in group.claims]
    lines += personal_world.listing()
    return "\n".join([*lines, f"{len(study.needed(STUDY))} runs in all"])


def summary(results: Mapping[str, Row], about: Row, how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the contents of metrics/study.json: each run's row, and each group's claims with their verdicts.

    `results` by run, the base's among them; `how`: resamples, confidence and seed of the intervals; `about` is kept.
    """
    runs = {name: run_row(name, results, how) for name in RUNS if name in results}
    found = Found(contests(results, how), runs)
    labels = study.labels()
    return {
        **about,
        "schema": SCHEMA,
        "rule": claims.RULE,
        "confidence": how["confidence"],
        "resamples": how["resamples"],
        "base": {"label": labels[BASE], "score": mean(results[BASE]["scores"])},
        "runs": runs,
        "groups": [group_row(group, found, labels) for group in STUDY],
    }


def contests(
    results: Mapping[str, Row], how: Mapping[str, Any], groups: Sequence[Group] = STUDY
) -> dict[tuple[str, str], dict[str, Any]]:
    """Returns the head to heads that groups' claims need, as far as their runs were made, by both sides' names."""
    pairs = {names for group in groups for claim in group.claims for line in claim.lines for names in line.contests}
    found = {names: contest(*names, results, how) for names in sorted(pairs)}
    return {names: row for names, row in found.items() if row is not None}


def group_row(group: Group, found: Found, labels: Labels) -> dict[str, Any]:
    """Returns a group with its claims' verdicts."""
    judged = [claims.verdict(claim, found, labels) for claim in group.claims]
    return {"name": group.name, "title": group.title, "runs": list(group.runs), "claims": judged}


def run_row(name: str, results: Mapping[str, Row], how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a run's figures: against the base, its score, its implicit reward, the end of its curve, its alarms."""
    result, run = results[name], RUNS[name]
    return {
        "label": run.label,
        "of": run.of,
        "changes": dict(run.changes),
        "asked": run.asked,
        **head_to_head(result, results[BASE], how),
        "score": mean(result["scores"]),
        "moved": result["moved"],
        "kl": result["kl"],
        "accuracy": accuracy(result["implicit"], how) if result["implicit"] else None,
        "end": result["end"],
        "course": result["course"],
        "training_seconds": result["training_seconds"],
        "alarms": result["alarms"],
        "chosen": result["chosen"],
        "commit": result["commit"],
    }


def accuracy(implicit: Row, how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns how often an implicit reward ranks held-out pairs as their raters did, with its interval."""
    found = statistics.rate(implicit["outcomes"], implicit["prompts"], **how)
    return {"win_rate": found.rate, "ci_low": found.low, "ci_high": found.high, "pairs": len(implicit["outcomes"])}


def members(name: str) -> tuple[str, ...]:
    """Returns the runs behind a name: those of a family of seeds, else the run itself."""
    return SEEDS.get(name, (name,))


def contest(a: str, b: str, results: Mapping[str, Row], how: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns a head to head of two runs, or of families of seeds: the n-th against the n-th, seeds in the interval.

    Of families the seeds that were made on both sides, and how many were meant; None where there are none.
    """
    firsts, seconds = members(a), members(b)
    count = max(len(firsts), len(seconds))
    pairs = list(zip(*([*names] * (count if len(names) == 1 else 1) for names in (firsts, seconds)), strict=True))
    made = [pair for pair in pairs if all(name in results for name in pair)]
    return over(made, results, how) | {"seeds": len(made), "meant": count} if made else None


def over(pairs: Sequence[tuple[str, str]], results: Mapping[str, Row], how: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a head to head of pairs of runs that differ in their seed from the other pairs'."""
    if len(pairs) == 1:
        return head_to_head(results[pairs[0][0]], results[pairs[0][1]], how)
    each = [outcomes(results[a], results[b]) for a, b in pairs]
    return counts(seeds.rate_over_seeds(each, results[pairs[0][0]]["indices"], confidence=how["confidence"]))


def head_to_head(a: Row, b: Row, how: Mapping[str, Any]) -> dict[str, Any]:
    """Counts wins, ties, losses and the win rate of one run's images over another's, from the same noise."""
    return counts(statistics.rate(outcomes(a, b), a["indices"], **how))


def outcomes(a: Row, b: Row) -> Floats:
    """Returns the outcomes of one run's images against another's, from the same noise, [N]."""
    if a["prompts"] != b["prompts"]:
        raise ValueError("head_to_head: expected images for the same prompts")
    first, second = (np.array(result["scores"], np.float64) for result in (a, b))
    return statistics.outcomes(first, second)


def counts(rate: statistics.Rate) -> dict[str, Any]:
    """Returns a rate as metrics/study.json has it."""
    numbers = {"wins": rate.wins, "ties": rate.ties, "losses": rate.losses, "prompts": rate.clusters}
    return {**numbers, "win_rate": rate.rate, "ci_low": rate.low, "ci_high": rate.high}


def mean(scores: Sequence[float | None]) -> float | None:
    """Returns the mean of the scores that there are; None without any."""
    known = [score for score in scores if score is not None]
    return float(np.mean(known)) if known else None


def text(found: Row) -> str:
    """Returns the study for the terminal: a line for each run, then the claims that have a verdict."""
    width = max((len(row["label"]) for row in found["runs"].values()), default=0)
    lines = [f"Over the base, whose mean score is {number(found['base']['score'])}:"]
    for row in found["runs"].values():
        ranks = row["accuracy"]
        implicit = f"implicit accuracy {percent(ranks['win_rate'])} ({interval(ranks)}), " if ranks else ""
        lines.append(
            f"  {row['label'].ljust(width)}  {percent(row['win_rate']):>6} ({interval(row)}), score "
            f"{number(row['score'])}, {implicit}{row['kl']:,.0f} nats, {alarm_words(row['alarms'])}"
        )
    judged = [claim for group in found["groups"] for claim in group["claims"]]
    for claim in judged:
        if claim["verdict"] != "not run yet":
            lines += ["", f"{claim['verdict'].upper()}: {claim['claim']} ({claim['source']})"]
            lines += [f"  {line['expected']}: {line['seen']}" for line in claim["lines"]]
    waiting = sum(claim["verdict"] == "not run yet" for claim in judged)
    return "\n".join([*lines, *(["", f"{waiting} claims wait for runs that weren't made."] if waiting else [])])


def number(value: float | None) -> str:
    """Returns a score with three decimals; a dash for none."""
    return "–" if value is None else f"{value:.3f}"
