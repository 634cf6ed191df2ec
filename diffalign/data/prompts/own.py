"""Reads prompts from a file of one's own: a line each, or a TSV with a column Prompt and perhaps one Category."""

from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.data.prompts.prompt_set import Prompt, text_of

SUFFIXES = (".txt", ".tsv")


def read(path: Path) -> list[Prompt]:
    """Returns the prompts of a .txt or .tsv file, which names the set; UserError where there are none.

    Spaces around a prompt go, and so do empty lines. A TSV has a header; quotes in it are characters like others.
    """
    text = text_of(path, "Write a prompt a line (.txt), or a TSV with a header: Prompt, Category.")
    lines = [line.removesuffix("\r") for line in text.split("\n")]  # splitlines would split at a U+2028
    found = tsv(path, lines) if path.suffix == ".tsv" else [Prompt(line.strip(), str(path)) for line in lines]
    found = [prompt for prompt in found if prompt.text]
    if not found:
        raise UserError(f"{path}: expected a prompt a line, found none.")
    return found


def tsv(path: Path, lines: list[str], name: str | None = None) -> list[Prompt]:
    """Returns the prompts of a TSV's lines, empty lines left out, with their categories where it has that column.

    Raises UserError without a column Prompt, and for a line with another number of columns than the header.
    """
    header, *rows = [line.split("\t") for line in lines if line.strip()] or [[]]
    columns = [column.strip().casefold() for column in header]
    if "prompt" not in columns:
        raise UserError(f"{path}: expected a header with a column Prompt, found {', '.join(header) or 'nothing'}.")
    if wrong := [row for row in rows if len(row) != len(header)]:
        raise UserError(f"{path}: expected {len(header)} columns in each line, found {len(wrong[0])}: {wrong[0][0]!r}")
    text, category = columns.index("prompt"), columns.index("category") if "category" in columns else None
    return [
        Prompt(row[text].strip(), name or str(path), row[category].strip() or None if category is not None else None)
        for row in rows
    ]
