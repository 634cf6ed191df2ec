"""Mirrors the pipeline to MLflow: a run for each pipeline run, with a child for each stage.

Stages write files and know nothing of this. A child is keyed by its stage's fingerprint, its parent by the DAG's, both
of dvc.lock; so bringing the same state twice adds nothing.
"""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from diffalign.core.errors import Stopped, UserError
from diffalign.core.files import lock, sha256_file, write_json
from diffalign.runtime import switches, timings
from diffalign.runtime.processes import bound, end_group
from diffalign.tracking import artifacts, dag, run_records, summary
from diffalign.tracking.live import Live
from diffalign.tracking.location import is_active, is_local, place, shown, uri
from diffalign.tracking.mlflow_store import COMPLETE, DAG, FINGERPRINT, SAME, Store


@contextmanager
def stage_run(stage: str, params: dict[str, Any]) -> Iterator[None]:
    """Shows a stage in MLflow while the body runs: its params, its curve and, at the end, its outs.

    `params` is the whole of params.yaml. Short stages and outages are left to `sync`. DIFFALIGN_TRACKING=0 turns
    it off.
    """
    if off():
        yield
        return
    mirror = Live(stage, params, Store)
    mirror.start()
    status, reason = "FAILED", ""
    try:
        yield
        status = "FINISHED"
    except (KeyboardInterrupt, Stopped):
        status = "KILLED"
        raise
    except UserError as error:
        reason = str(error)
        raise
    finally:
        mirror.finish(status, reason)


def off() -> bool:
    """Tells whether DIFFALIGN_TRACKING switches the mirror off."""
    return switches.read("DIFFALIGN_TRACKING") is False


def sync() -> str:
    """Brings MLflow up to date with dvc.lock and the outs on disk; returns what to tell the user.

    Fast, without MLflow, where nothing is new. Raises Unreachable if MLflow is away, UserError where outs are missing.
    """
    if off():
        return "MLflow is switched off by DIFFALIGN_TRACKING"
    if not dag.lock():
        return "Nothing to bring to MLflow yet: dvc.lock isn't there. Make it: dvc repro"
    # The absolute address: a project that was moved isn't up to date, its artifacts' addresses are to be corrected.
    state = {"uri": shown(uri()), "lock": sha256_file(Path("dvc.lock"))}
    if path := _up_to_date(state):
        return f"MLflow is up to date: {base_link()}/{path}"
    run_records.FOLDER.mkdir(parents=True, exist_ok=True)
    with lock(run_records.FOLDER):
        return _sync(Store(), state)


def _up_to_date(state: dict[str, str]) -> str | None:
    """Returns the path of MLflow's page if a sync has noted this very state, and nothing happened since."""
    if not summary.SYNCED.exists():
        return None
    synced = summary.synced()
    noted = {key: synced.get(key) for key in state} == state and "experiment" in synced
    if noted and all(map(settled, run_records.read(place()))):
        return str(synced["path"]) if not is_local() or is_active(synced["experiment"]) else None
    return None


def settled(record: run_records.Record) -> bool:
    """Tells whether nothing is left to tell MLflow about a run that was shown live."""
    return bool(record["closed"] and (record["fingerprint"] or record["status"] != "FINISHED"))


def _sync(store: Store, state: dict[str, str]) -> str:
    locked = {name: dag.lock()[name] for name in dag.graph() if name in dag.lock() and name != dag.CHECK}
    found = store.settle(locked)
    if busy := [record["stage"] for record in found if run_records.running(record)]:
        return f"{', '.join(busy)} is running and shown live in MLflow; the rest after it ends: python pipeline.py sync"
    missing = [out["path"] for entry in locked.values() for out in entry["outs"] if not Path(out["path"]).exists()]
    if missing:
        raise UserError(f"Outs in dvc.lock aren't on disk: {', '.join(missing)}. Bring them: dvc checkout, or dvc pull")
    parent = _parent(store, locked, found)
    children = {run.data.tags.get(FINGERPRINT): run for run in store.search(mlflow__parentRunId=parent)}
    times, new = timings.newest(), 0
    for name, entry in locked.items():
        child = children.get(dag.fingerprint(entry))
        if child is None or COMPLETE not in child.data.tags:
            _mirror(store, parent, name, entry, child, times.get(name))
            new += 1
    if new or not store.search(diffalign__dag=dag.fingerprint(locked), diffalign__complete="true"):
        _finish_parent(store, parent, locked)
    path = f"#/experiments/{store.experiment}/runs"
    link = f"{base_link()}/{path}"
    write_json(summary.SYNCED, {**state, "experiment": store.experiment, "path": path, "link": link, "run": parent})
    return f"MLflow: {new} of {len(locked)} stages brought there\n  all runs   {link}\n  this one   {link}/{parent}"


