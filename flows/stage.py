"""Runs one stage as a Prefect task: DVC decides whether; its output is the task's log, its progress an artifact."""

import re
import time
from collections import deque

from prefect import State, get_run_logger, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import TaskRun
from prefect.runtime import flow_run
from prefect.states import Completed, Failed
from prefect.tasks import Task

from diffalign.core.errors import STOPPED, UserError
from diffalign.runtime import timings
from diffalign.runtime.processes import run_group
from diffalign.tracking import dag
from flows.artifacts import Meter

LAST_LINES = 25
RETRY_DELAY = 10.0
"""Seconds before a failed stage is tried again."""
CACHED = "Cached"
"""Name of the state of a stage for which nothing was computed."""
SKIPPED = re.compile(r"Stage '.*' didn't change, skipping|Data and pipelines are up to date\.")
CLOSING = re.compile(
    r"Updating lock file .*|Use `dvc push` to send your updates to remote storage\.|"
    r"To track the changes with git, run:|To enable auto staging, run:|\s+(git add|dvc config core\.autostage) .*"
)
"""DVC's closing words, which are about what its user may do next."""


class StageFailed(Exception):
    """Says in a line or so that a stage failed; `details` have its last lines.

    `code` is its exit code: 2: the user's to mend; 75: stopped, or a service didn't answer; None: it took too long.
    """

    def __init__(self, stage: str, code: int | None, lines: list[str]) -> None:
        self.stage, self.code = stage, code
        how = f"stage {stage} {'was ended' if code is None else f'ended with exit code {code}'}"
        said = users(lines) if code in (2, STOPPED) else []
        if said:
            brief = details = "\n".join([f"stage {stage}: {said[0]}", *said[1:]])
        else:
            own = [line for line in lines if line.strip() and not line.startswith("ERROR: failed to reproduce")]
            brief = f"{how}: {own[-1] if own else 'it said nothing'}"
            details = "\n".join([f"{how}. Its last lines:", *(f"  {line}" for line in lines)])
        super().__init__(brief)
        self.details = details


class PipelineFailed(Exception):
    """Says that stages failed; `details` have their last lines.

    `failed` are the errors; `code` is 2 if the user can mend all of it, 75 if all were stopped, else 1.
    """

    def __init__(self, failed: list[BaseException], left: list[str]) -> None:
        self.failed = failed
        codes = {2 if isinstance(e, UserError) else e.code if isinstance(e, StageFailed) else None for e in failed}
        self.code = next((code for code in (2, STOPPED) if codes == {code}), 1)
        rest = [f"Not run, since they need it: {', '.join(left)}."] if left else []
        super().__init__("\n".join([*map(str, failed), *rest]))
        self.details = "\n".join([*(e.details if isinstance(e, StageFailed) else str(e) for e in failed), *rest])


def users(lines: list[str]) -> list[str]:
    """Returns the message for the user at the end of a stage's output: from `error: ` to DVC's own last words."""
    starts = [n for n, line in enumerate(lines) if line.startswith("error: ")]
    if not starts:
        return []
    said = lines[starts[-1] :]
    end = next((n for n, line in enumerate(said) if line.startswith("ERROR: ")), len(said))
    return [said[0].removeprefix("error: "), *said[1:end]]


def may_retry(task: Task, run: TaskRun, state: State) -> bool:
    """Tells whether a failed stage is worth another try: not where the user has to mend something.

    One that was stopped (75) goes on where it was: its machine was taken from it, or a service didn't answer. A
    cancelled flow doesn't get here.
    """
    error = state.result(raise_on_failure=False)
    return not (isinstance(error, StageFailed) and error.code == 2)


def never(task: Task, run: TaskRun, state: State) -> bool:
    """Tells that a failed stage isn't tried again: of a task without retries Prefect logs a traceback of nothing."""
    return False


@task(cache_policy=NO_CACHE, persist_result=False, retry_condition_fn=may_retry)
def run_stage(name: str, timeout: float | None = None) -> State | None:
    """Lets DVC run a stage if it's needed, its output in this task's log; `timeout` in seconds.

    Returns a state named Cached where nothing was computed, a failed one with a StageFailed where it failed (raised,
    Prefect would log a traceback of this file), else nothing: to Prefect equal results of two tasks would be a
    dependency between them.
    """
    log, meter = get_run_logger(), Meter(name)
    last: deque[str] = deque(maxlen=LAST_LINES)

    def on_line(line: str) -> None:
        last.append(line)
        if not SKIPPED.fullmatch(line) and not CLOSING.fullmatch(line) and line.strip():
            log.info(line)
        meter.see(line)

    start = time.monotonic()
    environment = {
        "PATH": dag.own_path(),
        "PYTHONUNBUFFERED": "1",
        "DIFFALIGN_LAUNCH": f"prefect-{flow_run.id}",
    }
    try:
        code = run_group([*dag.DVC, "repro", "--single-item", name], on_line, timeout, **environment)
    except TimeoutError as error:
        return failed(StageFailed(name, None, [*last, str(error)]))
    output = "\n".join(last)
    if code:
        inner = re.search(r"exited with (-?\d+)", output)
        return failed(StageFailed(name, int(inner[1]) if inner else code, list(last)))
    if "cached - skipping run" in output or "didn't change, skipping" in output:
        how = "restored" if "cached - skipping run" in output else "unchanged"
        if how == "restored":
            timings.record(name, time.monotonic() - start, cached=True)
        log.info("%s: %s, nothing was computed", name, how)
        return Completed(name=CACHED, message=f"{how}: nothing was computed")
    return None


def failed(error: Exception) -> State:
    """Returns the failed state of a task or flow, with the error's message and without a traceback."""
    return Failed(message=str(error), data=error)


def start(name: str, needs: list[State], retries: int, timeout_hours: float) -> State:
    """Runs a stage as a task once those that it needs have ended, tried again `retries` times; returns its end."""
    base, _, key = name.partition("@")
    stage = run_stage.with_options(
        name=name,
        task_run_name=name,
        tags=[base, key] if key else [base],
        retries=max(retries, 1),
        retry_condition_fn=may_retry if retries else never,
        retry_delay_seconds=RETRY_DELAY,
    )
    return stage(name, timeout_hours * 3600 or None, return_state=True, wait_for=needs)
