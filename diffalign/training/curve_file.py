"""The curve of a training as it grows: a file of its work folder, cut where a checkpoint was taken, and shown live."""

from pathlib import Path

from pydantic import ValidationError

from diffalign.core.errors import UserError
from diffalign.core.files import RUNS, write_bytes
from diffalign.core.records import shortened
from diffalign.monitoring.curve import Line

LOGGED_STEPS = "curve.jsonl"
"""The curve's file in a run's work folder."""


def cut(curve: Path, step: int) -> None:
    """Leaves a curve's lines up to a step; a checkpoint of that step was saved after they were on the disk.

    A crash may have left anything after them. UserError where one of them is damaged.
    """
    lines = curve.read_bytes().splitlines(keepends=True) if curve.exists() else []
    steps = [step_of(line) for line in lines]
    count = max((number for number, found in enumerate(steps, 1) if found is not None and found <= step), default=0)
    if None in steps[:count]:
        at = steps.index(None)
        raise UserError(
            f"{curve}: line {at + 1}: expected a JSON object with a step and figures, found "
            f"{shortened(lines[at].rstrip())}: the file was damaged or edited. Remove {curve.parent} and run the same "
            "command again: the training starts anew."
        )
    write_bytes(curve, b"".join(lines[:count]))


def step_of(line: bytes) -> int | None:
    """Returns the step of a curve's line; None for one that is cut short or damaged."""
    try:
        return Line.model_validate_json(line).step if line.endswith(b"\n") else None
    except ValidationError:
        return None


def show_live(work: Path, stage: str) -> None:
    """Links runs/live/STAGE.jsonl to the curve as it grows, for whoever watches."""
    live = RUNS / "live" / f"{stage}.jsonl"
    live.parent.mkdir(parents=True, exist_ok=True)
    live.unlink(missing_ok=True)
    live.symlink_to((work / LOGGED_STEPS).resolve())
