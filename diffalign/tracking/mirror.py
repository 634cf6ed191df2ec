"""Brings a state of the pipeline to MLflow: the pipeline's run, runs of stages that have none, results of policies."""

import time
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from diffalign.core.errors import UserError
from diffalign.evaluation import results
from diffalign.runtime import timings
from diffalign.tracking import artifacts, dag, outcomes, pictures, registry, run_records
from diffalign.tracking.mlflow_store import COMPLETE, DAG, PARENT, Store

Locked = Mapping[str, dict[str, Any]]
"""Entries of dvc.lock by stage, without the report's."""
REPORTS = Path("reports")


def bring(store: Store, locked: Locked, found: list[run_records.Record], again: bool) -> tuple[int, str]:
    """Brings what is missing; returns how many stages were brought, and the id of the pipeline's run.

    `found` are the records of live runs; `again` tells of results and the report also where nothing is new. Raises
    UserError where outs of a stage without a run are missing.
    """
    known = {name: known_run(store, entry) for name, entry in locked.items()}
    check_outs({name: locked[name] for name, run in known.items() if not is_complete(run)})
    parent, times = parent_of(store, locked, found), timings.newest()
    runs, new = {}, 0
    for name, entry in locked.items():
        run = known[name]
        new += not is_complete(run)
        runs[name] = run if is_complete(run) else store.run(stage_run(store, parent, name, entry, run, times.get(name)))
    if not (new or again) and is_complete(store.run(parent)):
        return new, parent
    measured = results.STAGE in locked and results.FILE.exists() and not dag.out_of_date(results.STAGE)
    if measured:
        tell_policies(store, runs)
    finish(store, parent, locked, runs, measured)
    return new, parent


def known_run(store: Store, entry: dict[str, Any]) -> Any:
    """Returns the run that has a stage's result, a complete one rather than another; None where there is none."""
    found = store.search(diffalign__fingerprint=dag.fingerprint(entry))
    return next((run for run in found if is_complete(run)), found[0] if found else None)


def is_complete(run: Any) -> bool:
    """Tells whether a run has all that it should."""
    return run is not None and COMPLETE in run.data.tags


def check_outs(entries: Locked) -> None:
    """Raises UserError where outs that are to be shown aren't on the disk."""
    missing = [out["path"] for entry in entries.values() for out in entry["outs"] if not Path(out["path"]).exists()]
    if missing:
        raise UserError(f"Outs in dvc.lock aren't on disk: {', '.join(missing)}. Bring them: dvc checkout, or dvc pull")


def parent_of(store: Store, locked: Locked, found: list[run_records.Record]) -> str:
    """Returns the id of this state's pipeline run: the one that has it, the live one that made it, or a new one."""
    fingerprint = dag.fingerprint(locked)
    if runs := store.search(diffalign__dag=fingerprint):
        return str(runs[0].info.run_id)
    prints = {dag.fingerprint(entry) for entry in locked.values()}
    for record in reversed(found):
        if record["fingerprint"] in prints:
            if DAG not in store.run(record["parent_id"]).data.tags:
                store.set_tags(record["parent_id"], {DAG: fingerprint})
                return str(record["parent_id"])
            break
    return store.pipeline(params_of(*locked.values()), {DAG: fingerprint})


def params_of(*entries: dict[str, Any]) -> dict[str, Any]:
    """Returns the params of some stages as dvc.lock has them, by the names that dvc.yaml gives them.

    A policy's own, `policies.dpo`, come after the section `policies`, which a later stage may have of an earlier run.
    """
    found = {k: v for entry in entries for group in entry.get("params", {}).values() for k, v in group.items()}
    return dict(sorted(found.items(), key=lambda item: item[0].count(".")))


def stage_run(
    store: Store, parent: str, name: str, entry: dict[str, Any], run: Any, timing: dict[str, Any] | None
) -> str:
    """Completes a stage's run, making it if it isn't there; returns its id."""
    seconds = timing["seconds"] if timing else 0
    ended = datetime.fromisoformat(timing["at"]).timestamp() if timing else time.time()
    paths, params = [out["path"] for out in entry["outs"]], params_of(entry)
    if run is None:
        run_id = store.child(parent, name, params, ended - seconds, diffalign__fingerprint=dag.fingerprint(entry))
    else:
        run_id = str(run.info.run_id)
    if alarms := artifacts.alarm_text(artifacts.points(paths), params):
        store.describe(run_id, alarms)
    complete(store, run_id, name, paths)
    store.close(run_id, "FINISHED", ended)
    return run_id


def complete(store: Store, run_id: str, name: str, paths: list[str]) -> None:
    """Logs what is missing of a stage's outs, pictures, models and data set, and marks its run as complete."""
    store.log_outs(run_id, paths)
    for path in paths:
        pictures.log_probes(store, run_id, Path(path) / "probe")
    registry.log_data(store, run_id, name)
    registry.log_weights(store, run_id, paths)
    store.set_tags(run_id, {COMPLETE: "true"})


def tell_policies(store: Store, runs: Mapping[str, Any]) -> None:
    """Logs each policy's results on the run of its training, where they differ from what stands there."""
    evaluation, people, data = results.read(), outcomes.people(), registry.comparisons()
    for name, run in runs.items():
        base, _, policy = name.partition("@")
        found = outcomes.of_policy(evaluation, people, policy) if base == "train" else {}
        new = {key: value for key, value in found.items() if run.data.metrics.get(key) != value}
        if new:
            registry.log_results(store, run.info.run_id, run.data.tags.get(registry.MODEL), new, data)


def finish(store: Store, parent: str, locked: Locked, runs: Mapping[str, Any], measured: bool) -> None:
    """Gives the pipeline's run its params, its page and, where policies were measured, the report."""
    store.log_params(parent, params_of(*locked.values()))
    own = {name: run.info.run_id for name, run in runs.items() if run.data.tags.get(PARENT) == parent}
    earlier = {name: run.info.run_id for name, run in runs.items() if name not in own}
    if measured and REPORTS.exists():
        store.log_files(parent, [(REPORTS, "report")])
    store.describe(parent, outcomes.page(store.experiment, parent, own, earlier, measured))
    store.set_tags(parent, {COMPLETE: "true"})
    store.close(parent, "FINISHED")
