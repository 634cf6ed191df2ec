"""Runs the DAG of dvc.yaml as a Prefect flow: Prefect decides when, DVC decides whether, the stage decides what."""

import os
import re
import sys
import time
from collections import deque
from pathlib import Path

from prefect import State, flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed
from prefect.tasks import Task

from diffalign.core.errors import STOPPED
from diffalign.runtime import timings
from diffalign.runtime.processes import run_group
from diffalign.tracking import dag, summary

ROOT = Path(__file__).resolve().parent.parent
LAST_LINES = 25
RETRY_DELAY = 10.0
"""Seconds before a failed stage is tried again."""


class StageFailed(Exception):
    """Says that a stage failed: its name, its exit code (2: the user's to mend; 75: stopped), its last lines."""

    def __init__(self, stage: str, code: int | None, lines: list[str]) -> None:
        self.stage, self.code, self.lines = stage, code, lines
        how = "was ended" if code is None else f"ended with exit code {code}"
        super().__init__("\n".join([f"stage {stage} {how}. Its last lines:", *(f"  {line}" for line in lines)]))


class PipelineFailed(Exception):
    """Says that stages failed; `code` is 2 if the user can mend all of it, 75 if all were stopped, else 1."""

    def __init__(self, failed: list[BaseException], left: list[str]) -> None:
        codes = {e.code if isinstance(e, StageFailed) else None for e in failed}
        self.code = next((code for code in (2, STOPPED) if codes == {code}), 1)
        rest = [f"Not run, since they need it: {', '.join(left)}."] if left else []
        super().__init__("\n".join([*map(str, failed), *rest]))


def may_retry(task: Task, run: TaskRun, state: State) -> bool:
    """Tells whether a failed stage is worth another try: not where the user has to mend something.

    One that was stopped (75) goes on where it was: its machine was taken from it. A cancelled flow doesn't get here.
    """
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, StageFailed) and error.code == 2)


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=may_retry)
def run_stage(name: str, timeout: float | None = None) -> State | None:
    """Lets DVC run a stage if it's needed, its output in this task's log; `timeout` in seconds.

    Returns a state named Cached where nothing was computed, else nothing: to Prefect equal results of two tasks would
    be a dependency between them. Raises StageFailed.
    """
    log = get_run_logger()
    last: deque[str] = deque(maxlen=LAST_LINES)

    def on_line(line: str) -> None:
        last.append(line)
        log.info(line)

    start = time.monotonic()
    environment = {
        "PATH": dag.own_path(),
        "PYTHONUNBUFFERED": "1",
        "DIFFALIGN_LAUNCH": f"prefect-{flow_run.id}",
    }
    try:
        code = run_group([*dag.DVC, "repro", "--single-item", name], on_line, timeout, **environment)
    except TimeoutError as error:
        raise StageFailed(name, None, [*last, str(error)]) from None
    output = "\n".join(last)
    if code:
        inner = re.search(r"exited with (-?\d+)", output)
        raise StageFailed(name, int(inner[1]) if inner else code, list(last))
    if "cached - skipping run" in output or "didn't change, skipping" in output:
        how = "restored" if "cached - skipping run" in output else "unchanged"
        if how == "restored":
            timings.record(name, time.monotonic() - start, cached=True)
        log.info("%s: %s, nothing was computed", name, how)
        return Completed(name="Cached", message=f"{how}: nothing was computed")
    return None


@flow(name="align", log_prints=True)
def align(retries: int = 1, timeout_hours: float = 0) -> None:
    """Runs each stage of `dvc dag` as a task, in order; stages that don't need a failed one still run.

    `retries` is how often a failed stage is tried again, `timeout_hours` what one may take (0: no limit). Raises
    PipelineFailed. One at a time, since a stage uses all the devices of its machine.
    """
    os.chdir(ROOT)
    states: dict[str, State] = {}
    for name, needs in dag.graph().items():
        stage = run_stage.with_options(name=name, task_run_name=name, retries=retries, retry_delay_seconds=RETRY_DELAY)
        timeout = timeout_hours * 3600 or None
        states[name] = stage(name, timeout, return_state=True, wait_for=[states[need] for need in needs])
    mirror()
    failed = [state.result(raise_on_failure=False) for state in states.values() if state.is_failed()]
    if failed:
        raise PipelineFailed(failed, [name for name, state in states.items() if not state.is_final()])
    if summary.EVALUATION.exists():
        create_markdown_artifact(key="summary", markdown=summary.markdown(), description="Results of the pipeline")


def mirror() -> None:
    """Brings MLflow up to date; if it's away, the log says so and the pipeline's success stands."""
    log = get_run_logger()
    code = run_group([sys.executable, "pipeline.py", "sync"], log.info)
    if code:
        log.warning("MLflow wasn't brought up to date (exit code %s); later: python pipeline.py sync", code)
