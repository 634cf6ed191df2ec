"""Writes the tables of the study's runs and claims, and the rewards' figure, into the docs, from studies/results.

`python -m tools.study_tables --write` writes them; without --write it fails where a page isn't up to date.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import numpy as np

from diffalign.reporting.format import alarm_words, interval, percent, seeds_words
from diffalign.reporting.study_file import Verdict
from studies import figure, kept, personal_results, personal_world, results
from studies.claims import BASE, Found, verdict
from studies.groups import Group
from studies.shapes_world import RUNS, SEEDS, STUDY, labels

REPO = Path(__file__).resolve().parents[1]
PAGE, PERSONAL = REPO / "docs" / "study.md", REPO / "docs" / "methods" / "personal.md"
FIGURE = REPO / "docs" / "study-rewards.svg"
MARKS = "<!-- {}: python -m tools.study_tables --write -->", "<!-- /{} -->"
"""Around what is written of the runs on rewards, of those that the study alone makes, and of personal policies."""
HEAD = (
    "| run | seeds | wins over the base | oracle, mean | proxy | nats | pictures | seconds | alarms |\n"
    "|---|---|---|---|---|---|---|---|---|"
)
LINES = 4
"""Lines of a claim on personal policies that are told one by one."""
Row = Mapping[str, Any]


def main() -> None:
    """Writes or compares."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    wanted, write = pages(), parser.parse_args().write
    for path, text in wanted.items():
        if write:
            path.write_text(text)
        elif path.read_text() != text:
            sys.exit(f"{path} isn't up to date: python -m tools.study_tables --write")


def pages() -> dict[Path, str]:
    """Returns what the pages and the figure are by the kept results."""
    found = kept.read(REPO / kept.FOLDER, (BASE, *RUNS))
    seeds = kept.read(REPO / kept.FOLDER, personal_world.SEEDS)
    return {
        PAGE: page(PAGE.read_text(), {"rewards": tables(found), "usual": usual(found)}),
        PERSONAL: page(PERSONAL.read_text(), {"personal": personal(seeds)}),
        FIGURE: figure.drawing(found),
    }


def page(text: str, parts: Mapping[str, str]) -> str:
    """Returns the page with some parts between their marks, by the marks' names."""
    for name, written in parts.items():
        begin, end = (mark.format(name) for mark in MARKS)
        before, rest = text.split(begin)
        text = before + begin + "\n" + written + "\n" + end + rest.split(end)[1]
    return text


def personal(found: Mapping[str, Row]) -> str:
    """Returns the matrix of personal policies by group, a group's own in bold, and the claims; `found` by seed."""
    if not found:
        return "Nothing was run yet."
    made = personal_results.summary(found, {"split": "test", "prompts": None, "steps": None}, figure.HOW)
    minutes = ", ".join(f"{seconds / 60:.0f}" for seconds in made["seconds"])
    rows = [
        [f"`{row['name']}`: {row['label']}", *(matrix_cell(row["by"][by], row["own"] == by) for by in made["groups"])]
        for row in made["policies"]
    ]
    return "\n".join(
        [
            f"Wins over the base, {seeds_words(len(found), made['meant'])}; {minutes} minutes of CPU.",
            "",
            f"| | {' | '.join(f'by {group}' for group in made['groups'])} |",
            "|---|" + "---|" * len(made["groups"]),
            *(f"| {' | '.join(cells)} |" for cells in rows),
            "",
            *(f"- **{claim['verdict']}**: {claim['claim']}. {briefly(claim)}" for claim in made["claims"]),
        ]
    )


def matrix_cell(cell: Row, own: bool) -> str:
    """Returns a cell of the matrix; bold where the policy is the group's own."""
    rate = f"{percent(cell['win_rate'])} [{interval(cell)}]"
    return f"**{rate}**" if own else rate


def briefly(claim: Row) -> str:
    """Returns what was seen of a claim's lines; of more than `LINES` how many hold, and the others."""
    if len(claim["lines"]) <= LINES:
        return seen_of(claim)
    others = [line for line in claim["lines"] if not line["holds"]]
    counted = f"{len(claim['lines']) - len(others)} of {len(claim['lines'])} lines hold"
    return f"{counted}; the others: {seen_of({'lines': others})}" if others else counted


def usual(found: Mapping[str, Row]) -> str:
    """Returns the table of the runs that the study alone makes, a line each, and one of the claims on them."""
    groups = [group for group in STUDY if not group.extra]
    names = [name for name in RUNS if name in found and any(name in group.runs for group in groups)]
    if not names or BASE not in found:
        return "Nothing was run yet."
    runs = {name: results.run_row(name, found, figure.HOW) for name in names}
    rows = [usual_row(run) for run in runs.values()]
    seen = Found(results.contests(found, figure.HOW, groups), runs)
    judged = [verdict(claim, seen, labels()) for group in groups for claim in group.claims]
    verdicts = [one["verdict"] for one in judged]
    counts = ", ".join(f"{verdicts.count(name)} {name}" for name in get_args(Verdict) if name in verdicts)
    base = results.mean(found[BASE]["scores"])
    told = [f"| {one['claim']} | {one['verdict']} | {seen_of(one)} |" for one in judged]
    return "\n".join(
        [
            f"{len(names)} runs and {len(judged)} claims: {counts}. Bold is worse than the base.",
            "",
            f"| run | wins over the base | mean score (base {base:.3f}) | training's own accuracy, at its end | "
            "alarms, from step |",
            "|---|---|---|---|---|",
            *rows,
            "",
            "| claim | verdict | seen |",
            "|---|---|---|",
            *told,
        ]
    )


