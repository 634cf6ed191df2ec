"""Puts models into MLflow: logged models with their metrics and data set, versions in the registry, aliases."""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffalign.core import records
from diffalign.core.errors import UserError
from diffalign.tracking import artifacts, dag
from diffalign.tracking.location import uri
from diffalign.tracking.mlflow_store import Store, reaching

ADDRESS = "MLFLOW_TRACKING_URI"
COMPARISONS, INGEST = "data/comparisons", Path("metrics/ingest.json")
MODEL = "diffalign.model"
"""Tag of a run: the logged model that it made."""
USES = {"train": "training", "reward": "training", "evaluate": "evaluation"}
"""Stages whose runs show the comparisons as their data set, and what for."""


@dataclass(frozen=True)
class DataSet:
    """The comparisons that a model was trained on, as MLflow shows them."""

    name: str
    digest: str
    """At most 36 characters."""
    path: str
    profile: Mapping[str, Any]
    """Its size and the like."""


@dataclass(frozen=True)
class Upload:
    """What is to be registered."""

    name: str
    """The registered model's."""
    policy: str
    tags: Mapping[str, str]
    """Of the version; `identity` is among them."""
    metrics: Mapping[str, float]
    data: DataSet | None


def comparisons() -> DataSet | None:
    """Describes the comparisons as dvc.lock has them, without reading them; None before there are any."""
    entry = dag.lock().get("ingest", {})
    digest = dag.checksums(entry.get("outs", [])).get(COMPARISONS)
    if digest is None:
        return None
    path = str(entry.get("params", {}).get("params.yaml", {}).get("data", {}).get("path", COMPARISONS))
    return DataSet(Path(path).name, digest.removesuffix(".dir"), path, profile())


def profile() -> dict[str, int | str]:
    """Returns what ingest counted; nothing where it has no metrics."""
    counts = records.plain(INGEST, (), artifacts.AGAIN) if INGEST.exists() else {}
    return {name: value for name, value in counts.items() if isinstance(value, int | str)}


def find_version(store: Store, name: str, tags: Mapping[str, str]) -> Any | None:
    """Returns the newest version of a registered model that has all the tags; None where there is none."""
    with reaching():
        found = store.client.search_model_versions(f"name = '{name}'")
    fitting = [version for version in found if tags.items() <= version.tags.items()]
    return max(fitting, key=lambda version: int(version.version), default=None)


def version_of(store: Store, name: str, number: int) -> Any:
    """Returns a version by its number; UserError naming those that are there."""
    with reaching():
        found = {int(v.version): v for v in store.client.search_model_versions(f"name = '{name}'")}
    if number not in found:
        raise UserError(
            f"promote: expected one of the versions {', '.join(map(str, sorted(found))) or 'none so far'} of {name} in "
            f"MLflow at {store.place}, got {number}"
        )
    return found[number]


def register(store: Store, run_id: str, folder: Path, upload: Upload) -> Any:
    """Logs a model folder as a model of a run, links its metrics and data set, and returns its new version."""
    sys.stderr.write(f"promote: copies {folder} to MLflow at {store.place}\n")
    model_id = log_model(store, run_id, f"{upload.policy}-pipeline", folder, upload.tags)
    log_results(store, run_id, model_id, upload.metrics, upload.data)
    with reaching():
        if not store.client.search_registered_models(f"name = '{upload.name}'"):
            store.client.create_registered_model(upload.name)
        with as_default(uri()):
            return store.client.create_model_version(
                upload.name,
                source=f"models:/{model_id}",
                run_id=run_id,
                model_id=model_id,
                tags=dict(upload.tags),
            )


def log_model(
    store: Store,
    run_id: str,
    name: str,
    folder: Path,
    tags: Mapping[str, str],
    params: Mapping[str, str] | None = None,
) -> str:
    """Logs a folder in diffusers' layout as a model that a run made; returns the model's id."""
    e = store.entities
    with reaching():
        logged = store.client.create_logged_model(
            store.experiment,
            name=name,
            source_run_id=run_id,
            tags=dict(tags),
            params=dict(params or {}),
            model_type="diffusers",
        )
        store.client.log_model_artifacts(logged.model_id, str(folder))
        store.client.finalize_logged_model(logged.model_id, "READY")
        store.client.log_outputs(run_id, [e.LoggedModelOutput(logged.model_id, 0)])
    return str(logged.model_id)


def log_weights(store: Store, run_id: str, outs: list[str]) -> None:
    """Logs the weights in a stage's outs as models, once for a run; a policy that isn't trained has none."""
    run = store.run(run_id)
    for out in outs:
        path = Path(out)
        if MODEL not in run.data.tags and out.startswith("models/") and any(path.rglob("*.safetensors")):
            tags = {"policy" if path.parent.name == "policies" else "reward": path.name}
            model_id = log_model(store, run_id, path.name, path, tags, run.data.params)
            store.set_tags(run_id, {MODEL: model_id})


def log_data(store: Store, run_id: str, stage: str) -> None:
    """Shows the comparisons as the data set of a stage's run, where it learns from them or is measured on them."""
    use, data = USES.get(stage.partition("@")[0]), comparisons()
    if use is None or data is None:
        return
    e = store.entities
    kept = e.Dataset(
        name=data.name,
        digest=data.digest,
        source_type="local",
        source=json.dumps({"path": data.path}),
        profile=json.dumps(dict(data.profile)),
    )
    with reaching():
        store.client.log_inputs(run_id, datasets=[e.DatasetInput(kept, [e.InputTag("mlflow.data.context", use)])])


def log_results(
    store: Store, run_id: str, model_id: str | None, metrics: Mapping[str, float], data: DataSet | None
) -> None:
    """Logs figures of a model on its run, and links them to the model and its data set."""
    e, now = store.entities, int(time.time() * 1000)
    about = {"model_id": model_id} if model_id else {}
    if model_id and data:
        about |= {"dataset_name": data.name, "dataset_digest": data.digest}
    with reaching():
        store.client.log_batch(
            run_id, metrics=[e.Metric(key, value, now, 0, **about) for key, value in metrics.items()]
        )


@contextmanager
def as_default(address: str) -> Iterator[None]:
    """Names MLflow's address in the environment for a while: its registry looks a model's files up there."""
    before = os.environ.get(ADDRESS)
    os.environ[ADDRESS] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[ADDRESS]
        else:
            os.environ[ADDRESS] = before


def set_alias(store: Store, name: str, alias: str, version: Any, tags: Mapping[str, str]) -> str | None:
    """Moves an alias to a version, updates the version's tags, and returns the version that had the alias before."""
    with reaching():
        before = store.client.search_registered_models(f"name = '{name}'")[0].aliases.get(alias)
        for key, value in tags.items():
            store.client.set_model_version_tag(name, version.version, key, value)
        store.client.set_registered_model_alias(name, alias, version.version)
    return None if before is None else str(before)