def _parent(store: Store, locked: dict[str, Any], found: list[run_records.Record]) -> str:
    """Returns the id of this state's pipeline run: the one that has it, the live one that made it, or a new one."""
    fingerprint = dag.fingerprint(locked)
    if runs := store.search(diffalign__dag=fingerprint):
        return str(runs[0].info.run_id)
    prints = {dag.fingerprint(entry) for entry in locked.values()}
    for record in reversed(found):
        if record["fingerprint"] in prints:
            if DAG not in store.tags(record["parent_id"]):
                store.set_tags(record["parent_id"], {DAG: fingerprint})
                return str(record["parent_id"])
            break
    return store.create(time.strftime("pipeline %Y-%m-%d %H:%M"), {DAG: fingerprint}, time.time())


def _mirror(
    store: Store, parent: str, name: str, entry: dict[str, Any], child: Any, timing: dict[str, Any] | None
) -> None:
    """Completes a stage's run, making it if it isn't there. Models and images are kept once for a fingerprint."""
    fingerprint = dag.fingerprint(entry)
    elsewhere = store.search(diffalign__fingerprint=fingerprint, diffalign__complete="true")
    same = elsewhere[0].data.tags.get(SAME, elsewhere[0].info.run_id) if elsewhere else None
    seconds = timing["seconds"] if timing else None
    ended = datetime.fromisoformat(timing["at"]).timestamp() if timing else time.time()
    paths = [out["path"] for out in entry["outs"]]
    params = {k: v for group in entry.get("params", {}).values() for k, v in group.items()}
    run_id = child.info.run_id if child else None
    if run_id is None:
        tags = {"diffalign__fingerprint": fingerprint} | ({"diffalign__same_as": same} if same else {})
        run_id = store.child(parent, name, params, ended - (seconds or 0), **tags)
    if alarms := artifacts.alarm_text(artifacts.points(paths), params):
        store.describe(run_id, alarms)
    store.complete(run_id, paths, seconds, heavy=same is None)
    store.close(run_id, "FINISHED", ended)


def _finish_parent(store: Store, parent: str, locked: dict[str, Any]) -> None:
    """Gives the pipeline's run the params, the results, the report, and the summary as its description."""
    params = {k: v for entry in locked.values() for group in entry.get("params", {}).values() for k, v in group.items()}
    store.log_params(parent, params)
    paths = [out["path"] for name in ("evaluate", "report") for out in locked.get(name, {}).get("outs", [])]
    if summary.EVALUATION.exists():
        store.describe(parent, summary.markdown())
    store.complete(parent, paths, None)
    store.close(parent, "FINISHED")


def base_link(port: int = 5000) -> str:
    """Returns the address of MLflow's pages: the server's, or where `pipeline.py ui` shows the local database.

    `DIFFALIGN_MLFLOW_UI` names it where people reach the server by another address than the stages do.
    """
    here = place().rstrip("/") if uri().startswith("http") else f"http://127.0.0.1:{port}"
    return switches.read("DIFFALIGN_MLFLOW_UI") or here


def serve_ui(port: int) -> None:
    """Serves the UI on loopback until stopped; with a server elsewhere there's nothing to serve."""
    if uri().startswith("http"):
        return
    with socket.socket() as probe:
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise UserError(f"Port {port} is in use, perhaps by MLflow. Choose another: python pipeline.py ui --port N")
    command = [sys.executable, "-m", "mlflow", "ui", "--backend-store-uri", uri(), "--host", "127.0.0.1"]
    command += ["--port", str(port), "--workers", "1", "--uvicorn-opts", "--log-level warning"]
    env = {**os.environ, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
    process = subprocess.Popen(bound(command), env=env, start_new_session=True, text=True)
    try:
        process.wait()
    finally:  # Ctrl-C comes up here only, and ends it without its tracebacks
        end_group(process)
