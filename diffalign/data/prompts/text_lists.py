"""Reads the JSON lists of texts that HPDv2 publishes its benchmarks in."""

import json
from pathlib import Path

from diffalign.core.errors import UserError
from diffalign.data.prompts.prompt_set import check, text_of


def read(path: Path, count: int, remedy: str) -> list[str]:
    """Returns a JSON list of `count` texts; UserError where the file is missing or is something else."""
    try:
        found = json.loads(text_of(path, remedy))
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, list) or not all(isinstance(text, str) for text in found):
        raise UserError(f"{path}: expected a JSON list of texts. {remedy}")
    check(path, {"prompts": len(found)}, {"prompts": count}, remedy)
    return found
