"""Shows a flow's progress and results as artifacts on Prefect's pages: long stages, tables, a picture, links."""

import base64
import io
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from uuid import UUID

import httpx
from PIL import Image
from prefect import get_run_logger
from prefect.artifacts import (
    create_image_artifact,
    create_link_artifact,
    create_markdown_artifact,
    create_progress_artifact,
    create_table_artifact,
    update_progress_artifact,
)

from diffalign.core import progress
from diffalign.tracking import summary

GRID = Path("reports/grid.png")
WIDTH = 1600
"""Largest width in pixels of the picture that goes to the server, whose database keeps it."""


class Meter:
    """Shows the lines of progress in a stage's output as progress artifacts: one for each thing that is counted.

    A line comes every 10 seconds or so, so a short stage has none. Where the server doesn't answer, the stage goes on.
    """

    def __init__(self, stage: str) -> None:
        self.stage, self.key = stage, slug(f"progress-{stage}")
        self.what: str | None = None
        self.artifact: UUID | None = None

    def see(self, line: str) -> None:
        """Looks at a line of output, and shows it if it's one of progress."""
        reading = progress.read(line)
        if reading is None or reading.total == 0 or (reading.what != self.what and reading.done == reading.total):
            return
        percent, about = 100 * reading.done / reading.total, described(self.stage, reading)
        with telling("the progress"):
            if reading.what != self.what or self.artifact is None:
                made = create_progress_artifact(percent, self.key, about)
                assert isinstance(made, UUID)  # a coroutine only where it's called from one
                self.artifact = made
                self.what = reading.what
            else:
                update_progress_artifact(self.artifact, percent, about)


def described(stage: str, reading: progress.Reading) -> str:
    """Returns a line of progress as the artifact's description."""
    return f"{stage}: {reading.what}, {reading.done} of {reading.total} ({reading.rest})"


def slug(text: str) -> str:
    """Returns text as an artifact's key: lower-case letters, digits and dashes."""
    return re.sub("[^a-z0-9]+", "-", text.lower()).strip("-")


@contextmanager
def telling(what: str) -> Iterator[None]:
    """Runs what tells the server of something; if the server is away, the log says so and the pipeline goes on."""
    try:
        yield
    except httpx.HTTPError as error:
        get_run_logger().warning("Prefect's server wasn't told %s: %s", what, error or type(error).__name__)


def show_stages(rows: list[dict[str, str]]) -> None:
    """Makes the table of stages: what was done with each, and how long it took."""
    with telling("of the stages"):
        create_table_artifact(table=rows, key="stages", description="What was done with each stage")


def show_results(pictures: bool) -> None:
    """Makes the artifacts of the results that are on the disk: the tables, where report and MLflow are, the picture.

    Without `pictures` where nothing ran: the server's database keeps each.
    """
    if not summary.EVALUATION.exists():
        return
    with telling("the results"):
        create_markdown_artifact(key="summary", markdown=summary.markdown(), description="Results of the pipeline")
        (title, header, rows), *_ = summary.tables()
        if rows:
            table: list[dict[str, Any]] = [dict(zip(header, row, strict=True)) for row in rows]
            create_table_artifact(table=table, key="win-rates", description=title)
        if pictures and GRID.exists():
            about = f"Before and after, by the report: {GRID}"
            create_image_artifact(picture(GRID), key="before-after", description=about)
        if summary.SYNCED.exists():
            create_link_artifact(summary.synced()["link"], "MLflow's runs", key="mlflow", description="All runs")


def picture(path: Path) -> str:
    """Returns an image as a data URI, a JPEG of at most WIDTH pixels: it's seen wherever the server's pages are."""
    with Image.open(path) as image:
        shown = image.convert("RGB")
    shown.thumbnail((WIDTH, 100 * WIDTH))
    buffer = io.BytesIO()
    shown.save(buffer, "JPEG", quality=80)
    return f"data:image/jpeg;base64,{base64.b64encode(buffer.getvalue()).decode()}"