def usual_row(run: Row) -> str:
    """Returns a run's line; the win rate is bold where its whole interval is below one half."""
    rate = f"{percent(run['win_rate'])} [{interval(run)}]"
    cells = [
        run["label"],
        f"**{rate}**" if run["ci_high"] < 0.5 else rate,
        f"{run['score']:.3f}",
        percent(run["end"].get("implicit_accuracy")),
        "; ".join(f"`{alarm['name']}` {alarm['step']}" for alarm in run["alarms"] or []),
    ]
    return f"| {' | '.join(cells)} |"


def seen_of(claim: Row) -> str:
    """Returns what was expected of a claim's lines, and what was seen."""
    return "; ".join(f"{line['expected']}: {line['seen']}" for line in claim["lines"])


def tables(found: Mapping[str, Row]) -> str:
    """Returns a table and the claims of each group that only its name makes; what wasn't run, in a line."""
    if BASE not in found:
        return "Nothing was run yet."
    extra = [group for group in STUDY if group.extra]
    shown = [(group, rows) for group in extra if (rows := [row(names, found) for names in families(group, found)])]
    parts = [
        "\n".join(
            [f"**{group.title}** (`{group.name}`)", "", HEAD, *rows, *gradients(group, found), *claims(group, found)]
        )
        for group, rows in shown
    ]
    known = dict.fromkeys(names for group in extra for names in together(group))
    missing = [RUNS[names[0]].label for names in known if not any(name in found for name in names)]
    if missing:
        parts.append(f"Not run yet: {'; '.join(dict.fromkeys(missing))}.")
    return "\n\n".join(parts)


def together(group: Group) -> list[tuple[str, ...]]:
    """Returns a group's runs, those that differ in their seed only together."""
    of = {name: names for names in SEEDS.values() if set(names) <= set(group.runs) for name in names}
    return list(dict.fromkeys(of.get(name, (name,)) for name in group.runs))


def families(group: Group, found: Mapping[str, Row]) -> list[list[str]]:
    """Returns a group's runs that were made, those that differ in their seed only together."""
    return [made for names in together(group) if (made := [name for name in names if name in found])]


def row(names: Sequence[str], found: Mapping[str, Row]) -> str:
    """Returns a line of a table: means over the seeds, and the win rate with seeds in its interval."""
    runs = [found[name] for name in names]
    rate = results.over([(name, BASE) for name in names], found, figure.HOW)
    pictures = [points[-1][0] for name, points in runs[0]["course"].items() if name.startswith("reward_")]
    cells = [
        RUNS[names[0]].label,
        str(len(names)),
        f"{percent(rate['win_rate'])} [{interval(rate)}]",
        f"{np.mean([results.mean(run['scores']) for run in runs]):.3f}",
        proxy(runs, found[BASE]),
        f"{np.mean([run['kl'] for run in runs]):,.0f}",
        f"{pictures[0]:,.0f}" if pictures else "",
        f"{np.mean([run['training_seconds'] for run in runs]):,.0f}",
        "; ".join(sorted({f"`{alarm_words(run['alarms'])}`" for run in runs if run["alarms"]})),
    ]
    return f"| {' | '.join(cells)} |"


def proxy(runs: Sequence[Row], base: Row) -> str:
    """Returns by how many of the base's standard deviations the proxy's mean is up."""
    before = np.array(base["proxy"], float)
    after = np.mean([np.nanmean(np.array(run["proxy"], float)) for run in runs])
    return f"{(after - np.nanmean(before)) / np.nanstd(before):+.2f} sd"


def gradients(group: Group, found: Mapping[str, Row]) -> list[str]:
    """Returns a line on the reward's gradient, of those of a group's runs that follow one; nothing without such."""
    names = [name for name in group.runs if "gradient_begin" in found.get(name, {"end": {}})["end"]]
    if not names:
        return []
    ends = [found[name]["end"] for name in names]
    told = [
        f"{RUNS[name].label} {end['gradient_end']:.2g}, {end['gradient_begin']:.2g}"
        for name, end in zip(names, ends, strict=True)
    ]
    return ["", f"Norm of the reward's gradient by the picture, and by the first state that trains: {'; '.join(told)}."]


def claims(group: Group, found: Mapping[str, Row]) -> list[str]:
    """Returns a group's claims of which something was seen, each with its verdict."""
    contests = results.contests(found, figure.HOW, [group])
    lines: list[str] = []
    for claim in group.claims:
        if not any(names in contests for line in claim.lines for names in line.contests):
            continue
        one = verdict(claim, Found(contests, {}), labels())
        lines.append(f"- **{one['verdict']}**: {claim.words} ({claim.source}). {seen_of(one)}")
    return ["", *lines] if lines else []


if __name__ == "__main__":
    main()
