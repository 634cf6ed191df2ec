"""The report's section on the data: what ingest counted."""

from collections.abc import Mapping
from typing import Any

from diffalign.reporting.material import Material

CARD = ("answers", "comparisons", "raters", "rejected", "rejects", "rows", "split_prompts", "splits", "ties_share")
"""Counts that the data card has, in more words."""


def context(report: Material) -> dict[str, Any]:
    """Returns the counts as tables, without those of the data card where there's one."""
    counts = report.ingested.model_dump()
    return {"data": tables({k: v for k, v in counts.items() if report.card is None or k not in CARD})}


def tables(values: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns nested counts as tables: plain values first, then a table a section, deeper levels joined by a slash."""
    sections = {name: value for name, value in values.items() if isinstance(value, Mapping) or of_rows(value)}
    plain = [(words(k), number(value)) for k, value in values.items() if k not in sections and k != "schema"]
    found: list[dict[str, Any]] = [{"title": "Counts", "rows": plain}] if plain else []
    for name, value in sections.items():
        rows = flat(value) if isinstance(value, Mapping) else [row(one) for one in value]
        found.append({"title": words(name), "rows": rows or [("none", "")]})
    return found


def of_rows(value: Any) -> bool:
    """Tells whether a value is a list of mappings, which is a table of its own."""
    return isinstance(value, list) and bool(value) and all(isinstance(one, Mapping) for one in value)


def row(values: Mapping[str, Any]) -> tuple[str, str]:
    """Returns a mapping as a line: its first value, and the others with their names."""
    first, *others = values
    return number(values[first]), ", ".join(f"{words(name).lower()} {number(values[name])}" for name in others)


def flat(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Returns (name, value) of a nested mapping's leaves."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        label = f"{prefix}{name}"
        rows += flat(value, f"{label} / ") if isinstance(value, Mapping) else [(label, number(value))]
    return rows


def words(name: str) -> str:
    """Returns a key as words: its underscores are spaces, its first letter is large."""
    text = name.replace("_", " ")
    return text[:1].upper() + text[1:]


def number(value: Any) -> str:
    """Returns a value for reading: thousands apart, four figures of a fraction, a dash where there's none."""
    if value is None:
        return "–"
    if isinstance(value, bool) or not isinstance(value, int | float):
        return ", ".join(map(number, value)) if isinstance(value, list) else str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
