"""Collects the arena's votes as a Prefect flow, so that the next run of the DAG has them."""

import os

from prefect import flow, get_run_logger, task
from prefect.cache_policies import NO_CACHE

from diffalign.runtime.processes import run_group
from flows.names import COMMAND_LINE, project


class CollectFailed(Exception):
    """Says that `python pipeline.py collect` failed, with what it said last."""


@task(name="collect", cache_policy=NO_CACHE, persist_result=False)
def export() -> None:
    """Runs `python pipeline.py collect`, its output in this task's log; raises CollectFailed."""
    log = get_run_logger()
    lines: list[str] = []

    def on_line(line: str) -> None:
        lines.append(line)
        log.info(line)

    code = run_group([*COMMAND_LINE, "collect"], on_line)
    if code:
        raise CollectFailed("\n".join([f"collect ended with exit code {code}", *lines[-5:]]))


@flow(name="collect", log_prints=True)
def collect() -> None:
    """Writes the votes of the arena's database to data/votes; without one it says so and nothing happens."""
    os.chdir(project())
    export()
