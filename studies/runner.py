"""The study on the shapes world: each run goes through the real stages in a project folder of its own, `runs/study/`.

Nothing of it is a stage of dvc.yaml: its runs are resumed and reused by what it notes in runs/study itself. It leaves
`metrics/study.json` and, of personal policies, `metrics/personal.json`, which the report stage reads.
"""

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from diffalign.config.params import Params
from diffalign.core import files
from diffalign.core.errors import UserError
from diffalign.core.progress import clock
from diffalign.data.comparisons import table as comparisons
from diffalign.reporting import study_file
from diffalign.reporting.made_by import git_commit
from diffalign.runtime.processes import run_group
from diffalign.tracking import dag
from diffalign.tracking.summary import EVALUATION, REPORT
from studies import personal, personal_world, relabel
from studies import results as tables
from studies import shapes_world as study
from studies.claims import BASE
from studies.groups import Group
from studies.job import DRAWS, INPUTS, JUDGE, PROMPTS, Study, asked_of, chain_of, make_project, needs_reward_model
from studies.parallel import made
from studies.rewards_world import REWARD_MODEL
from studies.run import make, sampled
from studies.shapes_world import RUNS, STUDY

OUT = study_file.FILE
REWARDS = "rewards"
"""The name that asks for all groups which the study alone leaves out."""
EXPECTED = 150.0
"""Seconds a run on an idle CPU core, before any was measured."""


def chosen(only: Sequence[str]) -> list[Group]:
    """Returns the groups of some names; without any all but those that only a name asks for; REWARDS: all of those.

    Raises UserError for one that isn't there.
    """
    known = {group.name: group for group in STUDY}
    if unknown := sorted(set(only) - set(known)):
        names = ", ".join([*known, personal_world.NAME])
        raise UserError(f"--only: expected some of {names}, got {', '.join(unknown)}")
    asked = {*only, *(group.name for group in STUDY if group.extra and REWARDS in only)}
    return [group for group in STUDY if (group.name in asked if only else not group.extra)]


def run(
    values: Params, only: Sequence[str] = (), prompts: int | None = None, steps: int | None = None, jobs: int = 1
) -> str:
    """Makes the runs of some groups that haven't been made, writes `metrics/study.json` after each; the table as text.

    `jobs` are made at a time, after the base, which the others are compared with. Raises UserError where the project's
    inputs or policies aren't there, or aren't the shapes world's.
    """
    rest = [name for name in only if name != personal_world.NAME]
    groups = chosen(rest)
    job = Study(values, prompts or PROMPTS, steps, Path.cwd())
    check(job)
    if personal_world.NAME in only or REWARDS in only:
        make_personal(job, jobs)
        told = personal.write(job)
        if not rest:
            return told
        say(told)
    else:
        personal.write(job)  # of the seeds that are kept
    names, done = study.needed(groups), job.results()
    left = [name for name in names if name not in done]
    if left:
        check_inputs(job, left)
        names = possible(job, names)
        left = [name for name in names if name in left]
    if BASE not in done or (left and not sampled(job, BASE)):  # its images are those that the others' are held against
        check_inputs(job, [])
        left.insert(0, BASE)
    seconds = [result["seconds"] for name, result in done.items() if name != BASE]
    jobs = max(min(jobs, len(left)), 1)
    about = clock(estimate(seconds) * len(left) / jobs)
    say(f"{len(names)} runs, {len(left)} to make, {jobs} at a time, about {about} (h:mm:ss or m:ss)")
    for asked in {asked_of(name) for name in left}:
        make_project(job, asked, [name for name in names if name in left])
    first, rest = [name for name in left if name == BASE], [name for name in left if name != BASE]
    results = chain(made(make, job, first, jobs), *(made(make, job, wave, jobs) for wave in waves(rest)))
    for number, (name, result) in enumerate(results, 1):
        seconds += [] if name == BASE else [result["seconds"]]
        say(
            f"{name} took {clock(result['seconds'])}; {number} of {len(left)}, "
            f"about {clock(estimate(seconds) * (len(left) - number) / jobs)} left"
        )
        files.write_json(OUT, summary(job))
    found = summary(job)
    files.write_json(OUT, found)
    return tables.text(found)


