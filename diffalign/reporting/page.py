"""The report as one HTML file: the head, the contents, the sections in their order. All text but Markup is escaped."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jinja2
from markupsafe import Markup

from diffalign.reporting import head
from diffalign.reporting.format import interval, percent
from diffalign.reporting.material import Material
from diffalign.reporting.sections import (
    before_after,
    bias,
    categories,
    caveats,
    cost,
    data,
    data_card,
    gate,
    image_alarms,
    implicit_reward,
    judges,
    made_with,
    matrix,
    people,
    personal,
    personal_study,
    reward_models,
    safety,
    skills,
    study,
    training,
    win_rates,
)


class Section(Protocol):
    """A module of `sections/`; its template is `templates/sections/`, its name, `.html`."""

    __name__: str

    def context(self, report: Material) -> dict[str, Any] | None:
        """Returns what the template shows; None leaves the section out."""


SECTIONS: tuple[Section, ...] = (
    before_after,
    win_rates,
    matrix,
    categories,
    skills,
    personal,
    people,
    image_alarms,
    safety,
    bias,
    judges,
    reward_models,
    gate,
    implicit_reward,
    training,
    cost,
    study,
    personal_study,
    data_card,
    data,
    caveats,
    made_with,
)
"""The sections in their order. A new one is a file in `sections/`, its template, and its name here."""


def render(report: Material) -> str:
    """Returns the report's HTML, which needs nothing else."""
    return rendered(head.context(report), SECTIONS, report)


def rendered(top: Mapping[str, Any], chosen: Sequence[Section], report: Material) -> str:
    """Returns the HTML of a head and some sections of a report."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=False,
        keep_trailing_newline=True,
    )
    environment.filters |= {"percent": percent, "interval": interval}
    sections = []
    for section in chosen:
        shown = section.context(report)
        if shown is not None:
            template = environment.get_template(f"sections/{section.__name__.rpartition('.')[2]}.html")
            sections.append(Markup(template.render(shown)))
    contents = [heading(section) for section in sections]
    return environment.get_template("report.html").render(top, contents=contents, sections=sections)


def heading(section: Markup) -> tuple[str, Markup]:
    """Returns the id and the title that a section's template begins with; ValueError where it doesn't."""
    found = re.match(r'\s*<section id="([\w-]+)">\s*<h2>(.*?)</h2>', section)
    if found is None:
        raise ValueError(f'expected a template that begins with <section id="..."> and <h2>, got {section[:80]!r}')
    return found[1], Markup(found[2])
