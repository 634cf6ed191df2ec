"""The report of a comparison: the pipeline's report, with the sections that need neither data nor training."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from diffalign.config.methods import none
from diffalign.evaluation.results import Evaluation
from diffalign.evaluation.scores import Columns
from diffalign.evaluation.win_rates import Judged
from diffalign.reporting import head, page
from diffalign.reporting.format import interval, percent
from diffalign.reporting.ingested import Ingested
from diffalign.reporting.material import Material, Settings
from diffalign.reporting.sections import before_after, categories, skills, win_rates

if TYPE_CHECKING:
    from diffalign.config.params import Report

NO_DATA = Ingested(schema=1, rows=0, comparisons=0, rejects={}, simulated=False)
"""Of a comparison, which has none: no section of it tells of this."""
SECTIONS: tuple[page.Section, ...] = (before_after, win_rates, categories, skills)


def render(names: tuple[str, str], found: Evaluation, judged: Judged, grid: "Report") -> str:
    """Returns the report's HTML of B over A; `grid` says how many images are shown."""
    material = of(names, found, judged, grid)
    return page.rendered(top(names, found, material), SECTIONS, material)


def of(names: tuple[str, str], found: Evaluation, judged: Judged, grid: "Report") -> Material:
    """Returns what the sections show: A is the baseline, B the hero, and neither was trained here."""
    shown = judged.galleries
    sides = {
        name: none.Settings(method="none", init=name, noise_seed=g.about["noise_seed"]) for name, g in shown.items()
    }
    settings = Settings(
        title=f"{names[1]} over {names[0]}",
        best=grid.best,
        worst=grid.worst,
        random=grid.random,
        seed=grid.seed,
        policies=sides,
        baseline=names[0],
        rewards=list(judged.scores),
        interval=judged.interval,
        sampling={name: gallery.made for name, gallery in shown.items()},
        draws=0,
        thresholds={},
        parameters={},
    )
    return Material(
        settings=settings,
        results=found,
        ingested=NO_DATA,
        galleries=shown,
        scores={name: columns(name, judged) for name in shown},
        curves={},
        work={},
        audit=None,
        gate=None,
        people=None,
        study=None,
        personal=None,
    )


def columns(name: str, judged: Judged) -> Columns:
    """Returns a side's scores by all judges, by the names of rewards and of their parts."""
    return {column: values for of_sides in judged.scores.values() for column, values in of_sides[name].items()}


def top(names: tuple[str, str], found: Evaluation, report: Material) -> Mapping[str, Any]:
    """Returns the head: the sentence of the first judge, and what to know before believing it."""
    rows = [row for row in found.comparisons if row.win_rate is not None]
    sentence, notes = "No judge could compare them", []
    if rows:
        row = rows[0]
        won = f"its win rate is {percent(row.win_rate)} by the {row.scorer} score"
        sentence = f"{row.policy} {head.verb(row)} {row.baseline}: {won}"
        notes = [
            f"{report.settings.interval.confidence:.0%} interval {interval(row.model_dump())}; ties count half; "
            f"{row.judged:,} images for {row.prompts:,} prompts of {row.set}."
        ]
    notes += [f"What {one.name} learnt from: {one.trained_on}" for one in found.rewards]
    return {
        "title": report.settings.title,
        "headline": {"sentence": sentence, "notes": notes},
        "made": "",
        "facts": [],
        "warnings": warnings(found, report),
    }


def warnings(found: Evaluation, report: Material) -> list[str]:
    """Says what differs in sampling or isn't known of it, and what judges couldn't score."""
    lines = []
    differs = sorted({key for row in found.comparisons for key in row.differs})
    if differs:
        lines.append(f"the sides' images differ in {', '.join(differs)}: that alone moves figures.")
    if any(gallery.made["sampler"] is None for gallery in report.galleries.values()):
        lines.append("how these images were made isn't known: another sampler or guidance alone moves figures.")
    lines += [
        f"{row.scorer} couldn't judge {report.missing(row):,} images of {row.set}, and judged {row.judged:,}."
        for row in found.comparisons
        if report.missing(row)
    ]
    return lines
