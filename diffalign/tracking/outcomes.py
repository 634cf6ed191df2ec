"""What the evaluation says of each policy as single numbers, and of all as the page of the pipeline's run in MLflow."""

from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

from diffalign.evaluation import people_results
from diffalign.evaluation.people_results import People
from diffalign.evaluation.results import Evaluation, read
from diffalign.reporting.format import interval, percent
from diffalign.tracking import pages, summary

GRID = Path("reports/grid.png")
RATE, LOW, ACCURACY = "win_rate", "win_rate_low", "accuracy"


def of_policy(evaluation: Evaluation, people: People | None, policy: str) -> dict[str, float]:
    """Returns a policy's figures: win rate over the baseline with its lower bound, and its implicit reward's accuracy.

    `win_rate` is by the first judge on the first set of prompts, which the report's headline is of, too;
    `win_rate/JUDGE` by another, `win_rate/JUDGE/SET` on another set, `win_rate/people` by people's votes. What wasn't
    measured isn't there.
    """
    found: dict[str, float | None] = {}
    rows = [row for row in evaluation.comparisons if row.policy == policy]
    for row in rows:
        if row is rows[0]:
            found |= {RATE: row.win_rate, LOW: row.ci_low}
        else:
            found[f"{RATE}/{row.scorer}" + ("" if row.set == rows[0].set else f"/{row.set}")] = row.win_rate
    votes = [row for row in (people.win_rates if people else []) if row.policy == policy]
    found |= {f"{RATE}/people": row.win_rate for row in votes[:1]}
    found[ACCURACY] = next((row.accuracy for row in evaluation.implicit_reward if row.policy == policy), None)
    return {name: value for name, value in found.items() if value is not None}


def people() -> People | None:
    """Reads the results of people's votes; None where nobody has voted."""
    return people_results.read() if people_results.FILE.exists() else None


def page(experiment: str, run_id: str, stages: Mapping[str, str], earlier: Mapping[str, str], measured: bool) -> str:
    """Returns the description of a pipeline's run, Markdown: the picture before and after, the tables, its stages.

    `stages` and `earlier` map names of stages to their runs: those that this pipeline made, and those that were there.
    Without `measured` the results on the disk are of other policies and are left out.
    """
    blocks = [headline()] if measured else []
    if measured and GRID.exists():
        blocks.append(f'<img src="{artifact(run_id, f"report/{GRID.name}")}">')
    if measured:
        report = f"#/experiments/{experiment}/runs/{run_id}/artifacts/report/{summary.REPORT.name}?{pages.VIEW}"
        blocks += [f"[The whole report]({report})"] if summary.REPORT.exists() else []
        blocks += [summary.as_markdown(table) for table in summary.outcomes() if table[2]]
    else:
        blocks.append("Not evaluated yet: `dvc repro`")
    for title, runs in {"Stages that ran": stages, "Unchanged, in earlier runs": earlier}.items():
        links = [f"[{name}]({pages.page(experiment, run)})" for name, run in runs.items()]
        blocks += [f"**{title}:** {', '.join(links)}"] if links else []
    return "\n\n".join(blocks)


def headline() -> str:
    """Returns the first judge's win rates in a line: MLflow folds the page up after a few."""
    rows = read().comparisons
    first = [row for row in rows if (row.scorer, row.set) == (rows[0].scorer, rows[0].set)]
    rates = [f"**{row.policy} {percent(row.win_rate)}** ({interval(row.model_dump())})" for row in first]
    return f"Won against {first[0].baseline}, by {first[0].scorer}: {', '.join(rates)}" if first else "No win rates"


def artifact(run_id: str, path: str) -> str:
    """Returns the address of a run's file beside MLflow's pages."""
    return f"get-artifact?path={quote(path)}&run_uuid={run_id}"
