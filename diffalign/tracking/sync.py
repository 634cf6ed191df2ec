"""Mirrors the pipeline to MLflow: a run for each pipeline run, with a child for each stage.

Stages write files and know nothing of this. A child is keyed by its stage's fingerprint, its parent by that of all
stages but the report, both of dvc.lock; so bringing the same state twice adds nothing, and a stage that didn't run
again has no new run: the parent's page links to the earlier one.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from diffalign.core.errors import Stopped, UserError
from diffalign.core.files import lock, write_json
from diffalign.core.home import COMMAND
from diffalign.runtime import switches
from diffalign.tracking import dag, mirror, pages, run_records, summary
from diffalign.tracking.live import Live
from diffalign.tracking.location import is_active, is_local, place, shown, uri
from diffalign.tracking.mlflow_store import Store

LAST = "report"
"""The last stage. It has no run: what it makes is shown with the pipeline's run."""


@contextmanager
def stage_run(stage: str, params: dict[str, Any]) -> Iterator[None]:
    """Shows a stage in MLflow while the body runs: its params, its curve and, at the end, its outs.

    `params` is the whole of params.yaml. Short stages and outages are left to the report, the last stage, at whose end
    MLflow is told of all, or to `sync`. DIFFALIGN_TRACKING=0 turns it off.
    """
    if off():
        yield
        return
    if stage == LAST:
        yield
        tell()
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


def tell() -> None:
    """Brings all to MLflow at the end of the report; a warning where that fails, since the report stands."""
    try:
        sys.stderr.write(f"{sync(again=True)}\n")
    except UserError as error:
        sys.stderr.write(f"warning: MLflow isn't up to date: {error}\n")


def sync(again: bool = False) -> str:
    """Brings MLflow up to date with dvc.lock and the outs on disk; returns what to tell the user.

    Fast, without MLflow, where nothing is new; `again` brings the report once more. Raises Unreachable if MLflow is
    away, UserError where outs are missing.
    """
    if off():
        return "MLflow is switched off by DIFFALIGN_TRACKING"
    locked = {name: entry for name, entry in dag.current().items() if name not in (dag.CHECK, LAST)}
    if not locked:
        return "Nothing to bring to MLflow yet: dvc.lock isn't there. Make it: dvc repro"
    # The absolute address: a project that was moved isn't up to date, its artifacts' addresses are to be corrected.
    state = {"uri": shown(uri()), "dag": dag.fingerprint(locked)}
    if not again and (path := _up_to_date(state)):
        return f"MLflow is up to date: {pages.told(f'{pages.base()}/{path}')}"
    run_records.FOLDER.mkdir(parents=True, exist_ok=True)
    with lock(run_records.FOLDER):
        return _sync(Store(), locked, state, again)


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


def _sync(store: Store, locked: dict[str, Any], state: dict[str, str], again: bool) -> str:
    found = store.settle(locked)
    if busy := [record["stage"] for record in found if run_records.running(record)]:
        return f"{', '.join(busy)} is running and shown live in MLflow; the rest after it ends: {COMMAND} sync"
    new, parent = mirror.bring(store, locked, found, again)
    path, own = pages.page(store.experiment), pages.page(store.experiment, parent)
    link = f"{pages.base()}/{path}"
    write_json(summary.SYNCED, {**state, "experiment": store.experiment, "path": path, "link": link, "run": parent})
    return (
        f"MLflow: {new} of {len(locked)} stages brought there\n  all runs   {pages.told(link)}\n"
        f"  this one   {pages.base()}/{own}"
    )