def make_personal(job: Study, jobs: int) -> None:
    """Makes the seeds of the group `personal` that lack, `jobs` at a time; writes its metrics after each."""
    done = personal.results(job)
    left = [name for name in personal_world.SEEDS if name not in done]
    if not left:
        return
    check_inputs(job, [])
    seconds = estimate([one["seconds"] for one in done.values()], personal.EXPECTED)
    about = clock(seconds * len(left) / min(jobs, len(left)))
    say(f"{len(left)} seeds of personal to make, {jobs} at a time, about {about} (h:mm:ss or m:ss)")
    for number, (name, result) in enumerate(made(personal.make, job, left, jobs), 1):
        personal.write(job)
        say(f"{name} took {clock(result['seconds'])}; {number} of {len(left)}")


def waves(names: Sequence[str]) -> list[list[str]]:
    """Returns runs in lists that are made one after the other: first those without a round, then rounds in turn."""
    depths = {name: len(chain_of(name)) for name in names}
    return [[name for name in names if depths[name] == depth] for depth in sorted(set(depths.values()))]


def possible(job: Study, names: Sequence[str]) -> list[str]:
    """Returns the runs whose comparisons are there; says which are left out since no image is by their model.

    Raises UserError where none is possible.
    """
    table = comparisons.read(job.root / INPUTS[0])
    lacking = {maker for maker in study.MAKERS.values() if not relabel.count_by(table, maker, "train")}
    missing = {name: maker for name in names if (maker := study.MAKERS.get(asked_of(name))) in lacking}
    found = [name for name in names if name not in missing]
    if missing:
        makers = ", ".join(sorted({str(maker) for maker in missing.values()}))
        say(f"left out, as no two images by one model of {makers} were compared: {', '.join(missing)}")
    if not found:
        raise UserError("study: expected comparisons of images by the runs' models, found none: no run is possible")
    return found


def summary(job: Study) -> dict[str, Any]:
    """Returns the contents of `metrics/study.json` for the results that are there."""
    settings = job.values.evaluate
    how = {"resamples": settings.bootstrap, "confidence": settings.confidence, "seed": settings.seed}
    about = {
        "judge": JUDGE,
        "split": "test",
        "prompts": job.prompts,
        "steps": job.steps,
        "draws": DRAWS,
        "commit": git_commit(),
    }
    return tables.summary(job.results(), about, how)


def remake_report() -> str:
    """Has DVC run the report stage, where the pipeline has run: `metrics` has changed for it. Says where it is."""
    there = " and ".join(str(file) for file in (OUT, personal.OUT) if file.exists())
    if not EVALUATION.exists():
        return f"Written: {there}; `dvc repro` makes the report that shows it"
    lines: list[str] = []
    code = run_group([*dag.DVC, "repro", "--single-item", "report"], lines.append, PATH=dag.own_path())
    if code:
        return "\n".join([*lines, f"Written: {there}, but the report wasn't made again; later: dvc repro report"])
    return f"Report: {REPORT}"


def estimate(seconds: Sequence[float], expected: float = EXPECTED) -> float:
    """Returns the seconds that a run may take, from those that ran, or before any `expected`."""
    return float(np.mean(seconds)) if seconds else expected


def say(text: str) -> None:
    """Writes a line on stderr."""
    sys.stderr.write(f"study: {text}\n")


def check(job: Study) -> None:
    """Raises UserError unless the params are the shapes world's, with the policies that runs are made of."""
    values = job.values
    for name in ("dpo", "sft"):
        if name not in values.policies or values.policies[name].method != name:
            raise UserError(f"policies.{name}: expected a policy of method {name}, which the study's runs are made of")
    if values.policies[values.evaluate.baseline].method != "none":
        raise UserError(f"evaluate.baseline: expected an untrained policy, got {values.evaluate.baseline!r}")
    if JUDGE not in values.rewards:
        raise UserError(
            f"rewards: expected {JUDGE} among them, got {sorted(values.rewards)}: the study is of the shapes world, "
            "the default params.yaml"
        )


def check_inputs(job: Study, names: Sequence[str]) -> None:
    """Raises UserError unless the comparisons, shards and models are there that these runs need."""
    reading = [name for name in names if needs_reward_model(RUNS[name])]
    if reading and not (job.root / REWARD_MODEL / "config.json").is_file():
        raise UserError(
            f"{REWARD_MODEL} is missing: {', '.join(reading)} learn from it. Run `dvc repro reward@learned`"
        )
    for path in (f"{INPUTS[0]}/{comparisons.COMPARISONS}", f"{INPUTS[1]}/manifest.json"):
        if not (job.root / path).is_file():
            raise UserError(f"{path} is missing: the study learns from it. Run `make demo` or `dvc repro precompute`")
