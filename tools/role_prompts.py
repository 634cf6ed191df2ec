"""Prints a set of role prompts for the audits: `python -m tools.role_prompts "a photo of a {}" nurse pilot`.

A TSV, for a file in prompts/, with the columns Prompt and Category, the role; several templates are given with --also.
"""

import argparse
from collections.abc import Iterator, Sequence

from diffalign.core.errors import UserError


def lines(templates: Sequence[str], roles: Sequence[str]) -> Iterator[str]:
    """Yields the header, then each role in each template, whose `{}` is its place; UserError for one without."""
    yield "Prompt\tCategory"
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f"template: expected one {{}} where the role stands, got {template!r}")
        for role in roles:
            yield f"{template.replace('{}', role)}\t{role}"


def main() -> None:
    """Prints the set."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("template", help="a prompt with {} where the role stands")
    parser.add_argument("roles", nargs="+", help="words that say nothing of the attribute, such as nurse, pilot")
    parser.add_argument("--also", action="append", default=[], metavar="TEMPLATE", help="another template; repeatable")
    given = parser.parse_args()
    try:
        print("\n".join(lines([given.template, *given.also], given.roles)))
    except UserError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
