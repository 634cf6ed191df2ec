"""The results in a few lines, for the terminal, for Prefect and for whoever ran the pipeline."""

from pathlib import Path
from typing import Any

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.evaluation import people_results, results
from diffalign.reporting.format import interval, percent
from diffalign.runtime import timings
from diffalign.tracking import pages

EVALUATION = results.FILE
REPORT = Path("reports/report.html")
SYNCED = Path("runs/tracking/synced.json")
Table = tuple[str, list[str], list[list[str]]]


def tables() -> list[Table]:
    """Returns title, header and rows of each table; raises UserError where nothing was evaluated yet."""
    times = [
        [stage, f"{row['seconds']:.1f}", "from the cache since" if row["cached"] else ""]
        for stage, row in timings.newest().items()
    ]
    return [*outcomes(), ("Wall time of each stage when it last ran", ["stage", "seconds", ""], times)]


def outcomes() -> list[Table]:
    """Returns the tables of results; raises UserError where nothing was evaluated yet."""
    if not EVALUATION.exists():
        raise UserError(f"{EVALUATION} isn't there yet: expected the results of an evaluation. Make them: dvc repro")
    found = results.read(EVALUATION)
    rows = [*found.comparisons, *found.head_to_heads]
    several = len({row.set for row in rows}) > 1
    wins = [
        [
            f"{row.policy} over {row.baseline}",
            f"{row.scorer}, {row.set}" if several else row.scorer,
            percent(row.win_rate),
            interval(row.model_dump()),
            f"{row.wins} / {row.ties} / {row.losses}",
            f"{row.prompts} × {row.seeds}",
        ]
        for row in rows
    ]
    implicit = [
        [row.policy, percent(row.accuracy), interval(row.model_dump()), percent(row.ceiling), str(row.pairs)]
        for row in found.implicit_reward
    ]
    alarms = [
        [alarm.name, alarm.policy, f"{alarm.figure:.3g}", f"{alarm.threshold:g}", alarm.by]
        for alarm in found.alarms
        if alarm.verdict == "raised" and alarm.figure is not None
    ]
    wins_header = ["policy", "scorer", "win rate", "interval", "W / T / L", "prompts × seeds"]
    implicit_header = ["policy", "accuracy", "interval", "ceiling", "pairs"]
    return [
        ("Win rates on held-out prompts", wins_header, wins),
        by_people(),
        ("Alarms that the images raised", ["alarm", "policy", "figure", "threshold", "measured by"], alarms),
        ("Implicit-reward accuracy on held-out pairs", implicit_header, implicit),
    ]


def by_people() -> Table:
    """Returns the table of people's votes, empty where nobody has voted; its title says where raters were programs."""
    found = people_results.read() if people_results.FILE.exists() else None
    rows = [
        [
            f"{row.policy} over {row.baseline}",
            row.question,
            percent(row.win_rate),
            interval(row.model_dump()),
            f"{row.wins} / {row.ties} / {row.losses}",
            f"{row.raters_for} of {row.raters}",
        ]
        for row in (found.win_rates if found else [])
    ]
    title = "Win rates by votes" + (", simulated voters among them" if found and found.simulated else " of people")
    return title, ["policy", "question", "win rate", "interval", "W / T / L", "raters for it"], rows


def synced() -> dict[str, Any]:
    """Reads what the last sync noted; UserError if that file is damaged."""
    return records.plain(SYNCED, ("link", "path"), f"Remove it and run `{COMMAND} sync`.")


def links() -> list[str]:
    """Returns where the report is, and the runs in MLflow if they were brought there."""
    found = [f"Report: {REPORT}"] if REPORT.exists() else []
    if SYNCED.exists():
        found.append(f"MLflow: {pages.told(synced()['link'])}")
    return found


def text() -> str:
    """Returns the tables for a terminal, then the links."""
    blocks = []
    for title, header, rows in tables():
        if rows:
            widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
            cells = ([cell.ljust(w) for cell, w in zip(row, widths, strict=True)] for row in [header, *rows])
            blocks.append("\n".join([title, *(f"  {'  '.join(row)}".rstrip() for row in cells)]))
    return "\n\n".join([*blocks, "\n".join(links())])


def markdown() -> str:
    """Returns the tables as Markdown, then the links."""
    return "\n\n".join([*map(as_markdown, tables()), *links()])


def as_markdown(table: Table) -> str:
    """Returns a table with its title as Markdown."""
    title, header, rows = table
    lines = [f"| {' | '.join(row)} |" for row in [header, ["---"] * len(header), *rows]]
    return "\n".join([f"## {title}", "", *lines])
