"""Promotes a policy: registers it in MLflow as a whole model, and moves an alias to it, `champion` only by the gate."""

import re
import shutil
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.core.errors import UserError
from diffalign.core.files import RUNS, hash_folder, lock
from diffalign.core.home import COMMAND
from diffalign.core.publishing import set_modes
from diffalign.evaluation import results, verdicts
from diffalign.evaluation.verdicts import PolicyRulings
from diffalign.models import export
from diffalign.reporting import card_file, card_text
from diffalign.tracking import dag, outcomes, registry
from diffalign.tracking.mlflow_store import FINGERPRINT, Store
from diffalign.tracking.registry import Upload
from diffalign.tracking.sync import off, sync

CHAMPION = "champion"
POLICIES = Path("models/policies")
POLICY, WEIGHTS, GATE = "diffalign.policy", "diffalign.weights", "diffalign.gate"
"""Tags of a version: which policy it is, the checksum of its folder, and its verdict at the gate."""
LOADING = 'mlflow.artifacts.download_artifacts("models:/{name}@{alias}"), then diffusers\' from_pretrained'
ALIAS = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True)
class Wanted:
    """A policy that is to be promoted, and where its parts are."""

    policy: str
    name: str
    """The registered model's."""
    alias: str
    family: str
    model: Path
    """The base model's folder."""


def promote(wanted: Wanted) -> str:
    """Registers a policy and moves the alias to it; returns what to tell the user.

    A policy that is registered already isn't copied again. Raises UserError where the gate hasn't passed it and the
    alias is champion, where results aren't up to date, and where MLflow is away or switched off.
    """
    check_alias(wanted.alias)
    if stale := dag.out_of_date(verdicts.STAGE):
        more = f" and {len(stale) - 3} more" if len(stale) > 3 else ""
        raise UserError(
            "promote: expected results of what is there now; these differ from dvc.lock: "
            f"{', '.join(stale[:3])}{more}. Run `dvc repro gate` first."
        )
    rulings = gate_of(wanted.policy)
    if wanted.alias == CHAMPION:
        check_gate(wanted.policy, rulings)
    sync()  # the training's run is the model's source
    return register(wanted, rulings, Store())


def check_alias(alias: str) -> None:
    """Raises UserError for switched-off tracking, and for an alias that MLflow wouldn't take."""
    if off():
        raise UserError("promote: MLflow is switched off by DIFFALIGN_TRACKING; unset it.")
    if not ALIAS.fullmatch(alias) or re.fullmatch(r"(?i)latest|v\d+", alias):
        raise UserError(f"--alias: expected letters, digits, - and _, not latest and not v1, got {alias!r}")


def gate_of(policy: str) -> PolicyRulings | None:
    """Returns the gate's rulings on a policy; None on the baseline, which the others are compared with."""
    return next((found for found in verdicts.read().policies if found.policy == policy), None)


def check_gate(policy: str, rulings: PolicyRulings | None) -> None:
    """Raises UserError, with the table of conditions, unless the gate has passed a policy."""
    if rulings is None:
        raise UserError(f"promote: {policy} is the baseline, which the gate doesn't rule on. Use --alias NAME for it.")
    if rulings.verdict != "passed":
        raise UserError(
            f"promote: expected a policy that passes the gate; champion stays where it is.\n{verdicts.table(rulings)}\n"
            f"The conditions stand in params.yaml under gate. Without the gate: promote {policy} --alias challenger"
        )


def register(wanted: Wanted, rulings: PolicyRulings | None, store: Store) -> str:
    """Registers a policy that may be promoted, and moves the alias; returns what to tell the user."""
    folder = POLICIES / wanted.policy
    identity = {POLICY: wanted.policy, WEIGHTS: hash_folder(folder)}
    verdict = {GATE: "none" if rulings is None else rulings.verdict}
    version = registry.find_version(store, wanted.name, identity)
    if version is None:
        version = upload(wanted, store, identity | verdict)
    before = registry.set_alias(store, wanted.name, wanted.alias, version, verdict)
    return moved(wanted.name, wanted.alias, str(version.version), before, wanted.policy)


def upload(wanted: Wanted, store: Store, tags: Mapping[str, str]) -> Any:
    """Makes the whole model folder, registers it and removes it; returns the new version."""
    work = RUNS / f"promote-{wanted.policy}"
    work.mkdir(parents=True, exist_ok=True)
    with lock(work):
        out = work / "out"
        shutil.rmtree(out, ignore_errors=True)  # of an attempt that was killed
        out.mkdir()
        export.write_pipeline(wanted.family, wanted.model, POLICIES / wanted.policy, out)
        if card := card_file.read(wanted.policy, POLICIES / wanted.policy):
            card_text.write(card, out, f"`{LOADING.format(name=wanted.name, alias=wanted.alias)}`")
        set_modes(out)  # safetensors writes files that their owner alone can read
        figures = outcomes.of_policy(results.read(), outcomes.people(), wanted.policy)
        found = registry.register(
            store,
            source_run(store, wanted.policy),
            out,
            Upload(wanted.name, wanted.policy, tags, figures, registry.comparisons()),
        )
        shutil.rmtree(work)
    return found


def source_run(store: Store, policy: str) -> str:
    """Returns the id of the training's run in MLflow, by dvc.lock's fingerprint; else of a run of its own."""
    entry = dag.lock().get(f"train@{policy}")
    found = store.search(**{FINGERPRINT.replace(".", "__"): dag.fingerprint(entry)}) if entry else []
    if found:
        return str(found[0].info.run_id)
    run_id = store.create(f"promote {policy}", {}, time.time())
    store.close(run_id, "FINISHED")
    return run_id


def go_back(name: str, alias: str, number: int, policy: str) -> str:
    """Moves an alias to a version that was registered before; champion only to one that has passed the gate."""
    check_alias(alias)
    if policy:
        raise UserError(f"promote: expected a policy or --to-version, got both, {policy} and {number}")
    store = Store()
    version = registry.version_of(store, name, number)
    if alias == CHAMPION and version.tags.get(GATE) != "passed":
        raise UserError(
            f"promote: expected a version that has passed the gate, version {number} of {name} has the verdict "
            f"{version.tags.get(GATE, 'none')}; champion stays where it is"
        )
    before = registry.set_alias(store, name, alias, version, {})
    return moved(name, alias, str(number), before, version.tags.get(POLICY, "?"))


def moved(name: str, alias: str, version: str, before: str | None, policy: str) -> str:
    """Returns what to tell the user of an alias that was moved, and how to load the model."""
    was = "" if before in (None, version) else f", before it was version {before}"
    back = "" if not was else f"\n  back: {COMMAND} promote --to-version {before} --alias {alias}"
    return (
        f"models:/{name}@{alias} is {policy}, version {version}{was}\n"
        f"  load: {LOADING.format(name=name, alias=alias)}{back}"
    )
