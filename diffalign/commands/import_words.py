"""Data as import understood it, in words: which column is what, and the first rows."""

from collections.abc import Mapping
from typing import Any

from diffalign.data import closing, images
from diffalign.data.comparisons.writer import Reject
from diffalign.data.sources.source import Candidate

PROMPT = 48
"""Characters of a prompt that are shown."""


def understood(about: Mapping[str, Any]) -> str:
    """Returns which column or folder is what, in lines, as far as the source says it."""
    said = {
        **about.get("columns", {}),
        **{key: about[key] for key in ("winners", "losers", "captions") if key in about},
    }
    lines = [f"  {name}: {value}\n" for name, value in said.items()]
    unread = about.get("columns_unread", [])
    return "".join([*lines, f"  not read: {', '.join(unread)[:200]}\n" if unread else ""])


def table(first: list[Candidate | Reject]) -> str:
    """Returns the first rows as they were understood, a line each: prompt, images, answer, rater."""
    head = ("row", "prompt", "image a", "image b", "better", "rater")
    lines = [head, *(line_of(record) for record in first)]
    widths = [max(len(line[column]) for line in lines if len(line) == len(head)) for column in range(len(head))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=False)).rstrip() for line in lines
    )


def line_of(record: Candidate | Reject) -> tuple[str, ...]:
    """Returns the cells of a row; of a reject its number and why."""
    if isinstance(record, Reject):
        return str(record.row), f"rejected: {record.reason}: {record.detail}"[:100]
    answer = record.answer if record.share is None else f"{record.answer} {record.share:.0%}"
    prompt = " ".join(record.prompt.split())
    prompt = prompt if len(prompt) <= PROMPT else f"{prompt[: PROMPT - 3]}..."
    shown = [size(data) for data in (record.bytes_a, record.bytes_b)]
    return str(record.row), prompt, *shown, answer, record.rater_id or "-"


def size(data: bytes) -> str:
    """Returns an image's size in pixels and its format, or why it isn't one."""
    try:
        header = images.probe(data, 2**40, len(data))
    except images.ImageError as error:
        return closing.SHORT.get(error.reason, error.reason.replace("_", " "))
    return f"{header.width}x{header.height} {header.format}"
