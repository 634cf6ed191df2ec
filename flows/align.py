"""Runs the DAG of dvc.yaml as a Prefect flow: Prefect decides when, DVC decides whether, the stage decides what."""

import json
import os
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from uuid import UUID

from prefect import State, flow, get_client, get_run_logger, tags
from prefect.runtime import flow_run
from prefect.states import Completed

from diffalign.core.errors import UserError
from diffalign.core.home import COMMAND
from diffalign.runtime import timings
from diffalign.runtime.processes import run_group
from diffalign.tracking import dag
from flows import artifacts, names
from flows.stage import CACHED, PipelineFailed, failed, start

PARTIAL = "Partial"
"""Name of the state of a flow run that was asked for some policies only, and left what else was due."""


@flow(name="align", flow_run_name=names.run_name, log_prints=True)
def align(
    policies: list[str] | None = None,
    preset: str | None = None,
    overrides: dict[str, Any] | None = None,
    retries: int = 1,
    timeout_hours: float = 0,
) -> State | None:
    """Runs each stage of `dvc dag` that isn't up to date as a task, in order.

    Stages that don't need a failed one still run. Returns a failed state with PipelineFailed where one failed. One at a
    time, since a stage uses all the devices of its machine.

    Args:
        policies: Those to train and to sample, the others stay as they are; none: all.
        preset: A file in presets/, without .yaml, that replaces params.yaml; one edited by hand is refused.
        overrides: Values written into params.yaml first, by paths such as policies.dpo.beta; the file before is kept.
        retries: How often a failed stage is tried again.
        timeout_hours: What a stage may take; 0: no limit.
    """
    os.chdir(names.project())
    try:
        write_params(preset, overrides or {})
        with tags(*mark(preset, policies)):
            return run_stages(plan(policies), retries, timeout_hours)
    except UserError as error:
        return failed(PipelineFailed([error], []))


def ending(state: State) -> PipelineFailed | None:
    """Returns the error with which the flow ended, None where it's done; raises what ended it otherwise."""
    if state.is_completed():
        return None
    error = state.result(raise_on_failure=False)
    return error if isinstance(error, PipelineFailed) else state.result()


class Walk:
    """Decides stage by stage, in the graph's order, what is done: as DVC would, without starting it for each."""

    def __init__(self, needs: dict[str, list[str]], changed: set[str], others: set[str]) -> None:
        """Takes the graph, the stages that differ from dvc.lock, and those of policies that weren't asked for."""
        self.needs, self.changed, self.others = needs, changed, others
        self.due: list[str] = []
        self.left: list[str] = []
        """Those that would be due and are other policies', and all that need them."""
        self.unchanged: list[str] = []
        self.moved: set[str] = set()
        """Those that made other outs than before, and those that failed: what needs them is due."""

    def is_due(self, name: str) -> bool:
        """Tells whether DVC is to be asked for the next stage, and notes what is done with it."""
        before = set(self.needs[name])
        due = name in self.changed or bool(before & self.moved)
        if before & {*self.left} or (due and name in self.others):
            self.left.append(name)
            return False
        (self.due if due else self.unchanged).append(name)
        return due


def plan(policies: list[str] | None) -> Walk:
    """Asks DVC for the graph and for what changed, at the same time: each takes a second or so to start.

    Raises UserError for a policy that has no stages.
    """
    with ThreadPoolExecutor(2) as pool:
        changed, needs = pool.submit(dag.changed), dag.graph()
        owners = dag.of_policies(needs)
        return Walk(needs, changed.result(), others(owners, policies))


def others(owners: dict[str, str], policies: list[str] | None) -> set[str]:
    """Returns the stages of policies that weren't asked for; `owners` maps stages of one policy to it."""
    if unknown := set(policies or ()).difference(owners.values()):
        known = ", ".join(dict.fromkeys(owners.values()))
        raise UserError(f"policies: expected some of {known}, got {', '.join(sorted(unknown))}.")
    return {name for name, owner in owners.items() if policies and owner not in policies}


def run_stages(walk: Walk, retries: int, timeout_hours: float) -> State | None:
    """Runs the stages that are due, then shows what came of it; returns a failed state where one failed."""
    log = get_run_logger()
    states: dict[str, State] = {}
    made = outs()
    for name, before in walk.needs.items():
        if not walk.is_due(name):
            continue
        states[name] = start(name, [states[need] for need in before if need in states], retries, timeout_hours)
        now = outs()
        if not states[name].is_completed() or now.get(name) != made.get(name):
            walk.moved.add(name)
        made = now
    if walk.unchanged:
        log.info("unchanged, %s of %s stages: %s", len(walk.unchanged), len(walk.needs), ", ".join(walk.unchanged))
    if states:
        mirror()
    artifacts.show_stages([row(name, walk, states) for name in walk.needs])
    errors = [state.result(raise_on_failure=False) for state in states.values() if state.is_failed()]
    if errors:
        return failed(PipelineFailed(errors, [name for name, state in states.items() if not state.is_final()]))
    if walk.left:
        said = f"Left as they are, other policies' stages and what needs them: {', '.join(walk.left)}."
        return Completed(name=PARTIAL, message=said)
    artifacts.show_results(pictures=bool(states))
    return None


def outs() -> dict[str, dict[str, str]]:
    """Returns the checksums of each stage's outs, as dvc.lock has them now."""
    return {name: dag.checksums(entry.get("outs", [])) for name, entry in dag.lock().items()}


def row(name: str, walk: Walk, states: dict[str, State]) -> dict[str, str]:
    """Returns a row of the table of stages: what was done with it, and the seconds that it took when it last ran."""
    state = states.get(name)
    took = timings.newest().get(name)
    if state is None:
        done = "left as it is" if name in walk.left else "unchanged"
    elif state.name == CACHED:
        done = str(state.message).partition(":")[0]
    else:
        done = "ran" if state.is_completed() else "failed" if state.is_failed() else "not run"
    return {"stage": name, "what": done, "seconds when it last ran": f"{took['seconds']:.1f}" if took else ""}


def write_params(preset: str | None, overrides: dict[str, Any]) -> None:
    """Writes params.yaml where the run's parameters ask for it, and says so; raises UserError where that can't be."""
    if not preset and not overrides:
        return
    changes = [f"{key}={json.dumps(value)}" for key, value in overrides.items()]
    lines: list[str] = []
    command = [*names.COMMAND_LINE, "set", *(["--preset", preset] if preset else []), "--", *changes]
    code = run_group(command, lines.append)
    if code:
        raise UserError("\n".join(lines).removeprefix("error: "))
    get_run_logger().info("\n".join(lines))


def mark(preset: str | None, policies: list[str] | None) -> list[str]:
    """Gives the flow run its tags, which its tasks get too: what is trained, and on which model; returns them."""
    trained, model = names.about(preset, policies)
    found = [*trained, *([model] if model else []), *([f"preset:{preset}"] if preset else [])]
    with get_client(sync_client=True) as client:
        client.update_flow_run(UUID(flow_run.id), tags=sorted({*flow_run.tags, *found}))
    return found


def mirror() -> None:
    """Brings MLflow up to date; if it's away, the log says so and the pipeline's success stands."""
    log = get_run_logger()
    code = run_group([*names.COMMAND_LINE, "sync"], log.info)
    if code:
        log.warning("MLflow wasn't brought up to date (exit code %s); later: %s sync", code, COMMAND)
